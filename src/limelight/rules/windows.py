"""Maxima as windows over rows of entries: max pooling, maxima over axes, the larger of two tensors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .call import Call
from .names import MAX_POOLS

Tap = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Windows:
    """A maximum over windows of entries: `rows(*operands)` is (..., M), `back` its transpose, one tensor an operand.

    `taps`: the windows' first, second, ... entries, each as its index `(n,)` among the M and whether it lies inside
    the rows; None for a single window of all M. `sign` is -1 for minima, which are maxima of the negative.
    """

    rows: Callable[..., Tensor]
    back: Callable[[Tensor], tuple[Tensor, ...]]
    taps: tuple[Tap, ...] | None = None
    sign: int = 1

    def shape(self, rows: Tensor) -> tuple[int, ...]:
        """Return the shape (..., n) of the windows' maxima."""
        return (*rows.shape[:-1], 1 if self.taps is None else len(self.taps[0][0]))

    def size(self, rows: Tensor) -> int:
        """Return the most entries that a window has."""
        return rows.shape[-1] if self.taps is None else len(self.taps)

    def entries(self, rows: Tensor) -> Tensor:
        """Return the windows' entries (..., n, size), -inf outside the rows."""
        if self.taps is None:
            return rows.unsqueeze(-2)
        return torch.stack([rows[..., index].where(inside, -torch.inf) for index, inside in self.taps], -1)

    def top(self, rows: Tensor) -> Tensor:
        """Return each window's maximum (..., n)."""
        if self.taps is None:
            return rows.amax(-1, keepdim=True)
        index, inside = self.taps[0]
        found = rows[..., index].where(inside, -torch.inf)
        for index, inside in self.taps[1:]:
            found = torch.maximum(found, rows[..., index].where(inside, -torch.inf))
        return found

    def add(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """Sum what each window (..., n) gives to its first, second, ... entry. Windows that overlap add up."""
        if self.taps is None:
            return torch.cat(list(parts), -1)
        total = torch.zeros_like(like)
        for (index, _), part in zip(self.taps, parts, strict=True):
            total.index_add_(-1, index, part)
        return total

    def share(self, amount: Tensor, *won: tuple[Tensor, Tensor]) -> Tensor:
        """Share each window's amount (..., n) equally among the entries of `rows` that equal `top`, for all of `won`.

        Entries that tie get the same: which one stands first does not matter.
        """
        rows = won[0][0]
        if self.taps is None:
            tied = _all([rows == top for rows, top in won])
            return amount * tied / tied.sum(-1, keepdim=True).clamp(min=1)
        wins = [_all([(rows[..., index] == top) & inside for rows, top in won]) for index, inside in self.taps]
        count = wins[0].to(amount)
        for each in wins[1:]:
            count = count + each
        amount = amount / count.clamp(min=1)
        return self.add([amount * each for each in wins], rows)


def _all(conditions: Sequence[Tensor]) -> Tensor:
    found = conditions[0]
    for each in conditions[1:]:
        found = found & each
    return found


def windows(call: Call, value: Tensor) -> Windows:
    """View a call of kind `"max"` or `"maximum"` that returned `value` as windows over rows."""
    sign = -1 if call.name in ("min", "amin", "minimum") else 1
    if call.kind == "maximum":
        shapes = [operand.shape for operand in call.operands]

        def apart(rows: Tensor) -> tuple[Tensor, ...]:
            return tuple(part.sum_to_size(shape) for part, shape in zip(rows.unbind(-1), shapes, strict=True))

        return Windows(lambda a, b: torch.stack(torch.broadcast_tensors(a, b), -1), apart, None, sign)
    (x,) = call.operands
    if call.name in MAX_POOLS:
        axes = int(call.name.removesuffix("_with_indices")[-2])
        taps = _taps(call, x.shape[-axes:], value.shape[-axes:], x.device)
        return Windows(lambda t: t.flatten(-axes), lambda rows: (rows.reshape(x.shape),), taps)
    dim = call.bound().get("dim")
    chosen = range(x.ndim) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
    reduced = sorted(axis % x.ndim for axis in chosen) if x.ndim else []
    order = [axis for axis in range(x.ndim) if axis not in reduced] + reduced
    moved = [x.shape[axis] for axis in order]
    inverse = [order.index(axis) for axis in range(x.ndim)]
    kept = moved[: x.ndim - len(reduced)]
    return Windows(
        lambda t: t.permute(order).reshape(*kept, -1),
        lambda rows: (rows.reshape(moved).permute(inverse),),
        None,
        sign,
    )


def _taps(call: Call, sizes: Sequence[int], outputs: Sequence[int], device: torch.device) -> tuple[Tap, ...]:
    """Return the entries of a pooling's windows, as `Windows.taps`."""
    if call.name.startswith("adaptive"):
        axes = [_adaptive_axis(size, count, device) for size, count in zip(sizes, outputs, strict=True)]
    else:
        given = call.bound()
        kernel = _per_axis(given["kernel_size"], len(sizes))
        stride = _per_axis(given.get("stride") or kernel, len(sizes))
        padding, dilation = (_per_axis(given.get(key, default), len(sizes)) for key, default in _DEFAULTS)
        starts = [torch.arange(n, device=device) * s - p for n, s, p in zip(outputs, stride, padding, strict=True)]
        offsets = [torch.arange(k, device=device) * d for k, d in zip(kernel, dilation, strict=True)]
        axes = [_axis(*each) for each in zip(sizes, starts, offsets, strict=True)]
    index, inside = (
        torch.zeros(1, 1, dtype=torch.long, device=device),
        torch.ones(1, 1, dtype=torch.bool, device=device),
    )
    for size, (positions, valid) in zip(sizes, axes, strict=True):
        shape = index.shape[0] * positions.shape[0], index.shape[1] * positions.shape[1]
        index = (index[:, None, :, None] * size + positions.clamp(0, size - 1)[None, :, None, :]).reshape(shape)
        inside = (inside[:, None, :, None] & valid[None, :, None, :]).reshape(shape)
    return tuple(zip(index.unbind(1), inside.unbind(1), strict=True))


_DEFAULTS = (("padding", 0), ("dilation", 1))


def _per_axis(value: Any, axes: int) -> list[int]:
    values = [int(each) for each in value] if isinstance(value, (tuple, list)) else [int(value)]
    return values * axes if len(values) == 1 else values


def _axis(size: int, starts: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions (outputs, kernel) of windows along one axis, and whether they lie inside it."""
    positions = starts[:, None] + offsets
    return positions, (positions >= 0) & (positions < size)


def _adaptive_axis(size: int, outputs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """As `_axis`, for windows from floor(i size / outputs) to ceil((i + 1) size / outputs)."""
    starts = [i * size // outputs for i in range(outputs)]
    ends = [math.ceil((i + 1) * size / outputs) for i in range(outputs)]
    longest = max((end - start for start, end in zip(starts, ends, strict=True)), default=0)
    positions = torch.tensor(starts, device=device)[:, None] + torch.arange(longest, device=device)
    return positions, positions < torch.tensor(ends, device=device)[:, None]
