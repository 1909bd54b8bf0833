"""How a map is read at the scale it is drawn at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

Reading = Literal["signed", "magnitude", "positive", "negative"]
_REACH = 4.0  # standard deviations at which the Gaussian is cut


@dataclass(frozen=True)
class View:
    r"""A reading of a map at the scale it is drawn at: a sum over channels, smoothed or summed over blocks.

    $$D = G_\sigma * \sum_c r(A_c), \qquad r(a) = a,\ |a|,\ \max(a, 0)\ \text{or}\ \min(a, 0)$$

    for `reduce` "signed", "magnitude", "positive" and "negative". `smooth` is the Gaussian's standard deviation as a
    share of the shorter side: 0.015 of 224 pixels is 3.4 pixels. Beyond the border the map is mirrored, so smoothing
    keeps the sum, and a signed view of a mean is the mean of the views. `blocks` sums over `blocks` x `blocks` pixels
    instead (cut at the border): a signed map that adds up to f(x) - f(b) adds up to it in blocks too. With neither,
    the view shows single pixels. Smoothing and blocks are for two or more spatial axes; series, tokens and columns of a
    table stay as they are, for neighbours there may be unrelated. Raises ValueError for other settings.

    >>> View("magnitude").of(torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]]]])).tolist()
    [[[4.0, 6.0]]]
    >>> View(blocks=2).of(torch.ones(1, 1, 4, 4)).tolist()
    [[[4.0, 4.0], [4.0, 4.0]]]
    """

    reduce: Reading = "signed"
    smooth: float = 0.0
    blocks: int = 1

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
        if maps.ndim < 4:
            return read
        sigma = self.smooth * min(read.shape[1:])
        for axis, size in enumerate(read.shape[1:], start=1):
            if self.blocks > 1:
                read = _along(read, axis, _blocks(size, self.blocks))
            elif sigma:
                read = _along(read, axis, mirrored_gaussian(size, sigma))
        return read

    def _read(self, maps: Tensor) -> Tensor:
        match self.reduce:
            case "magnitude":
                return maps.abs()
            case "positive":
                return maps.clamp(min=0)
            case "negative":
                return maps.clamp(max=0)
        return maps

    def words(self, shape: torch.Size | tuple[int, ...] = ()) -> str:
        """Say in words how maps are read; of `shape` `(*space)`, with sizes in pixels."""
        read = {
            "signed": "signed sum of channels",
            "magnitude": "magnitude summed over channels",
            "positive": "positive part summed over channels",
            "negative": "negative part summed over channels",
        }[self.reduce]
        if len(shape) == 1:
            return read
        if self.blocks > 1:
            return f"{read}, in blocks of {self.blocks} x {self.blocks} pixels"
        if self.smooth and shape:
            return f"{read}, smoothed by {self.smooth * min(shape):.1f} pixels"
        return f"{read}, smoothed by {self.smooth:.1%} of the side" if self.smooth else f"{read}, at single pixels"


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


def _blocks(size: int, side: int) -> Tensor:
    """Return the matrix `(blocks, size)` that sums over blocks."""
    return (torch.arange(size) // side == torch.arange(-(-size // side))[:, None]).double()


def _along(maps: Tensor, axis: int, matrix: Tensor) -> Tensor:
    return (maps.movedim(axis, -1) @ matrix.to(maps).T).movedim(-1, axis)
