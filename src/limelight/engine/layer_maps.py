"""Grids: how a layer's output, in any layout, is read as channels of a map over the input's spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from .frames import Frames

MOST_PREFIX = 16  # class, distillation and register tokens before the tokens of positions
MOST_HALVINGS = 5  # of an earlier layer's grid, by merging neighbours


@dataclass(frozen=True)
class Grid:
    """The layout of the map in a layer's output `(rows, ...)`: the order of its axes, and its spatial size.

    "channels first" is `(rows, channels, *space)`, "channels last" `(rows, *space, channels)`, "tokens"
    `(rows, prefix + positions, channels)`, whose first `prefix` tokens have no position, "tokens of frames"
    `(rows, frames, prefix + positions, channels)`. `frames` says how to read outputs that have frames in their rows.
    """

    order: Literal["channels first", "channels last", "tokens", "tokens of frames"]
    space: tuple[int, ...]
    prefix: int = 0
    frames: Frames | None = None

    @property
    def positions(self) -> int:
        return math.prod(self.space)

    def maps(self, output: Tensor) -> Tensor:
        """View the output as maps `(rows, channels, *space)`; prefix tokens are left out."""
        if self.order == "channels first":
            return output
        if self.order == "tokens":
            output = output[:, self.prefix :].unflatten(1, self.space)
        if self.order == "tokens of frames":
            output = output[:, :, self.prefix :].unflatten(2, self.space[1:])
        return output.movedim(-1, 1)

    def unfolded(self, output: Tensor) -> Tensor:
        """View a layer's output with its rows as the first axis, as `maps` takes it."""
        return output if self.frames is None else self.frames.unfolded(output)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.space))
        if self.order.startswith("tokens"):
            after = f" after {self.prefix} prefix token{'s' * (self.prefix > 1)}" if self.prefix else ""
            return f"{size} from {self.order}{after}"
        return f"{size} with channels last" if self.order == "channels last" else size


Known = tuple[int, tuple[int, ...]]  # channels and spatial size of an earlier layer's map


def grid_of(
    shape: tuple[int, ...], space: tuple[int, ...], known: Sequence[Known] = (), channels: int | None = None
) -> Grid | None:
    """Find the grid in a layer's output of this shape (without the rows), for inputs of spatial size `space`, or None.

    `channels` is the axis of the channels, where the pass showed it; else the shape says. A shape with one axis more
    than `space` is then a map with channels first, unless only channels last gives a size that the input scales down to
    evenly. Another shape of two axes is tokens. Their grid is the one of the `known` earlier map with as many
    positions, or with the fewest prefix tokens more, up to 16; or a halving of one, as by merging neighbours, which
    multiplies the channels. Without earlier maps it has the input's proportions; a sequence's has its length.
    """
    if not space or min(shape, default=0) < 1:
        return None
    if channels is not None:
        return _with_channels(shape, space, known, channels)
    if len(shape) == 2:
        tokens = _tokens(shape, space, known)
        if tokens is not None:
            return tokens
    if len(shape) != len(space) + 1 or _is_attention(shape, known):
        return None
    if len(space) > 1 and _scaled(shape[:-1], space) and not _scaled(shape[1:], space):
        return Grid("channels last", shape[:-1])
    return Grid("channels first", shape[1:])


def grid_of_frames(
    shape: tuple[int, ...],
    space: tuple[int, ...],
    known: Sequence[Known],
    channels: int | None,
    folded: tuple[int, int],
) -> tuple[Frames, Grid | None]:
    """Find how an output of this shape (without the rows) is read, and its grid, whose rows hold an axis of the input.

    `folded`: that spatial axis and its length. The rest of the output has a map over the other axes, of the input's
    proportions, or none. `known` are earlier maps over those.
    """
    axis, count = folded
    others = space[:axis] + space[axis + 1 :]
    inner = grid_of(shape, others, known, channels)
    if inner is None or inner.positions == 1 or not _scaled(inner.space, others):
        return Frames(count), None
    order, place = inner.order, 2 + axis if inner.order == "channels first" else 1 + axis
    if inner.order == "tokens" and len(others) == 1 and not inner.prefix:
        order = "channels last"
    elif inner.order == "tokens":
        if axis:
            return Frames(count), None
        order = "tokens of frames"
    frames = Frames(count, place)
    whole = (*inner.space[:axis], count, *inner.space[axis:])
    return frames, replace(inner, order=order, space=whole, frames=frames)


def _with_channels(
    shape: tuple[int, ...], space: tuple[int, ...], known: Sequence[Known], channels: int
) -> Grid | None:
    if channels == 0:
        return Grid("channels first", shape[1:]) if len(shape) == len(space) + 1 else None
    if channels != len(shape) - 1:
        return None
    if len(shape) == 2:
        return _sequence(shape[0], space[0], known) if len(space) == 1 else _tokens(shape, space, known)
    fits = len(shape) == len(space) + 1 and (_scaled(shape[:-1], space) or any(shape[:-1] == size for _, size in known))
    return Grid("channels last", shape[:-1]) if fits else None


def _sequence(count: int, length: int, known: Sequence[Known]) -> Grid | None:
    """Return the grid of so many tokens: as many as the input or an earlier map has, and the fewest more."""
    lengths = [n for n in (length, *(size[0] for _, size in known)) if 0 <= count - n <= MOST_PREFIX]
    return _with_prefix(count, (max(lengths),)) if lengths else None


def _is_attention(shape: tuple[int, ...], known: Sequence[Known]) -> bool:
    """Whether this is heads x tokens x tokens, for the tokens of an earlier map."""
    tokens = shape[-1]
    return (
        len(shape) == 3
        and shape[-2] == tokens
        and any(0 < tokens - math.prod(size) <= MOST_PREFIX for _, size in known)
    )


def _scaled(size: tuple[int, ...], space: tuple[int, ...]) -> bool:
    """Whether one stride scales the input's `space` down to `size`, up to rounding by one position."""
    lowest = max(whole / (part + 1) for whole, part in zip(space, size, strict=True))
    highest = min(whole / (part - 1) if part > 1 else math.inf for whole, part in zip(space, size, strict=True))
    return lowest <= highest


def _tokens(shape: tuple[int, ...], space: tuple[int, ...], known: Sequence[Known]) -> Grid | None:
    count, channels = shape
    if len(space) == 1:  # (channels, length) has as many axes: tokens only after an earlier map of these channels
        if count == space[0] < channels:  # read as channels first, the map would be longer than the input
            return Grid("tokens", (count,))
        lengths = [size[0] for width, size in known if width == channels and size[0] != channels]
        return next((_with_prefix(count, (n,)) for n in reversed(lengths) if 0 <= count - n <= MOST_PREFIX), None)
    if not known:
        is_frames = len(space) == 3 and count == space[0]  # one vector for each of the frames, which have no positions
        return None if is_frames else _guessed(count, space)
    sizes = [size for _, size in known if 0 <= count - math.prod(size) <= MOST_PREFIX]
    for width, size in known:
        halvings = (tuple(math.ceil(each / 2**times) for each in size) for times in range(1, MOST_HALVINGS + 1))
        sizes += [halved for halved in halvings if math.prod(halved) == count and channels % width == 0]
    return _with_prefix(count, max(reversed(sizes), key=math.prod)) if sizes else None


def _with_prefix(count: int, size: tuple[int, ...]) -> Grid:
    return Grid("tokens", size, count - math.prod(size))


def _guessed(count: int, space: tuple[int, ...]) -> Grid | None:
    """Return the grid with the input's proportions and the fewest prefix tokens."""
    for prefix in range(min(MOST_PREFIX, count - 1) + 1):
        stride = (math.prod(space) / (count - prefix)) ** (1 / len(space))
        size = tuple(max(1, round(each / stride)) for each in space)
        if math.prod(size) == count - prefix and _scaled(size, space):
            return Grid("tokens", size, prefix)
    return None
