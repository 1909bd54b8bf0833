"""Words aligned by hand: which letters of a word stand for which phonemes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WORDS = Path(__file__).parent / "words.txt"
SILENT = "-"


@dataclass(frozen=True)
class Group:
    """Neighbouring letters of a word and the phonemes, without stress, that they stand for; none if silent."""

    letters: str
    phonemes: tuple[str, ...]


@dataclass(frozen=True)
class Aligned:
    """A word in groups: `phone` is ph: F, o: OW, n: N and a silent e."""

    word: str
    groups: tuple[Group, ...]

    @property
    def phonemes(self) -> tuple[str, ...]:
        """The word's phonemes without stress, in order."""
        return tuple(phoneme for group in self.groups for phoneme in group.phonemes)

    @property
    def truth(self) -> tuple[range, ...]:
        """The places of the letters that stand for each phoneme."""
        return tuple(places for places, group in self._placed() for _ in group.phonemes)

    @property
    def silent(self) -> frozenset[int]:
        """The places of the letters that stand for no phoneme."""
        return frozenset(place for places, group in self._placed() if not group.phonemes for place in places)

    def _placed(self) -> Iterator[tuple[range, Group]]:
        start = 0
        for group in self.groups:
            yield range(start, start + len(group.letters)), group
            start += len(group.letters)

    def __str__(self) -> str:
        return " ".join(f"{group.letters}:{'+'.join(group.phonemes) or SILENT}" for group in self.groups)


def read_words(path: Path = WORDS) -> tuple[Aligned, ...]:
    """Read a file of lines such as `phone ph:F o:OW n:N e:-`; # begins a remark.

    Raises ValueError for a line whose groups are not the word's letters, and for a word given twice.
    """
    found: dict[str, Aligned] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        word, *groups = line.split() or ["#"]
        if word.startswith("#"):
            continue
        aligned = Aligned(word, tuple(map(_group, groups)))
        if "".join(group.letters for group in aligned.groups) != word or not aligned.phonemes:
            raise ValueError(f"{path.name}, line {number}: {line!r}; its groups are to be {word!r} with phonemes")
        if word in found:
            raise ValueError(f"{path.name}, line {number}: {word!r} is given twice; give each word once")
        found[word] = aligned
    return tuple(found.values())


def _group(text: str) -> Group:
    letters, colon, phonemes = text.partition(":")
    if not (letters and colon and phonemes):
        raise ValueError(f"group: {text!r}; write letters, a colon and their phonemes, such as ph:F, x:K+S or e:-")
    return Group(letters, () if phonemes == SILENT else tuple(phonemes.split("+")))
