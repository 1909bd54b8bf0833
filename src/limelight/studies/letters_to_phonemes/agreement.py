"""Which letter answers for each phoneme, and how often that is a letter of the alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...evaluation.evaluate import LEVEL, RESAMPLES
from .words import Aligned

Answers = tuple[int, ...]
"""For each phoneme of a word the place of a letter."""


@dataclass(frozen=True)
class Miss:
    """A phoneme of a word for which `letter` answered, which is not one of the `group` that stands for it."""

    word: str
    phoneme: str
    group: str
    letter: str
    place: int
    silent: bool
    distance: int
    """How many places `letter` is from the nearest letter of the group."""


@dataclass(frozen=True)
class Hits:
    """The right answers of a method or control: `right` and `phonemes` have a number for each word.

    `right` may be an expectation, as for a letter that is drawn uniformly. The interval is the bootstrap's over words.
    """

    name: str
    right: tuple[float, ...]
    phonemes: tuple[int, ...]
    misses: tuple[Miss, ...] = ()

    @property
    def share(self) -> float:
        """The share of all phonemes whose answer is right."""
        return sum(self.right) / sum(self.phonemes)

    def interval(self, seed: int) -> tuple[float, float]:
        return _interval(np.array(self.right), self.phonemes, seed)

    def above(self, other: Hits, seed: int) -> tuple[float, float, float]:
        """Return by how much the share is above another's on the same words, with the interval."""
        more = np.array(self.right) - np.array(other.right)
        return self.share - other.share, *_interval(more, self.phonemes, seed)


def judged(name: str, words: Sequence[Aligned], answers: Sequence[Answers]) -> Hits:
    """Compare each word's answers with its alignment."""
    right, misses = [], []
    for word, given in zip(words, answers, strict=True):
        hits = 0
        for phoneme, places, place in zip(word.phonemes, word.truth, given, strict=True):
            if place in places:
                hits += 1
                continue
            letters = word.word[places.start : places.stop]
            distance = places.start - place if place < places.start else place - places.stop + 1
            misses.append(Miss(word.word, phoneme, letters, word.word[place], place, place in word.silent, distance))
        right.append(float(hits))
    return Hits(name, tuple(right), _phonemes(words), tuple(misses))


SAME, SCALED, CENTRED, RANDOM, UNIFORM = (
    "same position",
    "scaled position",
    "scaled position, centred",
    "random letter",
    "uniform, expected",
)
_POSITIONS: dict[str, Callable[[int, int, int], int]] = {
    SAME: lambda k, letters, phonemes: k,
    SCALED: lambda k, letters, phonemes: round(k * letters / phonemes),
    CENTRED: lambda k, letters, phonemes: int((k + 0.5) * letters / phonemes),
}
CONTROLS = (SAME, SCALED, CENTRED, RANDOM, UNIFORM)


def controls(words: Sequence[Aligned], seed: int) -> list[Hits]:
    """Return the hits of what knows nothing of the network, by CONTROLS.

    For phoneme k of K (from 0) in a word of L letters: letter k; letter k L / K, rounded; letter (k + 1/2) L / K,
    rounded down; a letter drawn with the seed; and the expectation of that draw, the group's share of the letters.
    """
    found = [
        judged(name, words, [_by_position(word, position) for word in words]) for name, position in _POSITIONS.items()
    ]
    random = np.random.default_rng(seed)
    drawn = [tuple(random.integers(0, len(word.word), len(word.phonemes)).tolist()) for word in words]
    expected = tuple(sum(len(places) for places in word.truth) / len(word.word) for word in words)
    return [*found, judged(RANDOM, words, drawn), Hits(UNIFORM, expected, _phonemes(words))]


def _by_position(word: Aligned, position: Callable[[int, int, int], int]) -> Answers:
    letters, phonemes = len(word.word), len(word.phonemes)
    return tuple(min(position(k, letters, phonemes), letters - 1) for k in range(phonemes))


def _phonemes(words: Sequence[Aligned]) -> tuple[int, ...]:
    return tuple(len(word.phonemes) for word in words)


def _interval(right: NDArray[np.float64], phonemes: Sequence[int], seed: int) -> tuple[float, float]:
    """Return the percentile interval of sum(right) / sum(phonemes) where words are drawn anew."""
    drawn = np.random.default_rng(seed).integers(0, len(right), (RESAMPLES, len(right)))
    shares = right[drawn].sum(1) / np.array(phonemes)[drawn].sum(1)
    low, high = np.quantile(shares, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    return low, high
