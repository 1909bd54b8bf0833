"""Drawings of what is no picture: planes of a volume, lines of a series, bars of columns.

A drawing is a PIL image that carries its layout, `image.info[LAYOUT]`, which says where its maps' values lie.
"""

from __future__ import annotations

import math
import unicodedata
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .colour import DIVERGING, Floats, Scale, colourise, strength

LAYOUT = "layout"  # in `info` of a drawing
INK, FAINT, LINE = (28, 28, 32), (100, 102, 110), (217, 218, 224)
SERIES_WIDTH = 360  # pixels of the longest line
MOST_BARS = 40
_TEXT = 13
_ROW = 22  # pixels from bar to bar
_NAMES, _BARS, _NUMBERS = 170, 190, 76  # widths of the parts of a row
BARS_WIDTH = _NAMES + _BARS + _NUMBERS

# Pillow's own font has ASCII and few other characters.
_PLAIN = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "×": "x", "→": "->", "Δ": "delta", "’": "'"}
    | {"“": '"', "”": '"', "↵": "\\n", "␣": "_"}
)
_BEYOND_ASCII = frozenset("±…·°")


class Layout(Protocol):
    """Where the values of a map `shape` `(rows, columns)` lie in a drawing."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]: ...

    @property
    def fewest_rows(self) -> int:
        """The rows of a map that is the same for all rows, where there may be one."""
        return self.shape[0]

    @abstractmethod
    def drawn(self, picture: Image.Image, values: Floats, scale: Scale, opacity: float) -> Image.Image:
        """Draw the map over the picture, or in its place."""

    @abstractmethod
    def payload(self) -> dict[str, Any]:
        """Return what the viewer needs to draw maps as `drawn` does."""


def painted(picture: Image.Image, values: Floats, scale: Scale, opacity: float) -> Image.Image:
    """Draw values for each pixel of a picture in colour over its grey."""
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None]
    # Diverging scales end in dark colours, which need a light background; inferno ends in a bright one.
    grey = 80 + 0.65 * grey if scale.signed else 0.8 * grey
    alpha = opacity * np.where(np.isnan(values), 1, strength(values, scale))[..., None]
    return Image.fromarray((grey + alpha * (_coloured(values, scale) - grey)).round().astype(np.uint8))


def _coloured(values: Floats, scale: Scale) -> NDArray[np.uint8]:
    import torch

    return colourise(torch.from_numpy(values), scale)


@dataclass(frozen=True)
class Planes(Layout):
    """Three planes of a volume of `size` (depth, height, width) through the voxel `at`, side by side.

    Their rows and columns are height and width, depth and width, depth and height. A map is its slices, one below the
    other: `(depth * height, width)`.
    """

    size: tuple[int, int, int]
    at: tuple[int, int, int]
    kind: ClassVar[str] = "volume"

    @property
    def shape(self) -> tuple[int, int]:
        depth, height, width = self.size
        return depth * height, width

    @property
    def zoom(self) -> int:
        """The pixels a side of a voxel: small volumes are enlarged."""
        _, height, width = self.size
        return max(1, 420 // (2 * width + height))

    def voxels(self) -> NDArray[np.int64]:
        """Return the index of the voxel at each pixel, -1 beside the planes."""
        depth, height, width = self.size
        z, y, x = self.at
        of = np.arange(depth * height * width).reshape(self.size)
        planes = [each.repeat(self.zoom, 0).repeat(self.zoom, 1) for each in (of[z], of[:, y], of[:, :, x])]
        found = np.full((max(map(len, planes)), sum(each.shape[1] + 4 for each in planes) - 4), -1)
        left = 0
        for plane in planes:
            found[: plane.shape[0], left : left + plane.shape[1]] = plane
            left += plane.shape[1] + 4
        return found

    def drawn(self, picture: Image.Image, values: Floats, scale: Scale, opacity: float) -> Image.Image:
        index = self.voxels()
        shown = np.asarray(painted(picture, np.where(index < 0, 0, values.ravel()[index]), scale, opacity)).copy()
        shown[index < 0] = 255
        return with_layout(Image.fromarray(shown), self)

    def payload(self) -> dict[str, Any]:
        return {"kind": self.kind, "size": list(self.size), "at": list(self.at), "zoom": self.zoom}


@dataclass(frozen=True)
class Lines(Layout):
    """A line for each channel of a series, one below the other, its map as a strip of colour behind it.

    A map has a row for each channel, or one for all. Each pixel shows the value of the largest size among the steps
    that it covers.
    """

    channels: int
    steps: int
    left: int
    width: int
    height: int
    names: tuple[str, ...]
    kind: ClassVar[str] = "series"

    @property
    def shape(self) -> tuple[int, int]:
        return self.channels, self.steps

    @property
    def fewest_rows(self) -> int:
        return 1

    def steps_at(self) -> NDArray[np.int64]:
        """Return the first step of each pixel of a line, and the end."""
        return np.arange(self.width + 1) * self.steps // self.width

    def drawn(self, picture: Image.Image, values: Floats, scale: Scale, opacity: float) -> Image.Image:
        values = np.broadcast_to(values, self.shape)
        seen = np.zeros((picture.height, picture.width))
        start = self.steps_at()
        for pixel in range(self.width):
            part = values[:, start[pixel] : max(start[pixel + 1], start[pixel] + 1)]
            strongest = np.nan_to_num(np.abs(part), nan=np.inf).argmax(1)
            seen[:, self.left + pixel] = part[np.arange(self.channels), strongest].repeat(self.height)
        return with_layout(painted(picture, seen, scale, opacity), self)

    def payload(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "left": self.left,
            "width": self.width,
            "height": self.height,
            "channels": self.channels,
            "names": list(self.names),
        }


@dataclass(frozen=True)
class Bars(Layout):
    """A bar for each column of a table, from zero to its value, beside its name; `sort`: the largest |A| first.

    Of more than 40 columns those of the largest |A| are drawn, and the sum of the others is written.
    """

    names: tuple[str, ...]
    inputs: tuple[float, ...]
    sort: bool = False
    kind: ClassVar[str] = "columns"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.names), 1

    def order(self, values: Floats) -> list[int]:
        """Return the columns that are drawn, in order."""
        size = np.nan_to_num(np.abs(values.ravel()), nan=-1.0)
        strongest = [int(each) for each in np.argsort(-size, kind="stable")[:MOST_BARS]]
        return strongest if self.sort else sorted(strongest)

    def drawn(self, picture: Image.Image, values: Floats, scale: Scale, opacity: float) -> Image.Image:
        order, flat = self.order(values), values.ravel()
        left_out = len(flat) - len(order)
        image = Image.new("RGB", (BARS_WIDTH, _ROW * (len(order) + bool(left_out)) + 4), "white")
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(_TEXT)
        lowest, highest = (
            (min(flat[order].min(), 0) < 0, flat[order].max() > 0) if np.isfinite(flat[order]).all() else (True, True)
        )
        zero = _NAMES + (_BARS if lowest and not highest else _BARS // 2 if lowest else 0)
        room = _BARS // 2 if lowest and highest else _BARS
        colours = _coloured(np.sign(values) * (0 if scale.empty else scale.limit * 0.8), _bar_scale(scale))[:, 0]
        for place, column in enumerate(order):
            top, value = _ROW * place + 2, float(flat[column])
            length = 0.0 if scale.empty or math.isnan(value) else float(np.clip(value / scale.limit, -1, 1)) * room
            box = sorted((zero, zero + length))
            draw.text((_NAMES - 8, top + _ROW / 2), shortened(self.names[column], _NAMES - 8), INK, font, anchor="rm")
            draw.rectangle((box[0], top + 3, box[1], top + _ROW - 3), fill=tuple(map(int, colours[column])))
            draw.text((_NAMES + _BARS + 8, top + _ROW / 2), f"{value:.3g}", INK, font, anchor="lm")
        draw.line((zero, 0, zero, _ROW * len(order) + 3), fill=FAINT)
        if left_out:
            rest = float(np.delete(flat, order).sum())
            text = f"{left_out} other columns, sum {rest:.3g}"
            draw.text((0, _ROW * (len(order) + 0.5) + 2), text, FAINT, font, anchor="lm")
        return with_layout(image, self)

    def payload(self) -> dict[str, Any]:
        inputs = [written(value) for value in self.inputs]
        return {"kind": self.kind, "names": list(self.names), "inputs": inputs, "sort": self.sort, "most": MOST_BARS}


def _bar_scale(scale: Scale) -> Scale:
    """The scale of bars: always around zero, so that a bar's colour is its sign's."""
    colours = scale.colours if scale.colours in DIVERGING else None
    return Scale(scale.limit, True, scale.clipped, scale.empty, colours)


def with_layout(image: Image.Image, layout: Layout) -> Image.Image:
    """Return the drawing with its layout."""
    image.info[LAYOUT] = layout
    return image


def written(value: float) -> str:
    """Return an input's number as it is drawn; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:.4g}"


def shortened(text: str, width: float) -> str:
    """Return text of at most `width` pixels in the drawings' font, cut with an ellipsis."""
    font, text = ImageFont.load_default(_TEXT), drawable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def line_layout(channels: int, steps: int, names: Sequence[str]) -> Lines:
    """Return the layout of a series: lines of 12 to 90 pixels' height, as wide as the steps or 360 pixels."""
    font = ImageFont.load_default(_TEXT)
    shown = tuple(shortened(each, 110) for each in names)
    left = math.ceil(max((font.getlength(each) for each in shown), default=0)) + 10 if names else 0
    zoom = max(1, SERIES_WIDTH // steps)
    width = steps * zoom if steps <= SERIES_WIDTH else SERIES_WIDTH
    return Lines(channels, steps, left, width, max(14, min(90, 300 // channels)), shown)


def drawable(text: str) -> str:
    """Replace letters that the font lacks: accents are dropped, other letters become question marks."""
    letters = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    bare = (letter for letter in letters if not unicodedata.combining(letter))
    return "".join(each if each.isspace() or " " <= each <= "~" or each in _BEYOND_ASCII else "?" for each in bare)
