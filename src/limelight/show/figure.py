"""Maps as a matplotlib figure, for papers."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..base.files import write_whole
from ..base.notes import Place
from ..base.view import View
from .colour import Scale, colourise, values_of
from .fonts import spelled
from .image import TILE_OPACITY, Tile, overlay
from .layouts import LAYOUT
from .words import Mark, Words, baseline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..base.attribution import Attribution, Panel

_SIDE, _GAP = 3.0, 0.5  # inches: a map's longer side where no width is given, and the gap between cells
_FONT_SIZE = 10.0  # points
_SMALL, _LEADING = 0.83, 1.3  # of captions: their size as a share of titles, and the distance of lines in sizes
_POINTS, _CENTIMETRES = 72.0, 2.54  # an inch
_STEPS = 256  # of the colour bar
# Text stays text, which can be searched and edited; nothing in a file changes from run to run.
_VECTORS: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "limelight"}
_UNDATED = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


@dataclass(frozen=True)
class _Type:
    """The sizes of text, in points, and the lengths that follow from them, in inches."""

    size: float

    @property
    def small(self) -> float:
        return _SMALL * self.size

    @property
    def title_line(self) -> float:
        return _LEADING * self.size / _POINTS

    @property
    def line(self) -> float:
        return _LEADING * self.small / _POINTS

    @property
    def bar(self) -> float:
        """The height of a colour bar."""
        return self.size / _POINTS

    @property
    def bar_room(self) -> float:
        """From the map to the caption: a gap, the bar, its numbers."""
        return 0.5 * self.bar + self.bar + 2 * self.line


def draw_figure(
    panel: Panel | Attribution | Image.Image,
    tiles: Sequence[Tile] = (),
    heading: str = "",
    columns: int | None = None,
    *,
    example: Place = 0,
    width_cm: float | None = None,
    font_size: float = _FONT_SIZE,
    maps_only: bool = False,
    ax: Axes | Sequence[Axes] | None = None,
    view: View | str | None = None,
) -> Figure:
    """Draw the picture, then each map with its title, colour bar and caption, in rows of `columns` cells.

    Colours, scales, numbers and captions are those of `draw_panel`. Saved as `.pdf` or `.svg`, text stays text.

    Args:
        panel: maps of `explain`; or the picture that `tiles` belong to.
        tiles: with a picture, its maps; of a panel they are made.
        heading: a line above all. None is written by default.
        columns: cells in a row; by default 4, or as many as there are.
        example: the example of a panel's batch that is drawn.
        width_cm: the width of the figure in centimetres. Default: 3 inches for a map and half an inch for a gap.
        font_size: the size of titles in points; captions and numbers have 0.83 of it.
        maps_only: leave out the picture and the captions; titles and colour bars stay.
        ax: draw into axes of yours: one for each map, or one more, the first, for the picture. Their figure is returned
            and keeps its size, and each caption is the label of its axes' x; `heading`, `columns` and `width_cm` do not
            apply.
        view: how a panel's maps are read and drawn; None is each method's own, see `View`.

    Raises ImportError without the extra `plot`, ValueError for other settings.

        figure = draw_figure(panel, width_cm=8.5, columns=3, font_size=7)
        figure.savefig("maps.pdf")
    """
    if isinstance(panel, Image.Image):
        picture = panel
    elif tiles:
        raise ValueError("tiles: a panel makes its own; give them with a picture")
    else:
        picture, tiles = _first(panel)._picture(example, view), panel.tiles(example, view)
    _require(columns, width_cm, font_size)
    try:
        from matplotlib.axes import Axes
    except ImportError as error:
        raise ImportError(f"a figure needs the extra 'plot': pip install 'limelight[plot]' ({error})") from error
    kind = _Type(font_size)
    if ax is None:
        return _laid_out(picture, tiles, heading, columns, width_cm, kind, maps_only)
    axes = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
    return _drawn_into(axes, picture, tiles, kind, maps_only)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as `.pdf`, `.svg` or `.png`, equal figures as equal files; a failure leaves what was there."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], metadata=_UNDATED.get(path.suffix, {}))
    write_whole(path, buffer.getvalue())
    return path


def _first(panel: Panel | Attribution) -> Attribution:
    from ..base.attribution import Panel

    return panel[0] if isinstance(panel, Panel) else panel


def _require(columns: int | None, width_cm: float | None, font_size: float) -> None:
    if columns is not None and columns < 1:
        raise ValueError(f"columns: {columns!r}; a figure needs at least 1")
    if width_cm is not None and not 0 < width_cm < 1000:
        raise ValueError(f"width_cm: {width_cm!r}; give a width in centimetres, such as 8.5 for a column of a paper")
    if not 0 < font_size < 1000:
        raise ValueError(f"font_size: {font_size!r}; give points, such as 8")


def _laid_out(
    picture: Image.Image,
    tiles: Sequence[Tile],
    heading: str,
    columns: int | None,
    width_cm: float | None,
    kind: _Type,
    maps_only: bool,
) -> Figure:
    count = len(tiles) + (not maps_only)
    if not count:
        raise ValueError("tiles: none, and maps_only=True leaves out the picture; there is nothing to draw")
    across = min(columns or 4, count)
    width = across * (_SIDE + _GAP) + _GAP if width_cm is None else width_cm / _CENTIMETRES
    gap = min(_GAP, 0.15 * width / (across + 1))
    side = (width - (across + 1) * gap) / across
    drawn: list[Tile | None] = [*([] if maps_only else [None]), *tiles]
    sizes = [_size_of(picture, tile) for tile in drawn]
    inches = side / max(max(size) for size in sizes)
    titles = [_wrapped(("(!) " if tile.warning else "") + tile.title, kind.size, side) for tile in tiles]
    captions = [[] if maps_only else _wrapped_lines(_caption(tile), kind.small, side) for tile in tiles]
    if not maps_only:
        titles, captions = [[_input(picture)], *titles], [[], *captions]
    rows = [range(start, min(start + across, count)) for start in range(0, count, across)]
    above = [max(len(titles[k]) for k in row) * kind.title_line + 0.3 * kind.title_line for row in rows]
    below = [kind.bar_room + max(len(captions[k]) for k in row) * kind.line for row in rows]
    head = len(heading_lines := _wrapped(heading, 1.2 * kind.size, width - 2 * gap)) * 1.2 * kind.title_line
    highest = [inches * max(sizes[k][1] for k in row) for row in rows]
    height = gap + head + sum(a + h + b for a, h, b in zip(above, highest, below, strict=True)) + gap * len(rows)
    figure = _figure(width, height)
    top = height - gap - head
    for row, over, under, most in zip(rows, above, below, highest, strict=True):
        for column, k in enumerate(row):
            wide, high = (inches * each for each in sizes[k])
            left, bottom = gap + column * (side + gap), top - over - high
            axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
            axes.set_axis_off()
            axes.set_title("\n".join(titles[k]), loc="left", fontsize=kind.size, parse_math=False)
            if k == 0 and not maps_only:
                _draw_picture(axes, picture, wide)
                continue
            _draw_map(axes, picture, tiles[k - (not maps_only)], wide, high, kind)
            _write_caption(axes, captions[k], high, kind)
        top -= over + most + under + gap
    if heading_lines:
        text = "\n".join(heading_lines)
        style: dict[str, Any] = {"va": "top", "fontsize": 1.2 * kind.size, "parse_math": False}
        figure.text(gap / width, 1 - 0.5 * gap / height, text, **style)
    return figure


def _drawn_into(
    axes: Sequence[Axes], picture: Image.Image, tiles: Sequence[Tile], kind: _Type, maps_only: bool
) -> Figure:
    with_picture = len(axes) == len(tiles) + 1 and not maps_only
    if len(axes) != len(tiles) + with_picture or not tiles:
        also = "" if maps_only else f", or {len(tiles) + 1} with the picture first"
        raise ValueError(f"ax: {len(axes)} axes for {len(tiles)} maps; give {len(tiles)}{also}")
    if with_picture:
        _draw_picture(axes[0], picture, axes[0].get_window_extent().width / axes[0].figure.dpi)
        axes[0].set_title(_input(picture), loc="left", fontsize=kind.size, parse_math=False)
        _hide_ticks(axes[0])
    for each, tile in zip(axes[with_picture:], tiles, strict=True):
        box = each.get_window_extent()
        side, high = (length / each.figure.dpi for length in (box.width, box.height))
        title = "\n".join(_wrapped(("(!) " if tile.warning else "") + tile.title, kind.size, side))
        each.set_title(title, loc="left", fontsize=kind.size, parse_math=False)
        _draw_map(each, picture, tile, side, high, kind)
        _hide_ticks(each)
        if not maps_only:
            text = "\n".join(_wrapped_lines(_caption(tile), kind.small, side))
            pad = kind.bar_room * _POINTS
            each.set_xlabel(text, loc="left", labelpad=pad, fontsize=kind.small, parse_math=False)
    own: Any = axes[0].get_figure()
    figure: Figure = own
    return figure


def _hide_ticks(axes: Axes) -> None:
    """Leave out ticks and frame; unlike axes that are off, these keep their label."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _figure(width: float, height: float) -> Figure:
    """Return a figure whose text stays text in vector files; pyplot would keep it in memory."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    class PaperFigure(Figure):
        def savefig(self, fname: Any, **options: Any) -> None:
            with rc_context(_VECTORS):
                super().savefig(fname, **options)

    return PaperFigure((width, height))


def _caption(tile: Tile) -> tuple[str, ...]:
    return tile.caption if tile.scale.empty else (tile.scale.clip_note, *tile.caption)


def _draw_map(axes: Axes, picture: Image.Image, tile: Tile, wide: float, high: float, kind: _Type) -> None:
    """Draw a map of so many inches, with its bar below."""
    layout = picture.info.get(LAYOUT)
    if isinstance(layout, Words):
        _draw_marks(axes, *layout.marks(values_of(tile.heatmap), tile.scale, TILE_OPACITY), wide)
    else:
        axes.imshow(np.asarray(overlay(picture, tile.heatmap, tile.scale, TILE_OPACITY)))
    if not tile.scale.empty:
        _draw_bar(axes.inset_axes((0, -1.5 * kind.bar / high, 1, kind.bar / high)), tile.scale, kind, wide)


def _draw_picture(axes: Axes, picture: Image.Image, wide: float) -> None:
    layout = picture.info.get(LAYOUT)
    if isinstance(layout, Words):
        _draw_marks(axes, *layout.plain_marks(), wide)
    else:
        axes.imshow(np.asarray(picture.convert("RGB")))


def _draw_marks(axes: Axes, marks: Sequence[Mark], size: tuple[int, int], wide: float) -> None:
    """Draw boxes and their letters, as text, over so many inches; `size` in pixels of the drawing."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import Rectangle

    points = wide * _POINTS / size[0]  # of a pixel
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="equal")
    for mark in marks:
        ink = tuple(part / 255 for part in mark.ink)
        if mark.fill is not None:
            fill = tuple(part / 255 for part in mark.fill)
            box = Rectangle((mark.left, mark.top), mark.width, mark.height, facecolor=fill, linewidth=0)
            axes.add_patch(box)
        left, base = mark.left, mark.top + baseline(mark)
        if mark.turned:
            left, base = mark.left + mark.width / 2 + 0.36 * mark.size, mark.top + mark.height
        for font, run in spelled(mark.letters, mark.size):
            if run.strip():
                path = getattr(font, "path", None)
                style: dict[str, Any] = {"va": "baseline", "parse_math": False, "rotation": 90 if mark.turned else 0}
                style["rotation_mode"] = "anchor"
                style["fontproperties"] = FontProperties(fname=path if isinstance(path, str) else None, size=1)
                axes.text(left, base, run, color=ink, **style).set_fontsize(points * mark.size)
            step = font.getlength(run)
            left, base = (left, base - step) if mark.turned else (left + step, base)


def _input(picture: Image.Image) -> str:
    return "text" if isinstance(picture.info.get(LAYOUT), Words) else "picture"


def _size_of(picture: Image.Image, tile: Tile | None) -> tuple[int, int]:
    """Return the size of a drawing; the table of a text's targets has one of its own."""
    layout = picture.info.get(LAYOUT)
    if tile is None or not isinstance(layout, Words):
        return picture.size
    return layout.marks(values_of(tile.heatmap), tile.scale, TILE_OPACITY)[1]


def _write_caption(axes: Axes, lines: Sequence[str], high: float, kind: _Type) -> None:
    style: dict[str, Any] = {"va": "top", "fontsize": kind.small, "linespacing": _LEADING, "parse_math": False}
    axes.text(0, -kind.bar_room / high, "\n".join(lines), transform=axes.transAxes, **style)


def _draw_bar(bar: Axes, scale: Scale, kind: _Type, width: float) -> None:
    """Draw the colours from the low end to v over `width` inches, with the numbers of `Scale.ticks`.

    Where all do not fit, the zero in the middle is left out, and then the numbers are as much smaller as they must be.
    """
    low = -scale.limit if scale.signed else 0.0
    ramp = torch.linspace(low, scale.limit, _STEPS, dtype=torch.float64)
    bar.imshow(colourise(ramp[None], scale), aspect="auto", extent=(low, scale.limit, 0, 1))
    places, ticks = np.linspace(low, scale.limit, len(scale.ticks)), list(scale.ticks)
    longest = max(_length(each, kind.small) for each in ticks)
    if 2.5 * longest > width and len(ticks) == 3:  # the longest stands at both ends
        places, ticks = places[::2], ticks[::2]
    size = kind.small * min(1.0, width / (2.2 * longest))
    bar.set_yticks([])
    bar.set_xticks(places, ticks, fontsize=size)
    bar.tick_params(length=0.3 * kind.small, pad=0.2 * kind.small, width=0.5)
    for spine in bar.spines.values():
        spine.set_linewidth(0.5)
    bar.get_xticklabels()[0].set_horizontalalignment("left")
    bar.get_xticklabels()[-1].set_horizontalalignment("right")


def _wrapped_lines(lines: Iterable[str], size: float, width: float) -> list[str]:
    return [part for line in lines for part in _wrapped(line, size, width)]


def _wrapped(text: str, size: float, width: float) -> list[str]:
    """Break text of `size` points into lines of at most `width` inches: at spaces, and longer words anywhere."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if _length(longer, size) <= width:
            line = longer
            continue
        lines += [line] if line else []
        line = word
        while _length(line, size) > width and len(line) > 1:
            cut = max((k for k in range(1, len(line)) if _length(line[:k], size) <= width), default=1)
            lines, line = [*lines, line[:cut]], line[cut:]
    return [*lines, line] if line else lines


def _length(text: str, size: float) -> float:
    """Return the width of text in inches, in the font that matplotlib draws with."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width: float = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0]
    return width / _POINTS
