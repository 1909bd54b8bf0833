"""Players of texts: tokens, words, sentences."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.text import Text
from .players import Division, Players, divided, kept


class OfTexts(Players):
    """Base of players that a text decides. Special tokens such as `[CLS]` belong to no player and always stay."""

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        raise ValueError(
            f"players: {self!r} are of texts, and the inputs of shape {tuple(x.shape)} are none; explain a TextModel's "
            "text, or use Pixels() for each position"
        )

    def count(self, features: torch.Size) -> None:
        return None

    def divide(self, x: Tensor, examples: Tensor, texts: Sequence[Text] = ()) -> Division:
        if not texts:
            self.labels(x, examples)
        length = x.shape[-1]
        found = [[*self.of(text), *[-1] * (length - len(text))] for text in texts]
        return divided(torch.tensor(found, device=x.device)[:, None], kept(texts, length, x.device)[:, None])

    @abstractmethod
    def of(self, text: Text) -> Sequence[int]:
        """Return the number of the player of each of a text's tokens."""


@dataclass(frozen=True)
class Tokens(OfTexts):
    """Each token of a text is a player."""

    def of(self, text: Text) -> Sequence[int]:
        return range(len(text))


@dataclass(frozen=True)
class Words(OfTexts):
    """Each word of a text is a player, with all its tokens. Signs such as a comma are words of their own."""

    def of(self, text: Text) -> Sequence[int]:
        return text.words


@dataclass(frozen=True)
class Sentences(OfTexts):
    """Each sentence of a text is a player. A sentence ends after `.`, `!` or `?` before a space, or with its line."""

    def of(self, text: Text) -> Sequence[int]:
        return text.sentences
