"""How a map is read at the scale it is drawn at."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from .named import Named, Registry, text_of

Reading = Literal["signed", "magnitude", "positive", "negative"]
Diverging = Literal["red-blue", "orange-purple"]
Sequential = Literal["inferno", "viridis", "grey"]
_REACH = 4.0  # standard deviations at which the Gaussian is cut


@dataclass(frozen=True)
class View(Named):
    r"""A reading of a map at the scale it is drawn at: a sum over channels, smoothed or summed over blocks.

    $$D = G_\sigma * \sum_c r(A_c), \qquad r(a) = a,\ |a|,\ \max(a, 0)\ \text{or}\ \min(a, 0)$$

    for `reduce` "signed", "magnitude", "positive" and "negative". `smooth` is the Gaussian's standard deviation as a
    share of the shorter side: 0.015 of 224 pixels is 3.4 pixels. Beyond the border the map is mirrored, so smoothing
    keeps the sum, and a signed view of a mean is the mean of the views. `blocks` sums over `blocks` x `blocks` pixels
    instead (cut at the border): a signed map that adds up to f(x) - f(b) adds up to it in blocks too. With neither,
    the view shows single pixels. Smoothing and blocks are for two or more spatial axes; series, tokens and columns of a
    table stay as they are, for neighbours there may be unrelated. NaN and infinite values stay where they are and count
    nothing in their neighbours' smoothing.

    For drawing: the colours end at the `percentile` of $|D|$. `colours` names a table, for the maps that it fits:
    "red-blue" and "orange-purple" are for maps with both signs, "inferno", "viridis" and "grey" for the others; None is
    the first of each. `bands` are the three bands, or the one, that a picture of other than three shows: numbers from
    1, or names. `sort` draws the columns of a table from the largest |A| down. Raises ValueError for other settings.

    As text a view begins with its reading: `"signed(smooth=0.02)"`, `"magnitude"`, `"signed(blocks=8)"`.

    >>> View("magnitude").of(torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]]]])).tolist()
    [[[4.0, 6.0]]]
    >>> View(blocks=2).of(torch.ones(1, 1, 4, 4)).tolist()
    [[[4.0, 4.0], [4.0, 4.0]]]
    """

    reduce: Reading = "signed"
    smooth: float = 0.0
    blocks: int = 1
    percentile: float = 99.5
    colours: Diverging | Sequential | None = None
    bands: tuple[int | str, ...] | None = None
    sort: bool = False

    SMOOTH: ClassVar[float] = 0.015

    def __post_init__(self) -> None:
        if self.reduce not in get_args(Reading):
            raise ValueError(f"View.reduce={self.reduce!r}; use {', '.join(map(repr, get_args(Reading)))}")
        number = isinstance(self.smooth, int | float) and not isinstance(self.smooth, bool)
        if not number or not 0 <= self.smooth <= 1:
            raise ValueError(f"View.smooth={self.smooth!r}; use a share of the shorter side, such as 0.015, or 0")
        if not isinstance(self.blocks, int) or isinstance(self.blocks, bool) or self.blocks < 1:
            raise ValueError(f"View.blocks={self.blocks!r}; use the side of a block in pixels, 1 or more")
        if self.smooth and self.blocks > 1:
            raise ValueError(f"View(smooth={self.smooth!r}, blocks={self.blocks}); use one of them, not both")
        share = isinstance(self.percentile, int | float) and not isinstance(self.percentile, bool)
        if not share or not 0 < self.percentile <= 100:
            raise ValueError(f"View.percentile={self.percentile!r}; use a number above 0 up to 100, such as 99.5")
        if not isinstance(self.sort, bool):
            raise ValueError(f"View.sort={self.sort!r}; use True or False")
        self._require_colours()
        self._require_bands()

    def _require_colours(self) -> None:
        fitting = get_args(Sequential) if self.reduce in ("magnitude", "positive") else ()
        known = fitting or (*get_args(Diverging), *get_args(Sequential))
        if self.colours is not None and self.colours not in known:
            raise ValueError(
                f"View.colours={self.colours!r}; a {self.reduce} view uses {', '.join(map(repr, known))} or None"
            )

    def _require_bands(self) -> None:
        if self.bands is None:
            return
        bands = (self.bands,) if isinstance(self.bands, int | str) else tuple(self.bands)
        number = all(isinstance(each, str) or (isinstance(each, int) and each >= 1) for each in bands)
        if len(bands) not in (1, 3) or not number:
            raise ValueError(f"View.bands={self.bands!r}; use one or three bands, by numbers from 1 or by names")
        object.__setattr__(self, "bands", bands)

    def as_text(self) -> str:
        """Return text from which the view can be read: `magnitude(smooth=0.015)`."""
        settings = text_of(replace(self, reduce="signed")).removeprefix("view").removeprefix("(").removesuffix(")")
        return f"{self.reduce}({settings})" if settings else self.reduce

    @property
    def scale(self) -> View:
        """The settings that change values, without those of the drawing alone."""
        return View(self.reduce, self.smooth, self.blocks)

    @property
    def is_linear(self) -> bool:
        """Whether the view of a mean of maps is the mean of their views."""
        return self.reduce == "signed"

    def of(self, maps: Tensor) -> Tensor:
        """Return maps `(n, channels, *space)` as drawn, `(n, *space)` or with fewer positions in blocks.

        Maps of columns `(n, features)` keep their shape. Computed and returned in the maps' precision.
        """
        read = self._read(maps)
        if maps.ndim > 2:
            read = read.sum(1)
        if maps.ndim < 4 or (self.blocks == 1 and not self.smooth):
            return read
        if self.blocks > 1:
            for axis in range(1, read.ndim):
                read = _in_blocks(read, axis, self.blocks)
            return read
        finite = read.isfinite()
        seen = read.where(finite, 0)
        sigma = self.smooth * min(read.shape[1:])
        for axis, size in enumerate(read.shape[1:], start=1):
            seen = _along(seen, axis, mirrored_gaussian(size, sigma))
        return seen.where(finite, read)

    def drawn(self, maps: Tensor) -> Tensor:
        """Return maps as the pictures have them: as `of`, but series `(n, channels, time)` channel by channel."""
        return self._read(maps) if maps.ndim == 3 else self.of(maps)

    def _read(self, maps: Tensor) -> Tensor:
        match self.reduce:
            case "magnitude":
                return maps.abs()
            case "positive":
                return maps.clamp(min=0)
            case "negative":
                return maps.clamp(max=0)
        return maps

    def words(self, shape: torch.Size | tuple[int, ...] = (), channels: int | None = None) -> str:
        """Say in words how maps are read; of `shape` `(*space)`, with sizes in pixels.

        `channels`: how many are summed; of one the words say nothing.
        """
        read = {
            "signed": "signed sum of channels",
            "magnitude": "magnitude summed over channels",
            "positive": "positive part summed over channels",
            "negative": "negative part summed over channels",
        }[self.reduce]
        if channels == 1:
            read = {"signed": "signed", "magnitude": "magnitude"}.get(self.reduce, f"{self.reduce} part")
        if len(shape) == 1:
            return read
        unit = "voxels" if len(shape) > 2 else "pixels"
        if self.blocks > 1:
            return f"{read}, in blocks of {' x '.join([str(self.blocks)] * (len(shape) or 2))} {unit}"
        if self.smooth and shape:
            return f"{read}, smoothed by {self.smooth * min(shape):.1f} {unit}"
        return f"{read}, smoothed by {self.smooth:.1%} of the side" if self.smooth else f"{read}, at single {unit}"


class Views(Registry[View]):
    """The registry of views, whose texts begin with the reading: `"signed(smooth=0.02)"`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The readings."""
        return get_args(Reading)

    def read(self, text: str) -> View:
        """Read a view: a reading with the other settings, or `view(...)` with all of them."""
        reading, bracket, settings = text.strip().partition("(")
        name = reading.strip().lower()
        if name in self.names:
            return super().read(f"view({name}, {settings}" if bracket else f"view({name})")
        return super().read(text)


VIEWS = Views("view", View, (View,), "signed(smooth=0.02)")
"""What `view=` and `--view` read."""


def view_of(view: View | str | None, default: View) -> View:
    """Return the view of an argument: itself, its text's, or the default for None. Raises ValueError or TypeError."""
    return default if view is None else VIEWS.coerce(view)


def default_view(view: Any, axes: int) -> View:
    """Return the default for maps of so many spatial axes: `view` for pictures and volumes, else signed values.

    The values of series and tables are few and drawn with their sign.
    """
    return view if axes >= 2 else SINGLE_PIXELS


SINGLE_PIXELS = View()
"""The signed map at single pixels."""
FINE = View("magnitude", View.SMOOTH)
"""For maps that scatter from pixel to pixel: their magnitude, smoothed."""


def mirrored_gaussian(size: int, sigma: float) -> Tensor:
    """Return the matrix `(size, size)` of a Gaussian filter of a line that is mirrored at its ends, in float64.

    Rows and columns add up to 1, so that constants and sums stay.
    """
    reach = math.ceil(_REACH * sigma)
    offset = torch.arange(-reach, reach + 1)
    weight = (-0.5 * (offset.double() / sigma) ** 2).exp()
    place = (torch.arange(size)[:, None] + offset) % (2 * size)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, place.minimum(2 * size - 1 - place), (weight / weight.sum()).expand(size, -1))


def _in_blocks(maps: Tensor, axis: int, side: int) -> Tensor:
    """Sum along an axis over blocks, the last one cut at the border."""
    size = maps.shape[axis]
    shape = list(maps.shape)
    shape[axis] = -(-size // side)
    return maps.new_zeros(shape).index_add_(axis, torch.arange(size, device=maps.device) // side, maps)


def _along(maps: Tensor, axis: int, matrix: Tensor) -> Tensor:
    return (maps.movedim(axis, -1) @ matrix.to(maps).T).movedim(-1, axis)
