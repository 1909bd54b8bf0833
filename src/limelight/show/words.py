"""The layout of a text: its letters on the colours of their pieces; of several targets a table of colours."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from ..base.text import Text
from .colour import Floats, Scale
from .fonts import spelled
from .layouts import FAINT, INK, Layout, painted, with_layout
from .placement import LINE, PAD, SIZE, SMALL, WIDTH, Segment, length, placed, shortened_to

STRONGEST = 8  # rows of the table below a text
_CELL, _ROW = 24, 22  # pixels of a cell of the table of several targets
_LABEL = 110  # the most room of its rows' and columns' names
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
# The grey of the paper, which `painted` makes pale below diverging colours and dark below the others.
_PALE, _DARK = 255, 32


@dataclass(frozen=True)
class Mark:
    """A filled box of a drawing, in pixels, and the letters that begin at its left.

    `turned`: from the bottom up. `from_right`: the first letter stands at the right.
    """

    left: float
    top: float
    width: float
    height: float
    fill: tuple[int, ...] | None = None
    letters: str = ""
    size: int = SIZE
    ink: tuple[int, ...] = INK
    turned: bool = False
    from_right: bool = False


@dataclass(frozen=True)
class Words(Layout):
    """A text whose pieces are the columns of a map: one row, or one for each of `targets`, the tokens predicted."""

    text: Text
    targets: tuple[int, ...] = ()
    kind: ClassVar[str] = "text"

    @property
    def shape(self) -> tuple[int, int]:
        return max(1, len(self.targets)), max(1, len(self.text.pieces))

    @property
    def fewest_rows(self) -> int:
        return 1

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The letters of the text in order, each with its piece; the labels of tokens without letters are small."""
        string, end, found = self.text.string, 0, []
        for place, piece in enumerate(self.text.pieces):
            if piece.start > end:
                found.append(Segment(_lines(string, end, piece.start)))
            letters = _lines(string, max(piece.start, end), piece.end)
            # A line's end has no width that a colour could be seen on.
            shown = letters if letters.strip() or "\n" not in letters else letters.replace("\n", "↵\n")
            found.append(Segment(shown, place) if letters else Segment(one_line(piece.label), place, small=True))
            end = max(end, piece.end)
        return (*found, Segment(_lines(string, end, len(string)))) if end < len(string) else tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        """The label of each piece, on one line."""
        return tuple(one_line(each.label) for each in self.text.pieces)

    def predicted(self, target: int) -> str:
        """Name a token: its letters, or where others have a part of them, which of the parts it is."""
        for piece in self.text.pieces:
            if target in piece.tokens:
                count = len(piece.tokens)
                part = f" ({piece.tokens.index(target) + 1} of {count})" if count > 1 else ""
                return one_line(piece.label) + part
        raise ValueError(f"target: {target}; the text has {len(self.text)} tokens")

    def drawn(self, picture: Image.Image, values: Floats, scale: Scale, opacity: float) -> Image.Image:
        return with_layout(drawing(*self.marks(values, scale, opacity)), self)

    def plain(self) -> Image.Image:
        """Draw the text alone."""
        return with_layout(drawing(*self.plain_marks()), self)

    def plain_marks(self) -> tuple[list[Mark], tuple[int, int]]:
        """Return the boxes of the text alone, and the drawing's size."""
        return self._highlighted(None, INK)

    def marks(self, values: Floats, scale: Scale, opacity: float) -> tuple[list[Mark], tuple[int, int]]:
        """Return the boxes of a map's drawing, the first of them its paper, and the drawing's size."""
        fills = on_paper(values, scale, opacity)
        paper = on_paper(np.zeros((1, 1)), scale, opacity)[0, 0]
        found, size = (
            self._highlighted(fills[0], ink_on(paper)) if len(fills) == 1 else self._table(fills, ink_on(paper))
        )
        return [Mark(0, 0, *size, fill=tuple(map(int, paper))), *found], size

    def _highlighted(self, fills: NDArray[np.uint8] | None, ink: tuple[int, ...]) -> tuple[list[Mark], tuple[int, int]]:
        boxes, lines = placed(self.segments)
        found = []
        for box in boxes:
            fill = None if fills is None or box.piece < 0 else tuple(map(int, fills[box.piece]))
            over = FAINT if box.small and fill is None else ink if fill is None else ink_on(fill)
            top = PAD + box.line * LINE
            place = (PAD + box.left, top + 2, box.width, LINE - 4)
            size = SMALL if box.small else SIZE
            found.append(Mark(*place, fill, box.letters, size, over, from_right=box.from_right))
        return found, (WIDTH + 2 * PAD, lines * LINE + 2 * PAD)

    def _table(self, fills: NDArray[np.uint8], ink: tuple[int, ...]) -> tuple[list[Mark], tuple[int, int]]:
        """Return bands of as many columns as the width has room for: names of columns, then a row for each target."""
        rows = [shortened_to(self.predicted(each), _LABEL - 8, SMALL) for each in self.targets]
        names = [shortened_to(each, _LABEL - 8, SMALL) for each in self.names]
        aside, above = (math.ceil(max(length(each, SMALL) for each in group)) + 8 for group in (rows, names))
        across = (WIDTH - aside) // _CELL
        band = above + _ROW * len(rows) + PAD
        found = []
        for column, name in enumerate(names):
            top = PAD + column // across * band
            left = PAD + aside + column % across * _CELL
            found.append(Mark(left, top, _CELL, above - 4, None, name, SMALL, ink, turned=True))
            for row, label in enumerate(rows):
                under = top + above + row * _ROW
                fill = tuple(map(int, fills[row, column]))
                found.append(Mark(left, under, _CELL - 1, _ROW - 1, fill))
                if column % across == 0:
                    start = PAD + aside - 8 - length(label, SMALL)
                    found.append(Mark(start, under, 0, _ROW - 1, None, label, SMALL, ink))
        return found, (WIDTH + 2 * PAD, math.ceil(len(names) / across) * band + PAD)

    def payload(self) -> dict[str, Any]:
        pieces = {token: place for place, piece in enumerate(self.text.pieces) for token in piece.tokens}
        return {
            "kind": self.kind,
            "segments": [[each.letters, each.piece, each.small] for each in self.segments],
            "names": list(self.names),
            "targets": [[pieces[each], self.predicted(each)] for each in self.targets],
            "paper": {"pale": _PALE, "dark": _DARK},
            "most": STRONGEST,
        }


def on_paper(values: Floats, scale: Scale, opacity: float) -> NDArray[np.uint8]:
    """Return the colours `(rows, columns, 3)` of values: those of a picture of paper."""
    paper = Image.new("L", (values.shape[1], values.shape[0]), _PALE if scale.signed else _DARK)
    return np.asarray(painted(paper, values, scale, opacity))


def by_pieces(values: Tensor, text: Text) -> Tensor:
    r"""Return a map `(..., channels, tokens)` for the pieces of its text, `(2, ..., pieces)`, in float64.

    The first of the two is $\sum \max(a, 0)$ over the channels of a piece's tokens, the second $\sum \min(a, 0)$; every
    reading of the map follows from them as from two channels. Tokens beyond the text's are padding and left out.
    Raises ValueError for a map of fewer tokens than the text has.
    """
    if values.shape[-1] < len(text):
        raise ValueError(f"texts: a text of {len(text)} tokens and a map of {values.shape[-1]}; one value a token")
    given = values[..., : len(text)].double()
    tokens = torch.stack([given.clamp(min=0).sum(-2), given.clamp(max=0).sum(-2)])
    if not text.pieces:
        return tokens.new_zeros(*tokens.shape[:-1], 1)
    return torch.stack([tokens[..., list(each.tokens)].sum(-1) for each in text.pieces], -1)


def shares(values: Floats) -> Floats:
    r"""Return $|A| / \sum |A|$ over the finite values of a row; NaN where that is no number."""
    size = np.abs(values)
    whole = size[np.isfinite(size)].sum()
    return np.where(np.isfinite(size), size / whole, np.nan) if whole > 0 else np.full_like(size, np.nan)


def strongest(values: Floats, most: int = STRONGEST) -> list[int]:
    """Return the places of the largest |A| of a row, the largest first, without zeros and NaN."""
    size = np.nan_to_num(np.abs(values), nan=0.0)
    return [int(each) for each in np.argsort(-size, kind="stable")[:most] if size[each] > 0]


def ink_on(fill: Sequence[int] | NDArray[np.uint8]) -> tuple[int, ...]:
    """Return black or white, whichever has the larger contrast with a colour: at least 4.58 (WCAG 2)."""
    parts = np.asarray(fill, dtype=np.float64) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    light = float(linear @ (0.2126, 0.7152, 0.0722)) + 0.05
    return _BLACK if light / 0.05 > 1.05 / light else _WHITE


def drawing(marks: Sequence[Mark], size: tuple[int, int]) -> Image.Image:
    """Draw boxes and their letters on white."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for mark in marks:
        if mark.fill is not None:
            box = (mark.left, mark.top, mark.left + mark.width - 1, mark.top + mark.height - 1)
            left, top, right, bottom = map(round, box)
            # A mark that is set on another letter has no width of its own.
            draw.rectangle((left, top, max(left, right), max(top, bottom)), fill=mark.fill)
        if mark.turned:
            _turned(image, mark)
        else:
            _write(draw, mark.left, mark.top + baseline(mark), mark)
    return image


def baseline(mark: Mark) -> float:
    """Return how far below the top of its box a mark's letters stand."""
    return mark.height / 2 + 0.36 * mark.size


def _write(draw: ImageDraw.ImageDraw, left: float, base: float, mark: Mark) -> None:
    for font, run in spelled(mark.letters[::-1] if mark.from_right else mark.letters, mark.size):
        draw.text((left, base), run, mark.ink, font, anchor="ls")
        left += font.getlength(run)


def _turned(image: Image.Image, mark: Mark) -> None:
    upright = Image.new("L", (round(mark.height), round(mark.width)))
    base = mark.width / 2 + 0.36 * mark.size
    _write(ImageDraw.Draw(upright), 0, base, Mark(0, 0, 0, 0, None, mark.letters, mark.size, (255,)))
    ink = Image.new("RGB", upright.size[::-1], mark.ink)
    image.paste(ink, (round(mark.left), round(mark.top)), upright.transpose(Image.Transpose.ROTATE_90))


def one_line(letters: str) -> str:
    """Write the characters of a piece on one line, without the spaces around them."""
    inner = " ".join(letters.split())
    return inner or "".join({"\n": "↵", "\t": "⇥"}.get(each, "␣") for each in letters.replace("\r", "\n")) or "␣"


def _lines(string: str, start: int, end: int) -> str:
    """Return a part of a string with every line's end, whole or its second half, as one newline."""
    return re.sub("\r(?!\n)", "\n", string[start:end] + string[end : end + 1])[: end - start].replace("\r", "")
