"""Maps of texts, columns and series on a terminal: coloured where it has 24-bit colours, else as numbers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TextIO

import numpy as np
from PIL import Image
from rich.text import Text as Styled

from ..base.attribution import Attribution
from ..base.notes import Place
from ..base.view import View
from ..show.colour import Floats, percent, values_of
from ..show.image import TILE_OPACITY, Tile
from ..show.layouts import LAYOUT, Bars, Layout, Lines
from ..show.words import Words, ink_on, on_paper, shares, strongest
from .terminal import console, visible

_CELLS = 60  # of a line of a series
_BAR = 20  # characters of the longest bar


def print_map(
    attribution: Attribution, example: Place = 0, view: View | str | None = None, stream: TextIO | None = None
) -> None:
    """Print the map of one example, with its title and caption: a text on its colours, columns as bars, series as
    strips. Raises ValueError for pictures and volumes.

    A stream without 24-bit colours gets numbers in their place.
    """
    out = console(stream)
    picture = attribution._picture(example, view)
    for tile in attribution.tiles(example, view):
        out.print(Styled(visible(tile.title), style="bold"))
        for line in map_lines(picture, tile, out.color_system == "truecolor"):
            out.print(line)
        for words in tile.caption:
            out.print(Styled(visible(words), style="dim"))


def map_lines(picture: Image.Image, tile: Tile, coloured: bool) -> list[Styled]:
    """Return the lines of a tile's map; `coloured`: with background colours, else with numbers."""
    layout: Layout | None = picture.info.get(LAYOUT)
    values = values_of(tile.heatmap)
    match layout:
        case Words():
            return _text(layout, tile, values, coloured)
        case Bars():
            return _bars(layout, tile, values.ravel())
        case Lines():
            return _strips(layout, tile, np.broadcast_to(values, layout.shape), coloured)
    kind = "picture" if layout is None else layout.kind
    raise ValueError(f"inputs: the map of a {kind} has no lines of text; save it as .png or .html")


def _text(layout: Words, tile: Tile, values: Floats, coloured: bool) -> list[Styled]:
    fills = on_paper(values, tile.scale, TILE_OPACITY)
    lines: list[Styled] = []
    for row, line in enumerate(values):
        if len(values) > 1:
            lines.append(Styled(visible(f"predicts “{layout.predicted(layout.targets[row])}”"), style="dim"))
        lines += _spelled(layout, fills[row]) if coloured else _numbers(layout, line)
    return lines


def _spelled(layout: Words, fills: Floats) -> list[Styled]:
    text = Styled()
    for each in layout.segments:
        fill = None if each.piece < 0 else fills[each.piece]
        style = "" if fill is None else f"{_rgb(ink_on(fill))} on {_rgb(fill)}"
        # Line ends stay; tabs and all that a terminal would obey are written out.
        for part in each.letters.replace("\t", "    ").splitlines(keepends=True):
            text.append(visible(part.rstrip("\n")), style)
            text.append("\n" if part.endswith("\n") else "")
    return [text]


def _numbers(layout: Words, line: Floats) -> list[Styled]:
    """Return a line for each piece, in order, with its sign, and the strongest marked."""
    names, said, first = layout.names, shares(line), set(strongest(line))
    if not names:
        return [Styled("no tokens")]
    return [
        Styled(
            f"{_signed(line[place]):>10}  {'' if math.isnan(said[place]) else percent(said[place]):>6}  "
            f"{'*' if place in first else ' '} {visible(name)}"
        )
        for place, name in enumerate(names)
    ]


def _bars(layout: Bars, tile: Tile, values: Floats) -> list[Styled]:
    order = layout.order(values)
    width = min(max((len(layout.names[each]) for each in order), default=0), 40)
    lines = []
    for column in order:
        share = 0.0 if tile.scale.empty or math.isnan(values[column]) else abs(values[column]) / tile.scale.limit
        bar = "█" * round(_BAR * min(share, 1.0)) or "·"
        text = Styled(f"{visible(layout.names[column])[:width]:>{width}}  {_signed(values[column]):>10}  ")
        text.append(bar, "red" if values[column] > 0 else "blue")
        lines.append(text)
    left_out = len(values) - len(order)
    if left_out:
        rest = float(np.delete(values, order).sum())
        lines.append(Styled(f"{left_out} other columns, sum {rest:.3g}", style="dim"))
    return lines


def _strips(layout: Lines, tile: Tile, values: Floats, coloured: bool) -> list[Styled]:
    """Return a line for each channel: a strip whose cells have the strongest value of their steps, or its five
    strongest steps."""
    width = max((len(each) for each in layout.names), default=0)
    edges = np.arange(min(_CELLS, layout.steps) + 1) * layout.steps // min(_CELLS, layout.steps)
    lines = []
    for name, line in zip(layout.names, values, strict=True):
        text = Styled(f"{visible(name):>{width}}  ")
        if not coloured:
            said = [f"step {step + 1}: {_signed(line[step])}" for step in strongest(line, 5)]
            lines.append(text.append(", ".join(said) or "all zero"))
            continue
        parts = (line[start:end] for start, end in pairwise(edges))
        cells = np.array([[part[np.nan_to_num(abs(part), nan=np.inf).argmax()] for part in parts]])
        for fill in on_paper(cells, tile.scale, TILE_OPACITY)[0]:
            text.append(" ", f"on {_rgb(fill)}")
        lines.append(text)
    return lines


def _signed(value: float) -> str:
    return f"{value:+.3g}" if value else "0"


def _rgb(colour: Floats | tuple[int, ...]) -> str:
    return f"rgb({','.join(str(int(each)) for each in colour)})"
