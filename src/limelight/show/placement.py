"""Where the letters of a text stand: lines, wrapped between words, of boxes of one piece each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from .fonts import width_of

SIZE, SMALL = 15, 11  # pixels of letters
LINE, WIDTH, PAD = 26, 460, 8  # pixels from line to line, of the longest line, and around the text
_TAB = 4  # spaces

_PARTS = re.compile(r"\n|[^\S\n]|\S+")


@dataclass(frozen=True)
class Segment:
    """Letters of a text that belong to a piece, by its number; -1 for none. `small`: a label that is no letters."""

    letters: str
    piece: int = -1
    small: bool = False


@dataclass(frozen=True)
class Box:
    """Letters of one piece on one line, in pixels from the line's start, in the order in which they are read."""

    piece: int
    line: int
    left: float
    width: float
    letters: str
    small: bool = False
    from_right: bool = False


@dataclass(frozen=True)
class _Letter:
    letter: str
    piece: int
    small: bool

    @property
    def width(self) -> float:
        return width_of(self.letter, SMALL if self.small else SIZE)


def placed(segments: Sequence[Segment], width: float = WIDTH) -> tuple[list[Box], int]:
    """Return the boxes of a text in the order of its letters, and the number of lines.

    Lines break where the text's do, else between words; a word longer than a line breaks anywhere. Runs of letters that
    are read from the right stand so.
    """
    lines: list[list[_Letter]] = [[]]
    room = width
    for word in _words(segments):
        if word[0].letter == "\n":
            lines.append([])
            room = width
            continue
        long = sum(each.width for each in word)
        blank = word[0].letter == " " and not word[0].small
        if long > room and lines[-1] and (blank or long <= width):
            lines.append([])
            room = width
        if long > room and blank:
            continue
        for each in word:
            if each.width > room and lines[-1]:
                lines.append([])
                room = width
            lines[-1].append(each)
            room -= each.width
    return [box for number, line in enumerate(lines) for box in _boxes(line, number)], len(lines)


def length(letters: str, size: int) -> float:
    """Return the width of letters in pixels."""
    return sum(width_of(each, size) for each in letters)


def shortened_to(letters: str, width: float, size: int) -> str:
    """Return letters that fit `width` pixels, cut with an ellipsis."""
    if length(letters, size) <= width:
        return letters
    while letters and length(letters + "…", size) > width:
        letters = letters[:-1]
    return letters + "…"


def _words(segments: Sequence[Segment]) -> Iterator[list[_Letter]]:
    """Yield words across segments, spaces and line ends one by one, and each label as a word with room around it."""
    for small, group in groupby(segments, key=lambda each: each.small):
        if small:
            for each in group:
                yield [_Letter(letter, each.piece, True) for letter in f" {each.letters} "]
            continue
        letters = [
            _Letter(letter, each.piece, False)
            for each in group
            for letter in unicodedata.normalize("NFC", each.letters.replace("\t", " " * _TAB))
        ]
        whole = "".join(each.letter for each in letters)
        for found in _PARTS.finditer(whole):
            part = letters[found.start() : found.end()]
            yield [replace(each, letter=" ") for each in part] if found[0].isspace() and found[0] != "\n" else part


def _boxes(line: Sequence[_Letter], number: int) -> Iterator[Box]:
    found, left = [], 0.0
    for (piece, small), group in groupby(line, key=lambda each: (each.piece, each.small)):
        letters = list(group)
        width = sum(each.width for each in letters)
        found.append(Box(piece, number, left, width, "".join(each.letter for each in letters), small))
        left += width
    yield from _from_the_right(found)


def _from_the_right(boxes: Sequence[Box]) -> Iterator[Box]:
    """Mirror runs of boxes whose letters are read from the right, with the spaces and signs between such boxes."""
    from_right = [_reads_from_right(each) for each in boxes]
    place = 0
    while place < len(boxes):
        if not from_right[place]:
            yield boxes[place]
            place += 1
            continue
        end = place + 1
        for k in range(place + 1, len(boxes)):
            if from_right[k]:
                end = k + 1
            elif from_right[k] is False:
                break
        run = boxes[place:end]
        edges = run[0].left + run[-1].left + run[-1].width
        for each, right in zip(run, from_right[place:end], strict=True):
            yield replace(each, left=edges - each.left - each.width, from_right=bool(right))
        place = end


def _reads_from_right(box: Box) -> bool | None:
    """Return whether the first letter with a direction is read from the right; None where no letter has one."""
    kinds = (unicodedata.bidirectional(each) for each in box.letters)
    return next((kind in ("R", "AL") for kind in kinds if kind in ("L", "R", "AL")), None)
