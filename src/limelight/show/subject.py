"""What is explained, as a PIL image: a picture, bands of one, planes of a volume, lines, columns, a text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..base.display import chosen_bands, display_range, on_display
from ..base.text import Text
from .colour import percent
from .layouts import BARS_WIDTH, FAINT, INK, LAYOUT, LINE, Bars, Planes, line_layout, shortened, with_layout, written
from .words import Words

_ABOUT = "limelight-about"  # in `info`: what of the inputs the picture shows, and how
_ROW, _TEXT = 22, 13


def is_picture(inputs: Tensor) -> bool:
    """Return whether `picture_of` can draw the inputs: `(1 or 3, H, W)`, not empty."""
    return inputs.ndim == 3 and inputs.shape[0] in (1, 3) and inputs.numel() > 0


def picture_of(inputs: Tensor, clip: bool | None = None, like: Tensor | None = None) -> Image.Image:
    """Draw inputs `(1 or 3, H, W)` in RGB as a display does, with black and white those of `like`: see `on_display`.

    `size_of` says which share of the pixels was clipped, and what is black and white where that is not 0 and 1.
    """
    if not is_picture(inputs):
        raise ValueError(f"inputs: have shape {tuple(inputs.shape)}; a picture is (1 or 3, H, W)")
    as_in = inputs if like is None else like
    pixels, clipped = on_display(inputs[None], as_in[None], clip)
    picture = Image.fromarray(pixels[0].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
    low, high = (float(each) for each in display_range(as_in[None], clip))
    if (low, high) != (0.0, 1.0):
        _noted(picture, f"{low:.3g} to {high:.3g} scaled to black to white")
    return _noted(picture, f"{percent(float(clipped[0]))} clipped" if clipped[0] else "")


def picture_of_bands(
    inputs: Tensor, bands: Sequence[int | str] | None = None, names: Sequence[str] = (), clip: bool | None = None
) -> Image.Image:
    """Draw inputs `(n, H, W)` as `picture_of` does: of other than three bands the first three, of two the first.

    `bands`: three or one to show instead, by numbers from 1 or by `names`. `size_of` says which are shown. Raises
    ValueError for a band that the inputs don't have.
    """
    count = inputs.shape[0]
    if inputs.ndim != 3 or (count in (1, 3) and bands is None):
        return picture_of(inputs, clip)
    chosen = [_band(each, count, names) for each in bands] if bands else [*range(chosen_bands(inputs[None]).shape[1])]
    picture = picture_of(inputs[chosen], clip)
    called = [names[each] if names else str(each + 1) for each in chosen]
    words = f"bands {', '.join(called[:-1])} and {called[-1]}" if len(called) > 1 else f"band {called[0]}"
    return _noted(picture, f"{words} of {count}")


def _band(band: int | str, count: int, names: Sequence[str]) -> int:
    if isinstance(band, str) and band in names:
        return names.index(band)
    if isinstance(band, int) and 1 <= band <= count:
        return band - 1
    raise ValueError(f"bands: {band!r}; the inputs have {', '.join(names) or f'bands 1 to {count}'}")


def size_of(picture: Image.Image, times: str = "x") -> str:
    """Describe a picture: its size, which part of the inputs is shown, and what was clipped."""
    about = picture.info.get(_ABOUT, ())
    size = [] if LAYOUT in picture.info else [f"{picture.width} {times} {picture.height} pixels"]
    return ", ".join([*size, *about])


def _noted(picture: Image.Image, words: str) -> Image.Image:
    """Add words to what `size_of` says."""
    if words:
        picture.info[_ABOUT] = (*picture.info.get(_ABOUT, ()), words)
    return picture


def drawing_of(
    inputs: Tensor,
    strongest: int = 0,
    names: Sequence[str] = (),
    bands: Sequence[int | str] | None = None,
    sort: bool = False,
    clip: bool | None = None,
) -> Image.Image:
    """Draw the inputs of one example: columns `(features)`, series `(channels, time)`, pictures `(channels, H, W)`, and
    volumes `(channels, D, H, W)` through the voxel with the index `strongest`.

    `names`: of the columns, channels or bands; `bands` and `clip` as in `picture_of_bands` and `picture_of`. Raises
    ValueError for other shapes.
    """
    if inputs.numel() == 0 or not 1 <= inputs.ndim <= 4:
        raise ValueError(
            f"inputs: have shape {tuple(inputs.shape)}; columns (features), series (channels, time), pictures "
            "(channels, H, W) and volumes (channels, D, H, W) are drawn"
        )
    match inputs.ndim:
        case 1:
            called = list(names) or [f"column {place + 1}" for place in range(len(inputs))]
            return _columns(inputs.detach().cpu().double().tolist(), called, sort, "columns")
        case 2:
            return _lines(inputs, names)
        case 3:
            return picture_of_bands(inputs, bands, names, clip)
    return _planes(inputs, strongest, names, bands)


def _planes(inputs: Tensor, strongest: int, names: Sequence[str], bands: Sequence[int | str] | None) -> Image.Image:
    _, depth, height, width = inputs.shape
    at = np.unravel_index(strongest, (depth, height, width))
    layout = Planes((depth, height, width), (int(at[0]), int(at[1]), int(at[2])))
    index = torch.from_numpy(layout.voxels())
    slices = _slices(inputs, names, bands)
    flat = np.asarray(slices).reshape(-1, 3)
    pixels = np.where(index[..., None] < 0, 255, flat[index.clamp(min=0)]).astype(np.uint8)
    picture = with_layout(Image.fromarray(pixels), layout)
    picture.info[SLICES] = slices
    _noted(picture, f"{depth} x {height} x {width} voxels, planes through ({', '.join(map(str, layout.at))})")
    for words in slices.info.get(_ABOUT, ()):
        _noted(picture, words)
    return picture


SLICES = "limelight-slices"  # in `info` of a volume's picture: all slices, one below the other


def _slices(inputs: Tensor, names: Sequence[str], bands: Sequence[int | str] | None) -> Image.Image:
    """Return the slices of a volume `(channels, D, H, W)`, one below the other, scaled as a whole."""
    channels, depth, height, width = inputs.shape
    return picture_of_bands(inputs.reshape(channels, depth * height, width), bands, names)


def _lines(inputs: Tensor, names: Sequence[str]) -> Image.Image:
    channels, steps = inputs.shape
    called = list(names) or [str(place + 1) for place in range(channels)]
    layout = line_layout(channels, steps, called)
    image = Image.new("RGB", (layout.left + layout.width, channels * layout.height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_TEXT)
    values = inputs.detach().cpu().double().numpy()
    for place, line in enumerate(values):
        top = place * layout.height
        finite = line[np.isfinite(line)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        x = layout.left + (np.arange(steps) + 0.5) * layout.width / steps
        y = top + 3 + (layout.height - 7) * (1 - (line - low) / (high - low if high > low else 1))
        draw.text((0, top + layout.height / 2), layout.names[place], INK, font, anchor="lm")
        for part in np.split(np.arange(steps), np.flatnonzero(~np.isfinite(line))):
            points = [(float(x[k]), float(y[k])) for k in part if np.isfinite(line[k])]
            if len(points) == 1:
                points = [(points[0][0] - 1, points[0][1]), (points[0][0] + 1, points[0][1])]
            if points:
                draw.line(points, INK)
        if place:
            draw.line((layout.left, top, image.width, top), LINE)
    return _noted(with_layout(image, layout), f"{channels} x {steps} steps" if channels > 1 else f"{steps} steps")


def units_drawing(count: int, sort: bool = False) -> Image.Image:
    """Draw the names of a layer's units, whose map has a bar for each."""
    return _columns([math.nan] * count, [f"unit {place + 1}" for place in range(count)], sort, "units")


def _columns(values: Sequence[float], called: Sequence[str], sort: bool, what: str) -> Image.Image:
    layout = Bars(tuple(called), tuple(values), sort)
    shown = list(zip(called, values, strict=True))[:40]
    image = Image.new("RGB", (BARS_WIDTH, _ROW * (len(shown) + (len(values) > len(shown))) + 4), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_TEXT)
    for place, (name, value) in enumerate(shown):
        middle = _ROW * (place + 0.5) + 2
        draw.text((162, middle), shortened(name, 162), INK, font, anchor="rm")
        draw.text((176, middle), written(value), INK, font, anchor="lm")
    if len(values) > len(shown):
        draw.text((0, _ROW * (len(shown) + 0.5) + 2), f"and {len(values) - len(shown)} more", FAINT, font, anchor="lm")
    return _noted(with_layout(image, layout), f"{len(values)} {what}")


def text_drawing(text: Text, targets: Sequence[int] = ()) -> Image.Image:
    """Draw a text; `targets`: the tokens that the rows of its maps predict, where they have several."""
    special = sum(text.special)
    said = f"{len(text)} token{'s' * (len(text) != 1)}" + (f", {special} of them special" if special else "")
    return _noted(Words(text, tuple(targets)).plain(), said)
