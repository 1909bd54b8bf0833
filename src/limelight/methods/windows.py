"""Windows that slide over an input: their sizes where none are given, their shapes and their places."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..base.named import Named, Registry, is_whole, require, require_whole

Border = Literal["move", "cut", "centre"]
Slices = tuple[slice, ...]

PICTURE = 32  # a side of the window on pictures whose shorter side is at least twice that


class Window(Named, ABC):
    """A shape of window other than a box: the positions that it hides."""

    @abstractmethod
    def mask(self, axes: int) -> Tensor:
        """Return booleans over a box of `axes` axes, True where the window hides."""


@dataclass(frozen=True)
class Circle(Window):
    """A round window: the positions whose centres lie within `diameter` / 2 of its own; in volumes a ball."""

    diameter: int = PICTURE

    def __post_init__(self) -> None:
        require_whole(self, "diameter", 1)

    def mask(self, axes: int) -> Tensor:
        square = (torch.arange(self.diameter) - (self.diameter - 1) / 2) ** 2
        distance = sum(square.view(-1, *[1] * axis) for axis in range(axes))
        return torch.as_tensor(distance <= self.diameter**2 / 4)


@dataclass(frozen=True, eq=False)
class WindowMask(Window):
    """A window of any shape: it hides where `map` `(*window)`, one axis for each spatial axis, is not 0.

    `Occlusion(window=map)` makes one of a tensor. It is printed as its size.
    """

    map: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "map", torch.as_tensor(self.map) != 0)
        if self.map.ndim == 0 or not bool(self.map.any()):
            raise ValueError(
                f"window: a mask of shape {tuple(self.map.shape)} that hides nothing; use one (height, width) that "
                "is not 0 where the window hides"
            )

    def mask(self, axes: int) -> Tensor:
        if self.map.ndim != axes:
            shape = tuple(self.map.shape)
            raise ValueError(f"window: a mask of shape {shape} for {axes} spatial axes; give it one axis for each")
        return self.map

    def __repr__(self) -> str:
        return f"WindowMask({' x '.join(map(str, self.map.shape))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WindowMask) and torch.equal(self.map, other.map)

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.map.shape), int(self.map.sum())))


WINDOWS: Registry[Window] = Registry("window", Window, (Circle, WindowMask), "circle(16)")


class Place(NamedTuple):
    """Where a window stands: its box in the input `(*space)`, and which of the box it hides, None for all."""

    box: Slices
    mask: Tensor | None


def default_sizes(features: torch.Size) -> tuple[int, ...]:
    """Return the window's size along each spatial axis for an example of this shape.

    32 on pictures, and a seventh of each side where the shorter one is below 64, and of each axis of a volume; a
    sixteenth of a series `(channels, length)`; one column of `(columns,)`.
    """
    space = spatial(features)
    if len(features) < 2:
        return (1,) * len(space)
    if len(space) == 2 and min(space) >= 2 * PICTURE:
        return (PICTURE, PICTURE)
    share = 16 if len(space) == 1 else 7
    return tuple(max(1, round(size / share)) for size in space)


def spatial(features: torch.Size) -> torch.Size:
    """Return the spatial sizes of an example: without a channel axis, every axis is a spatial one."""
    return features[1:] if len(features) > 1 else features


def slid(
    space: Sequence[int], sizes: Sequence[int], strides: Sequence[int], border: Border, mask: Tensor | None
) -> Iterator[Place]:
    """Yield the places of a window of these sizes, row by row; one larger than the input is cut to its middle.

    Places at which a mask hides nothing are left out; `hides` says which.
    """
    for place in _places(space, sizes, strides, border, mask):
        if place.mask is None or bool(place.mask.any()):
            yield place


def hides(
    space: Sequence[int], sizes: Sequence[int], strides: Sequence[int], border: Border, mask: Tensor | None
) -> Tensor:
    """Return over the grid of the places of a window `(*places)` whether it hides anything there."""
    counts = [
        len(_along(whole, min(size, whole), stride, border))
        for whole, size, stride in zip(space, sizes, strides, strict=True)
    ]
    places = _places(space, sizes, strides, border, mask)
    return torch.tensor([each.mask is None or bool(each.mask.any()) for each in places]).reshape(counts)


def _places(
    space: Sequence[int], sizes: Sequence[int], strides: Sequence[int], border: Border, mask: Tensor | None
) -> Iterator[Place]:
    cut = [max(size - whole, 0) // 2 for size, whole in zip(sizes, space, strict=True)]
    axes = [
        _along(whole, min(size, whole), stride, border)
        for whole, size, stride in zip(space, sizes, strides, strict=True)
    ]
    for place in product(*axes):
        box, inside = tuple(own for own, _ in place), None
        if mask is not None:
            own = (slice(part.start + off, part.stop + off) for (_, part), off in zip(place, cut, strict=True))
            inside = mask[tuple(own)]
        yield Place(box, inside)


def _along(size: int, window: int, stride: int, border: Border) -> list[tuple[slice, slice]]:
    """Return the windows along an axis of `size` positions, each with the part of the window that is in it."""
    last = size - window
    if border == "move":
        return [(slice(start, start + window), slice(0, window)) for start in (*range(0, last, stride), last)]
    steps = -(-last // stride)
    beyond = max(steps * stride - last, 0) // 2 if border == "centre" else 0
    starts = [step * stride - beyond for step in range(steps + 1)]
    # With a stride above the window, one that lies wholly beyond the border hides nothing.
    cut = ((start, slice(max(start, 0), min(start + window, size))) for start in starts)
    return [(each, slice(each.start - start, each.stop - start)) for start, each in cut if each.start < each.stop]


def require_window(method: object, window: object) -> None:
    """Raise ValueError unless the window of a method is a size, a size for each axis, or a shape."""
    sizes = window if isinstance(window, tuple) else (window,)
    whole = all(is_whole(size, 1) for size in sizes)
    known = window is None or isinstance(window, Window) or (bool(sizes) and whole)
    require(known, method, "window", "1 or more positions, one number an axis, Circle(16), or a mask (height, width)")
