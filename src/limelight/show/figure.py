"""Maps as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from .colour import Scale, colourise
from .image import TILE_OPACITY, Tile, overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In inches: a map's longer side, the gap between cells, and the heights of title, colour bar and caption line.
_SIDE, _GAP, _TITLE, _BAR, _LINE = 3.0, 0.5, 0.35, 0.45, 0.17
_STEPS = 256  # of the colour bar


def draw_figure(picture: Image.Image, tiles: Sequence[Tile], heading: str = "", columns: int = 4) -> Figure:
    """Draw the picture, then each tile with its colour bar, title and caption, in rows of `columns` cells.

    Colours, scales and numbers are the same as in `draw_panel`. Raises ImportError without the extra `plot`.
    """
    if columns < 1:
        raise ValueError(f"columns: {columns!r}; a figure needs at least 1")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"a figure needs the extra 'plot': pip install 'limelight[plot]' ({error})") from error
    across = min(columns, len(tiles) + 1)
    down = -(-(len(tiles) + 1) // across)
    lines = max((len(_caption(tile)) for tile in tiles), default=0)
    wide, high = (_SIDE * each / max(picture.size) for each in picture.size)
    cell_height = _TITLE + high + _BAR + _LINE * lines
    width, height = across * (_SIDE + _GAP) + _GAP, down * cell_height + _GAP
    figure = Figure((width, height))  # pyplot would keep the figure in memory

    def cell(place: int) -> Axes:
        row, column = divmod(place, across)
        left, bottom = _GAP + column * (_SIDE + _GAP), height - _GAP - row * cell_height - _TITLE - high
        axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
        axes.set_axis_off()
        return axes

    first = cell(0)
    first.imshow(np.asarray(picture.convert("RGB")))
    first.set_title("picture", loc="left", parse_math=False)
    for place, tile in enumerate(tiles, start=1):
        _draw_tile(cell(place), picture, tile, high)
    if heading:
        figure.text(_GAP / width, 1 - 0.2 / height, heading, va="center", fontsize="large", parse_math=False)
    return figure


def _caption(tile: Tile) -> tuple[str, ...]:
    return tile.caption if tile.scale.empty else (tile.scale.clip_note, *tile.caption)


def _draw_tile(cell: Axes, picture: Image.Image, tile: Tile, high: float) -> None:
    """Draw a tile into a cell `high` inches high, with its bar and caption below."""
    cell.imshow(np.asarray(overlay(picture, tile.heatmap, tile.scale, TILE_OPACITY)))
    cell.set_title(("(!) " if tile.warning else "") + tile.title, loc="left", parse_math=False)
    text = "\n".join(_caption(tile))
    cell.text(0, -_BAR / high, text, transform=cell.transAxes, va="top", fontsize="small", parse_math=False)
    if not tile.scale.empty:
        _draw_bar(cell.inset_axes((0, -0.22 / high, 1, 0.14 / high)), tile.scale)


def _draw_bar(bar: Axes, scale: Scale) -> None:
    """Draw the colours from the low end to v, with the numbers of `Scale.ticks`."""
    low = -scale.limit if scale.signed else 0.0
    ramp = torch.linspace(low, scale.limit, _STEPS, dtype=torch.float64)
    bar.imshow(colourise(ramp[None], scale), aspect="auto", extent=(low, scale.limit, 0, 1))
    bar.set_yticks([])
    bar.set_xticks(np.linspace(low, scale.limit, len(scale.ticks)), scale.ticks, fontsize="small")
