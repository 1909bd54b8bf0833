"""Targets of language models: the token that follows a text, and a whole continuation of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from ..base.named import is_whole, require, require_whole
from ..models.text import TextModel
from .given import ByValue
from .targets import LogProbability, Target, output_tensor


@dataclass(frozen=True)
class NextToken(LogProbability):
    r"""The log-probability of the token that follows a text, $f = \log p(t \mid \text{text})$.

    `index`: the token as it reads in a text, such as `"Paris"`, or its number; None is the model's first. After a text
    that does not end in a space the token with a space before it is meant, where the vocabulary has it. For several
    tokens one after another see `Continuation`; to ask why one token and not another, `margin("Paris", other="Rome")`.

    Raises TypeError for a text model that predicts no tokens.

    Example: `limelight.explain(model, "The capital of France is", "attn-lrp", target=NextToken("Paris"))`.
    """

    def fitted(self, features: Sequence[int], model: Any = None) -> Self:
        if isinstance(model, TextModel):
            model.require_tokens()
        return self


@dataclass(frozen=True, eq=False)
class Continuation(ByValue, Target):
    r"""The log-probability of a continuation of a text, $f = \sum_k \log p(t_k \mid \text{text}, t_1, \dots, t_{k-1})$.

    `text`: what the model is made to go on with, one for all examples or one for each; None is what it goes on with by
    itself, token after token its first choice, up to `tokens` of them. A space is put between where the text does not
    end in one and the continuation starts with a letter or digit. The continuation's own tokens are explained too, as
    those after them read them. `each=True` explains every $\log p(t_k)$ by itself: maps have an axis of targets, their
    sum is the map of the whole, and a token that stands after the predicted one has exactly 0. `place` is one alone.

    Raises ValueError for a continuation without a token, for one whose first token would be one with the text's end,
    and for texts explained together whose continuations have different numbers of tokens.

    Example: `limelight.explain(model, "The capital of France is", "attn-lrp", target=Continuation("Paris."))`.
    """

    text: str | tuple[str, ...] | None = None
    tokens: int = 8
    each: bool = False
    place: int | None = None
    ids: Tensor | None = field(default=None, repr=False, kw_only=True)
    places: tuple[int, ...] | None = field(default=None, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.text, list):
            object.__setattr__(self, "text", tuple(self.text))
        require_whole(self, "tokens", 1)
        fits = self.place is None or (is_whole(self.place, 0) and not self.each)
        require(fits, self, "place", "the number of a token from 0, without each=True")

    @property
    def classes(self) -> int | None:
        return self.ids.shape[1] if self.each and self.ids is not None and self.places is None else None

    @property
    def per_example(self) -> int | None:
        if self.ids is not None:
            return len(self.ids)
        return len(self.text) if isinstance(self.text, tuple) else None

    def flat(self) -> Self:
        count = self.classes
        if count is None or self.ids is None:
            return self
        return replace(self, ids=self.ids.repeat_interleave(count, 0), places=tuple(range(count)) * len(self.ids))

    def select(self, index: Sequence[int]) -> Self:
        chosen = list(index)
        text = tuple(self.text[i] for i in chosen) if isinstance(self.text, tuple) else self.text
        places = None if self.places is None else tuple(self.places[i] for i in chosen)
        return replace(self, text=text, ids=None if self.ids is None else self.ids[chosen], places=places)

    def continuations(self, model: TextModel, texts: Sequence[str]) -> list[str]:
        """Return what each of the texts goes on with, with a space before it where one belongs."""
        if isinstance(self.text, tuple) and len(self.text) != len(texts):
            raise ValueError(f"target: {len(self.text)} continuations of {len(texts)} texts; give one, or one a text")
        found = []
        for i, text in enumerate(texts):
            given = self.text[i] if isinstance(self.text, tuple) else self.text
            if given is None:
                found.append(model.generate(text, self.tokens))
            else:
                apart = text[-1:].isspace() or not text or not given[:1].isalnum() or model.translates
                found.append(given if apart else f" {given}")
        return found

    def read(self, model: TextModel, texts: Sequence[str]) -> Self:
        """Return the target with the tokens of the continuations, as the model reads them."""
        found = tuple(self.continuations(model, texts))
        ids = [model.continued_by(text, more) for text, more in zip(texts, found, strict=True)]
        if len({len(each) for each in ids}) > 1:
            counts = ", ".join(str(len(each)) for each in ids)
            raise ValueError(f"target: continuations of {counts} tokens; explain texts with as many tokens together")
        longest = max(map(len, ids))
        if self.place is not None and self.place >= longest:
            raise ValueError(f"target: Continuation.place={self.place}; the continuation has {longest} tokens")
        return replace(self, text=found, ids=torch.tensor(ids))

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        logits = output_tensor(outputs)
        if self.ids is None:
            raise ValueError(
                "target: Continuation is of a text that a TextModel goes on with; give the text itself as inputs"
            )
        if logits.ndim == 2:
            logits = logits[:, None]
        ids = self.ids.to(logits.device)[examples]
        if logits.shape[:2] != ids.shape:
            raise ValueError(
                f"target: Continuation of {ids.shape[1]} tokens, and the model returns {tuple(logits.shape)}; its "
                "outputs are (rows, tokens, vocabulary)"
            )
        found = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
        if self.place is not None:
            return found[:, self.place]
        if self.places is None:
            return found.sum(1)
        return found.gather(1, torch.tensor(self.places, device=logits.device)[examples][:, None])[:, 0]
