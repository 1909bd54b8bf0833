"""Baselines of texts: what stands in the place of a token that is absent. All keep special tokens such as `[CLS]`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from ..models.text import CUT, TextModel
from .baselines import Baseline
from .random_streams import Streams


@dataclass(frozen=True, eq=False)
class OfVocabulary(Baseline):
    """Base of baselines that a text model's vocabulary decides. `vector` `(width,)` is filled in by the library."""

    vector: Tensor | None = field(default=None, repr=False, kw_only=True)

    def fitted(self, model: Any) -> Self:
        return replace(self, vector=self.of(model)) if isinstance(model, TextModel) else self

    @abstractmethod
    def of(self, model: TextModel) -> Tensor:
        """Return the embedding `(width,)` that stands for absent tokens."""

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        if self.vector is None or inputs.ndim != 3 or len(self.vector) != inputs.shape[1]:
            raise ValueError(
                f"baseline: {self!r} is of a text's tokens, and the inputs have shape {tuple(inputs.shape)}; explain a "
                "text by a TextModel, or use another baseline"
            )
        return self.vector.to(inputs)[None, :, None].expand(inputs.shape)[None]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._settings() == other._settings()

    def __hash__(self) -> int:
        return hash((type(self), self._settings()))

    def _settings(self) -> tuple[Any, ...]:
        return tuple(value for name, value in vars(self).items() if name != "vector")


@dataclass(frozen=True, eq=False)
class Token(OfVocabulary):
    """A token of the vocabulary in the place of each, written as the tokenizer does, such as `"[MASK]"`.

    Most models saw texts of mask or padding tokens alone never: a path or a coalition of many of them may lie where the
    model's answers mean nothing. Raises ValueError for a token that the vocabulary lacks.
    """

    token: str = "[MASK]"

    def of(self, model: TextModel) -> Tensor:
        return model.vector(self.token)


@dataclass(frozen=True, eq=False)
class Pad(OfVocabulary):
    """The padding token in the place of each. It still takes part in attention; `Cut` removes tokens from it."""

    def of(self, model: TextModel) -> Tensor:
        pad = model.tokenizer.special("pad")
        if pad is None:
            raise ValueError(f"baseline: {model.name} has no padding token; use MeanToken() or Token(...)")
        return model.vector(pad)


@dataclass(frozen=True, eq=False)
class MeanToken(OfVocabulary):
    """The mean embedding of the vocabulary in the place of each token."""

    def of(self, model: TextModel) -> Tensor:
        return model.mean_vector()


@dataclass(frozen=True, eq=False)
class Cut(OfVocabulary):
    """An absent token is masked out of attention and of the pooling, and its place stays empty.

    For methods and checks that keep or remove tokens whole: games, occlusion, removal. It has no embedding that a path
    could start from. Raises ValueError for a model that takes no attention mask.
    """

    def of(self, model: TextModel) -> Tensor:
        if not model.takes_mask:
            raise ValueError(f"baseline: Cut(): {model.name} takes no attention_mask=; use Token(...) or MeanToken()")
        vector = model.mean_vector()
        return vector.new_full(vector.shape, CUT)


def default_of_texts(model: TextModel) -> Baseline:
    """Return the mask token, else the padding token, else the mean one, whichever the model has."""
    mask = model.tokenizer.special("mask")
    if mask is not None:
        return Token(mask)
    return MeanToken() if model.tokenizer.special("pad") is None else Pad()
