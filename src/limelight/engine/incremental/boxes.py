"""The boxes in which rows differ from their picture, one a row and of one size, and copying maps in and out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Span:
    """Intervals of one axis, one a row: `length` positions from `start` `(rows,)` (on the CPU)."""

    start: Tensor
    length: int

    def reached(self, kernel: int, stride: int, before: int, size: int) -> Span:
        """Find the outputs, of `size` in all, that a sliding operator with `before` padding computes from these."""
        first = (self.start + before - kernel + stride) // stride
        last = (self.start + self.length - 1 + before) // stride
        return _spanning(first, last, size)

    def needed(self, kernel: int, stride: int) -> Span:
        """Return the padded inputs that these outputs of a sliding operator read."""
        return Span(self.start * stride, (self.length - 1) * stride + kernel)

    def shifted(self, by: int) -> Span:
        return Span(self.start + by, self.length)

    def union(self, other: Span, size: int) -> Span:
        last = torch.maximum(self.start + self.length, other.start + other.length) - 1
        return _spanning(torch.minimum(self.start, other.start), last, size)

    def same(self, other: Span) -> bool:
        return self is other or (self.length == other.length and torch.equal(self.start, other.start))


def _spanning(first: Tensor, last: Tensor, size: int) -> Span:
    """Return the shortest spans of one length inside [0, size) that hold [first, last]; never empty."""
    first, last = first.clamp(0, size - 1), last.clamp(0, size - 1)
    length = max(1, int((last - first).max()) + 1)
    return Span(first.clamp(max=size - length), length)


@dataclass(frozen=True, eq=False)
class Boxes:
    """One box a row: its rows `y` and columns `x`."""

    y: Span
    x: Span

    def shifted(self, y: int, x: int) -> Boxes:
        return Boxes(self.y.shifted(y), self.x.shifted(x))

    def union(self, other: Boxes, size: tuple[int, int]) -> Boxes:
        return Boxes(self.y.union(other.y, size[0]), self.x.union(other.x, size[1]))

    def same(self, other: Boxes) -> bool:
        return self is other or (self.y.same(other.y) and self.x.same(other.x))

    def cut(self, maps: Tensor) -> Tensor:
        """Copy out these boxes of one picture's maps `(1, channels, H, W)`, as `(rows, channels, h, w)`."""
        ys, xs = _indices(self.y, maps.device), _indices(self.x, maps.device)
        return maps[0].permute(1, 2, 0)[ys[:, :, None], xs[:, None, :]].permute(0, 3, 1, 2)

    def window(self, maps: Tensor, inner: Boxes, patch: Tensor) -> Tensor:
        """Copy out these boxes of the maps, with `patch` in the boxes `inner`, which may extend beyond them."""
        found = self.cut(maps)
        y, x = inner.y.start - self.y.start, inner.x.start - self.x.start
        top, left = max(0, -int(y.min())), max(0, -int(x.min()))
        bottom = max(0, int(y.max()) + inner.y.length - self.y.length)
        right = max(0, int(x.max()) + inner.x.length - self.x.length)
        if not (top or left or bottom or right):
            return _pasted(found, patch, y, x)
        padded = _pasted(F.pad(found, (left, right, top, bottom)), patch, y + top, x + left)
        return padded[:, :, top : top + self.y.length, left : left + self.x.length]

    def whole(self, maps: Tensor, patch: Tensor) -> Tensor:
        """Make whole rows `(rows, channels, H, W)`: the picture's maps with each row's patch in its box."""
        last = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
        layout = torch.channels_last if last else torch.contiguous_format
        rows = torch.empty_like(maps.expand(len(patch), -1, -1, -1), memory_format=layout).copy_(maps)
        return _pasted(rows, patch, self.y.start, self.x.start)


def _indices(span: Span, device: torch.device) -> Tensor:
    return (span.start[:, None] + torch.arange(span.length)).to(device)


def _pasted(into: Tensor, patch: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Write each row's patch into `into` at (y, x)."""
    row = torch.arange(len(patch), device=into.device)
    ys = _indices(Span(y, patch.shape[2]), into.device)
    xs = _indices(Span(x, patch.shape[3]), into.device)
    into.permute(0, 2, 3, 1)[row[:, None, None], ys[:, :, None], xs[:, None, :]] = patch.permute(0, 2, 3, 1)
    return into
