"""Maxima as windows over rows of entries: max pooling, maxima over axes, the larger of two tensors."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Call
from .names import MAX_POOLS


@dataclass(frozen=True, eq=False)
class Tap:
    """One entry of every window, such as the upper left one: where it stands in the rows, by slices or an index.

    `inside` tells where an index points outside the rows; slices run over rows that were padded with -inf.
    """

    at: tuple[Any, ...]
    inside: Tensor | None = None

    def take(self, rows: Tensor) -> Tensor:
        found = rows[self.at]
        return found if self.inside is None else found.where(self.inside, -torch.inf)

    def add(self, part: Tensor, total: Tensor) -> None:
        if self.inside is None:
            total[self.at] += part
        else:
            total.index_add_(-1, self.at[-1], part.where(self.inside, 0.0))


@dataclass(frozen=True, eq=False)
class Windows:
    """A maximum over windows of entries: `rows(*operands)` holds the entries, `back` is its transpose, one tensor an
    operand.

    `taps`: the windows' first, second, ... entries; None for a single window of all entries along the last axis.
    `windows` is the shape of the maxima's last axes. `sign` is -1 for minima, which are maxima of the negative.
    """

    rows: Callable[..., Tensor]
    back: Callable[[Tensor], tuple[Tensor, ...]]
    taps: tuple[Tap, ...] | None = None
    windows: tuple[int, ...] = (1,)
    axes: int = 1
    sign: int = 1

    def shape(self, rows: Tensor) -> tuple[int, ...]:
        """Return the shape (..., *windows) of the windows' maxima."""
        return (*rows.shape[: rows.ndim - self.axes], *self.windows)

    def size(self, rows: Tensor) -> int:
        """Return the most entries that a window has."""
        return rows.shape[-1] if self.taps is None else len(self.taps)

    def entries(self, rows: Tensor) -> list[Tensor]:
        """Return the windows' first, second, ... entries (..., *windows), -inf outside the rows."""
        return list(rows.split(1, -1)) if self.taps is None else [tap.take(rows) for tap in self.taps]

    def top(self, rows: Tensor) -> Tensor:
        """Return each window's maximum (..., *windows)."""
        if self.taps is None:
            return rows.amax(-1, keepdim=True)
        found = self.taps[0].take(rows)
        for tap in self.taps[1:]:
            found = torch.maximum(found, tap.take(rows))
        return found

    def add(self, parts: Iterable[Tensor], like: Tensor) -> Tensor:
        """Sum what each window (..., *windows) gives to its first, second, ... entry. Windows that overlap add up."""
        if self.taps is None:
            return torch.cat(list(parts), -1)
        total = torch.zeros_like(like)
        for tap, part in zip(self.taps, parts, strict=True):
            tap.add(part, total)
        return total

    def share(self, amount: Tensor, *won: tuple[Tensor, Tensor]) -> Tensor:
        """Share each window's amount (..., *windows) equally among the entries of `rows` that equal `top`, for all of
        `won`.

        Entries that tie get the same: which one stands first does not matter.
        """
        rows = won[0][0]
        if self.taps is None:
            tied = _all([rows == top for rows, top in won])
            return amount * tied / tied.sum(-1, keepdim=True).clamp(min=1)
        if not amount.requires_grad and not bool(amount.any()):
            return torch.zeros_like(rows)
        wins = [_all([tap.take(rows) == top for rows, top in won]) for tap in self.taps]
        count = wins[0].to(torch.int32)
        for each in wins[1:]:
            count += each
        amount = amount / count.clamp_(min=1)
        return self.add((amount * each for each in wins), rows)


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

        return Windows(lambda a, b: torch.stack(torch.broadcast_tensors(a, b), -1), apart, sign=sign)
    (x,) = call.operands
    if call.name in MAX_POOLS:
        axes = int(call.name.removesuffix("_with_indices")[-2])
        pooled = _adaptive if call.name.startswith("adaptive") else _strided
        return pooled(call, x, tuple(value.shape[-axes:]))
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
        sign=sign,
    )


def _strided(call: Call, x: Tensor, outputs: tuple[int, ...]) -> Windows:
    """View max pooling as windows over a map padded with -inf."""
    axes, given = len(outputs), call.bound()
    sizes = x.shape[-axes:]
    kernel = _per_axis(given["kernel_size"], axes)
    stride = _per_axis(given.get("stride") or kernel, axes)
    padding, dilation = _per_axis(given.get("padding", 0), axes), _per_axis(given.get("dilation", 1), axes)
    spans = [(n - 1) * s + 1 for n, s in zip(outputs, stride, strict=True)]
    ends = [span + (k - 1) * d for span, k, d in zip(spans, kernel, dilation, strict=True)]
    after = [max(0, end - size - p) for end, size, p in zip(ends, sizes, padding, strict=True)]
    pads = [each for pair in zip(reversed(padding), reversed(after), strict=True) for each in pair]
    inner: Any = (..., *(slice(p, p + size) for p, size in zip(padding, sizes, strict=True)))
    taps = tuple(
        Tap((..., *(slice(i * d, i * d + span, s) for i, d, span, s in zip(at, dilation, spans, stride, strict=True))))
        for at in itertools.product(*map(range, kernel))
    )
    padded = any(pads)
    return Windows(
        lambda t: F.pad(t, pads, value=-torch.inf) if padded else t,
        lambda rows: (rows[inner].contiguous(),),
        taps,
        outputs,
        axes,
    )


def _per_axis(value: Any, axes: int) -> list[int]:
    values = [int(each) for each in value] if isinstance(value, (tuple, list)) else [int(value)]
    return values * axes if len(values) == 1 else values


def _adaptive(call: Call, x: Tensor, outputs: tuple[int, ...]) -> Windows:
    """View adaptive max pooling, whose windows differ in size, as windows over the flat map."""
    axes, device = len(outputs), x.device
    index, inside = (
        torch.zeros(1, 1, dtype=torch.long, device=device),
        torch.ones(1, 1, dtype=torch.bool, device=device),
    )
    for size, count in zip(x.shape[-axes:], outputs, strict=True):
        positions, valid = _adaptive_axis(size, count, device)
        shape = index.shape[0] * positions.shape[0], index.shape[1] * positions.shape[1]
        index = (index[:, None, :, None] * size + positions.clamp(0, size - 1)[None, :, None, :]).reshape(shape)
        inside = (inside[:, None, :, None] & valid[None, :, None, :]).reshape(shape)
    taps = (Tap((..., i), v) for i, v in zip(index.unbind(1), inside.unbind(1), strict=True))
    return Windows(
        lambda t: t.flatten(-axes), lambda rows: (rows.reshape(x.shape),), tuple(taps), (math.prod(outputs),)
    )


def _adaptive_axis(size: int, outputs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the positions (outputs, longest) of windows from floor(i size / outputs) to ceil((i + 1) size / outputs),
    and whether they lie inside their window."""
    starts = [i * size // outputs for i in range(outputs)]
    ends = [math.ceil((i + 1) * size / outputs) for i in range(outputs)]
    longest = max((end - start for start, end in zip(starts, ends, strict=True)), default=0)
    positions = torch.tensor(starts, device=device)[:, None] + torch.arange(longest, device=device)
    return positions, positions < torch.tensor(ends, device=device)[:, None]
