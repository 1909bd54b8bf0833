"""A text as a model reads it: its tokens, and which characters each of them stands for."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Letters and digits with the marks, apostrophes and hyphens inside them, numbers whole; or a single sign.
_WORD = re.compile(r"\w(?:[\w'’\-\u0300-\u036f\u200d\ufe0f]|(?<=\d)[.,](?=\d))*|\S")


@dataclass(frozen=True)
class Piece:
    """Characters `start` to `end` of a text, and the tokens that stand for them together.

    Tokens that share a character, as the bytes of an emoji do, are one piece. A piece without characters is a token
    that stands for none, such as `[CLS]`: `label` is its name, and otherwise the characters.
    """

    start: int
    end: int
    tokens: tuple[int, ...]
    label: str


@dataclass(frozen=True)
class Text:
    """A text and its tokens, one entry of `tokens`, `offsets` and `special` for each.

    `tokens`: as the tokenizer writes them. `offsets`: the characters of `string` from the first to before the second.
    `special`: whether it is no part of the text, such as `[CLS]`: such tokens are no players, and baselines keep them.
    `continued`: how many of the last tokens continue the text that was given, as those that a target predicts do.
    """

    string: str
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    special: tuple[bool, ...]
    continued: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces in the order of the text; see `Piece`."""
        groups: list[tuple[int, int, list[int]]] = []
        for place, (start, end) in enumerate(self.offsets):
            if groups and start < groups[-1][1] and end > start:
                first, last, tokens = groups[-1]
                groups[-1] = (min(first, start), max(last, end), [*tokens, place])
            else:
                groups.append((start, end, [place]))
        return tuple(
            Piece(start, end, tuple(tokens), self.string[start:end] or self.tokens[tokens[0]])
            for start, end, tokens in groups
        )

    @property
    def words(self) -> tuple[int, ...]:
        """The number of each token's word; -1 for special tokens.

        A word is what stands between spaces, and a sign beside letters or digits is one of its own: "bake," has two.
        """
        return self._groups(_words(self.string))

    @property
    def sentences(self) -> tuple[int, ...]:
        """The number of each token's sentence; -1 for special tokens. A sentence ends after `.`, `!`, `?` and a space,
        after one of their full-width forms, or at the end of a line."""
        return self._groups(_sentences(self.string))

    def as_json(self) -> str:
        """Return all of it as JSON, from which `of_json` reads it."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def of_json(text: str) -> Text:
        """Read what `as_json` wrote."""
        read = json.loads(text)
        offsets = tuple((start, end) for start, end in read["offsets"])
        return Text(read["string"], tuple(read["tokens"]), offsets, tuple(read["special"]), read["continued"])

    def _groups(self, number: Sequence[int]) -> tuple[int, ...]:
        """Return for each token the number of its first character that is no space."""
        found = []
        for (start, end), special in zip(self.offsets, self.special, strict=True):
            inked = next((place for place in range(start, end) if not self.string[place].isspace()), start)
            # A token without characters, as one for a space alone, goes with what follows.
            inked = min(inked, len(self.string) - 1)
            found.append(-1 if special or inked < 0 else number[inked])
        return tuple(found)


class TextArguments(dict[str, Any]):
    """What a model gets by name beside the embeddings of texts' tokens, and the `texts` themselves."""

    def __init__(self, named: Mapping[str, Any], texts: tuple[Text, ...]) -> None:
        super().__init__(named)
        self.texts = texts


def _words(string: str) -> list[int]:
    """Return the number of each character's word; a space has that of the word after it."""
    ends = [found.end() for found in _WORD.finditer(string)]
    return [bisect_right(ends, place) for place in range(len(string))]


def _sentences(string: str) -> list[int]:
    found, sentence, ended = [], 0, False
    for place, letter in enumerate(string):
        if ended and not letter.isspace():
            sentence, ended = sentence + 1, False
        found.append(sentence)
        after = string[place + 1 : place + 2]
        ended = ended or letter in "\n。！？" or (letter in ".!?" and after.isspace())
    return found
