"""PIL images of maps: overlays, tiles with colour bar and caption, panels of tiles, trust cards."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..base.files import write_whole
from ..base.view import View
from ..evaluation.card import Section
from .colour import Scale, colourise, remarks, scale_of, values_of
from .layouts import LAYOUT, Layout, drawable, painted
from .subject import (
    is_picture as is_picture,
    picture_of as picture_of,
    picture_of_bands as picture_of_bands,
    size_of as size_of,
)

# Sizes in pixels.
CELL = 300
TILE_OPACITY = 0.85  # high, so that the strongest colours look as in the colour bar
_GAP = 28
_BAR, _BAR_HEIGHT = 14, 110  # width, and the least height that keeps the numbers apart
_BAR_ROOM = 102  # the bar, its numbers and the space before it
_TITLE, _TEXT, _SMALL, _HEADING = 17, 14, 12, 24
_INK, _FAINT, _AMBER = (28, 28, 32), (100, 102, 110), (214, 125, 0)
_GOOD, _BAD = (20, 120, 60), (190, 40, 30)
_MARKS = {"pass": _GOOD, "above": _GOOD, "FAIL": _BAD, "NOT ABOVE": _AMBER}
_CARD_COLUMNS = (0, 110, 340, 520)  # mark, name, figure, words
_CARD_WIDTH = 1100


@dataclass(frozen=True)
class Tile:
    """A map to draw: `title`, caption `lines`, `heatmap` `(H, W)` as it is drawn.

    `signed`: a colour scale around zero; None if any value is negative. `warning`: marks a map with cautions.
    `sections`: its trust card. `view`: the view that made the heatmap; None for one that is drawn as it is given.
    `values` `(channels, *space)`: the map before the view, from which the viewer makes others. `total`: their sum, to
    which every signed view adds up, where the method promises one. `sampled`: lines tell of its noise. `channels`: of a
    map of a text's pieces the channels of its tokens, of which `values` `(2, *targets, pieces)` has the sums of the
    positive and of the negative parts; else 0.
    `verdict` and `sections`: its trust card in one line and whole. `settings`: of its method, by name.
    """

    title: str
    lines: tuple[str, ...]
    heatmap: Tensor
    signed: bool | None = None
    warning: bool = False
    sections: tuple[Section, ...] = ()
    view: View | None = None
    values: Tensor | None = None
    total: float | None = None
    sampled: bool = False
    verdict: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    channels: int = 0

    @property
    def scale(self) -> Scale:
        if self.view is None:
            return scale_of(self.heatmap, self.signed)
        return scale_of(self.heatmap, self.signed, self.view.percentile, self.view.colours)

    @property
    def how(self) -> str:
        """Name the view: how the map is read, smoothed and clipped, and for signed values their total."""
        if self.view is None or self.values is None:
            return ""
        channels, *space = self.values.shape if self.values.ndim > 1 else (1, *self.values.shape)
        percentile = self.view.percentile
        end = "colours end at " + ("the largest value" if percentile == 100 else f"percentile {percentile:g}")
        total = f"total {self.total:.3g}" if self.view.is_linear and self.total is not None else ""
        if self.channels:
            read = self.view.words((1,), self.channels)
        else:
            read = self.view.words(tuple(space), 1 if len(space) == 1 else channels)
        return "; ".join(filter(None, (read, end, total)))

    @property
    def caption(self) -> tuple[str, ...]:
        """The remarks of `colour.remarks`, the view, then the lines."""
        how = (self.how,) if self.how else ()
        return (*remarks(self.heatmap, self.scale), *how, *self.lines)


def overlay(picture: Image.Image, heatmap: Tensor, scale: Scale, opacity: float = 0.6) -> Image.Image:
    r"""Draw the heatmap `(H, W)` in colour over the greyed picture of the same size.

    Volumes, series and columns draw it by their layout. The opacity of a pixel is `opacity` $\cdot \min(|A| / v, 1)$;
    undefined pixels (NaN) are an even grey.
    """
    require_size_of(picture, heatmap)
    layout: Layout | None = picture.info.get(LAYOUT)
    if layout is not None:
        return layout.drawn(picture, values_of(heatmap), scale, opacity)
    return painted(picture, values_of(heatmap), scale, opacity)


def require_size_of(picture: Image.Image, heatmap: Tensor, title: str = "") -> None:
    """Raise ValueError for a heatmap `(H, W)` that isn't as large as its picture."""
    height, width = heatmap.shape
    layout: Layout | None = picture.info.get(LAYOUT)
    wanted = (picture.height, picture.width) if layout is None else layout.shape
    if (height, width) not in (wanted, (layout.fewest_rows if layout else wanted[0], wanted[1])):
        raise ValueError(
            f"heatmap: {f'{title!r} ' * bool(title)}is {height}x{width} (height x width), its picture "
            f"{wanted[0]}x{wanted[1]}; resize one to the other, or show the map alone"
        )


def colour_bar(scale: Scale, height: int) -> Image.Image:
    """Draw the colours with their numbers and the clipped share, at least `height` pixels high; text if empty."""
    height = max(height, _BAR_HEIGHT)
    image = Image.new("RGB", (_BAR_ROOM, height), "white")
    draw = ImageDraw.Draw(image)
    left = 14
    if scale.empty:
        words = "no finite value" if np.isnan(scale.limit) else "all zero"
        _write(draw, (left, 0), _wrapped(words, _SMALL, _BAR_ROOM - left), _SMALL, _FAINT)
        return image
    ramp = scale.limit * torch.linspace(1, -1 if scale.signed else 0, height, dtype=torch.float64)
    strip = Image.fromarray(colourise(ramp.expand(_BAR, -1).T, scale))
    image.paste(strip, (left, 0))
    draw.rectangle((left, 0, left + _BAR - 1, height - 1), outline=(190, 190, 196))
    font = ImageFont.load_default(_SMALL)
    for tick, share in zip(reversed(scale.ticks), np.linspace(0, 1, len(scale.ticks)), strict=True):
        top = share * (height - 1)
        anchor = "la" if share == 0 else "ld" if share == 1 else "lm"
        draw.text((left + _BAR + 5, top), tick, fill=_INK, font=font, anchor=anchor)
    _write(draw, (left + _BAR + 5, 16), scale.clip_note.split(), _SMALL - 1, _FAINT)
    return image


def draw_tile(picture: Image.Image, tile: Tile) -> Image.Image:
    """Draw the map over its picture, a colour bar beside it, its title and caption below."""
    scale = tile.scale
    shown = fit(overlay(picture, tile.heatmap, scale, TILE_OPACITY), CELL)
    if scale.empty:
        _stamp(shown, remarks(tile.heatmap, scale)[0])
    return captioned(shown, tile.title, tile.caption, colour_bar(scale, shown.height), tile.warning)


def draw_panel(
    picture: Image.Image, tiles: Sequence[Tile], heading: str, footer: str = "", columns: int | None = None
) -> Image.Image:
    """Draw the picture, then each tile, in rows of `columns` cells on white; None: up to 4, with the fewest gaps."""
    if columns is not None and columns < 1:
        raise ValueError(f"columns: {columns!r}; a panel needs at least 1")
    cells = [picture_cell(picture), *(draw_tile(picture, tile) for tile in tiles)]
    if columns is None:
        columns = len(cells) if len(cells) <= 4 else min((4, 3), key=lambda count: -len(cells) % count)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return laid_out(rows, columns, heading, footer)


def draw_grid(picture: Image.Image, rows: Sequence[Sequence[Tile]], heading: str, footer: str = "") -> Image.Image:
    """Draw tiles in the given rows, with the picture before the first row and an empty cell before the others."""
    first = picture_cell(picture)
    blank = Image.new("RGB", (first.width, 1), "white")
    cells = [[first if not k else blank, *(draw_tile(picture, tile) for tile in row)] for k, row in enumerate(rows)]
    return laid_out(cells, max(map(len, cells)), heading, footer)


def draw_card(panel: Image.Image, heading: str, headline: str, sections: Sequence[Section]) -> Image.Image:
    """Draw the heading, one sentence and the sections below the panel."""
    width = max(panel.width, _CARD_WIDTH)
    room = width - 2 * _GAP
    blocks: list[tuple[int, list[tuple[int, list[str], tuple[int, int, int]]]]] = []
    widths = [*(end - start - 8 for start, end in pairwise(_CARD_COLUMNS)), room - _CARD_COLUMNS[-1]]
    for section in sections:
        title = _wrapped(section.title, _TEXT + 2, room)
        blocks.append((_height(title, _TEXT + 2) + 8, [(0, title, _INK)]))
        for entry in section.entries:
            columns = [_wrapped(text, _TEXT, width) for text, width in zip(entry.cells, widths, strict=True)]
            colours = (_MARKS.get(entry.mark, _FAINT), _INK, _INK, _FAINT)
            height = max(_height(each, _TEXT) for each in columns) + 3
            blocks.append((height, list(zip(_CARD_COLUMNS, columns, colours, strict=True))))
    top = panel.height + _GAP // 2
    above = _wrapped(heading, _HEADING, room)
    below = _wrapped(headline, _TEXT + 2, room)
    start = top + _height(above, _HEADING) + _height(below, _TEXT + 2) + 12
    card = Image.new("RGB", (width, start + sum(height for height, _ in blocks) + 8 * len(sections) + _GAP), "white")
    card.paste(panel, (0, 0))
    draw = ImageDraw.Draw(card)
    _write(draw, (_GAP, top), above, _HEADING)
    _write(draw, (_GAP, top + _height(above, _HEADING) + 4), below, _TEXT + 2)
    y = start
    for height, cells in blocks:
        single = len(cells) == 1
        y += 8 if single else 0
        for x, lines, colour in cells:
            _write(draw, (_GAP + x, y), lines, _TEXT + 2 if single else _TEXT, colour)
        y += height
    return card


def picture_cell(picture: Image.Image) -> Image.Image:
    title = "input" if LAYOUT in picture.info else "picture"
    return captioned(fit(picture.convert("RGB"), CELL), title, (size_of(picture),))


def laid_out(rows: Sequence[Sequence[Image.Image]], columns: int, heading: str, footer: str) -> Image.Image:
    cell_width = max(cell.width for row in rows for cell in row)
    width = columns * (cell_width + _GAP) + _GAP
    above = _wrapped(heading, _HEADING, width - 2 * _GAP)
    below = _wrapped(footer, _TEXT, width - 2 * _GAP)
    top = _GAP + (_height(above, _HEADING) + _GAP // 2 if above else 0)
    heights = [max(cell.height for cell in row) + _GAP for row in rows]
    total = top + sum(heights) + (_height(below, _TEXT) + _GAP if below else 0)

    panel = Image.new("RGB", (width, total), "white")
    draw = ImageDraw.Draw(panel)
    _write(draw, (_GAP, _GAP - 4), above, _HEADING)
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            panel.paste(cell, (_GAP + column * (cell_width + _GAP), top))
        top += height
    _write(draw, (_GAP, top), below, _TEXT, _FAINT)
    return panel


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Resize the picture so that its longer side has `side` pixels or a little less.

    Small pictures are enlarged by a whole factor, so that each pixel is a square. Large ones are averaged without
    ringing, which would add colours.
    """
    if LAYOUT in picture.info:
        return picture  # drawn in the size in which its words can be read
    ratio = side / max(picture.size)
    if ratio >= 2:
        return picture.resize((picture.width * int(ratio), picture.height * int(ratio)), Image.Resampling.NEAREST)
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    return picture.resize(size, Image.Resampling.HAMMING)


def save_png(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG; a failure leaves whatever `path` held before."""
    write_whole(path, png_bytes(image))


def png_source(image: Image.Image) -> str:
    """Write the picture as a data URI, for a page that loads nothing."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def captioned(
    shown: Image.Image, title: str, lines: Iterable[str], bar: Image.Image | None = None, warning: bool = False
) -> Image.Image:
    width = max(shown.width, 200) + _BAR_ROOM
    indent = 22 if warning else 0
    titles = _wrapped(title, _TITLE, width - indent)
    captions = [part for line in lines for part in _wrapped(line, _TEXT, width)]
    below = max(shown.height, _BAR_HEIGHT) + 12
    under = below + _height(titles, _TITLE) + 4
    cell = Image.new("RGB", (width, under + _height(captions, _TEXT)), "white")
    draw = ImageDraw.Draw(cell)
    cell.paste(shown, (0, 0))
    if bar:
        cell.paste(bar, (shown.width, 0))
    if warning:
        draw.polygon([(0, below + 16), (8, below + 1), (16, below + 16)], fill=_AMBER)
        font = ImageFont.load_default(_SMALL)
        draw.text((8, below + 10), "!", fill="white", font=font, anchor="mm", stroke_width=0.4)
    _write(draw, (indent, below), titles, _TITLE)
    _write(draw, (0, under), captions, _TEXT, _FAINT)
    return cell


def _stamp(image: Image.Image, words: str) -> None:
    """Write text across the middle of an image, on a white box."""
    lines = _wrapped(words, _TEXT, max(image.width - 16, 40))
    font, height = ImageFont.load_default(_TEXT), _height(lines, _TEXT)
    width = max(font.getlength(line) for line in lines)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    if top < 5:  # no room; the bar and the caption have the same text
        return
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((left - 8, top - 5, left + width + 8, top + height + 3), 5, fill="white")
    _write(draw, (left, top), lines, _TEXT)


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    lines: Iterable[str],
    size: int,
    fill: tuple[int, int, int] = _INK,
) -> None:
    font = ImageFont.load_default(size)
    for number, line in enumerate(lines):
        draw.text((corner[0], corner[1] + number * _height([line], size)), line, fill=fill, font=font)


def _height(lines: Sequence[str], size: int) -> int:
    return len(lines) * round(1.35 * size)


def _wrapped(text: str, size: int, width: float) -> list[str]:
    """Break text into lines of at most `width` pixels, at spaces; long words after `. _ / -`, else anywhere."""
    font = ImageFont.load_default(size)
    lines: list[str] = []
    line = ""
    for word in drawable(text).split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if font.getlength(word) <= width:
            lines.append(line)
            line = word
            continue
        line += " " if line else ""
        for letter in word:
            if line and font.getlength(line + letter) > width:
                cut = max(map(line.rfind, "._/-")) + 1 or len(line)
                lines.append(line[:cut].rstrip())
                line = line[cut:]
            line += letter
    return [*lines, line] if line else lines
