"""Baselines of texts: what stands in the place of a token that is absent. All keep special tokens such as `[CLS]`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from ..base.named import require_whole
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


@dataclass(frozen=True)
class WrongWords(Baseline):
    """A random token of the same kind in the place of each: of those that begin a word, or of those that go on with
    one. Special tokens stay.

    A text of wrong words is nearer to the texts that a model knows than one of mask tokens alone. `samples`: texts that
    are drawn, whose mean a method takes; checks hide by the first. The kind of a token is that of the vocabulary's
    token whose embedding is nearest. The same (seed, text) gives the same words.

    Example: `limelight.check(model, "a text", "attn-lrp", "deletion(fill=wrong-words)", target=0)`.
    """

    samples: int = 1

    def __post_init__(self) -> None:
        require_whole(self, "samples", 1)

    def fitted(self, model: Any) -> Self:
        if not isinstance(model, TextModel):
            return self
        found = replace(self)
        object.__setattr__(found, "_vocabulary", _Vocabulary.of(model))  # no setting: files would hold it
        return found

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        vocabulary: _Vocabulary | None = getattr(self, "_vocabulary", None)
        if vocabulary is None or inputs.ndim != 3 or vocabulary.table.shape[1] != inputs.shape[1]:
            raise ValueError(
                f"baseline: {self!r} is of a text's tokens, and the inputs have shape {tuple(inputs.shape)}; explain a "
                "text by a TextModel, or use another baseline"
            )
        table = vocabulary.table.to(inputs)
        ids = torch.stack([_nearest(each.T, table) for each in inputs])
        begins = vocabulary.begins.to(ids.device)[ids]
        found = []
        for sample in range(self.samples):
            drawn = streams.uniform(f"wrong words {sample}", inputs.shape[2:], inputs)
            chosen = ids
            for kind, members in vocabulary.members.items():
                place = (drawn * len(members)).long().clamp(max=len(members) - 1)
                chosen = torch.where(begins == kind, members.to(ids.device)[place], chosen)
            found.append(table[chosen].transpose(1, 2))
        return torch.stack(found)


@dataclass(frozen=True, eq=False)
class _Vocabulary:
    """The embeddings `(tokens, width)` of a vocabulary, the kind of each token, -1 for special ones, and the tokens of
    each kind: 1 begins a word, 0 goes on with one."""

    table: Tensor
    begins: Tensor
    members: dict[int, Tensor]

    @staticmethod
    def of(model: TextModel) -> _Vocabulary:
        kinds = [-1 if each is None else int(each) for each in model.tokenizer.begins_word]
        begins = torch.tensor(kinds)
        members: dict[int, Tensor] = {kind: (begins == kind).nonzero()[:, 0] for kind in (0, 1) if kind in kinds}
        return _Vocabulary(model.vectors(), begins, members)


def _nearest(rows: Tensor, table: Tensor) -> Tensor:
    """Return the place in a table `(tokens, width)` of what is nearest to each row."""
    return (table.square().sum(1) - 2 * rows @ table.T).argmin(1)


def default_of_texts(model: TextModel) -> Baseline:
    """Return the mask token, else the padding token, else the mean one, whichever the model has."""
    mask = model.tokenizer.special("mask")
    if mask is not None:
        return Token(mask)
    return MeanToken() if model.tokenizer.special("pad") is None else Pad()
