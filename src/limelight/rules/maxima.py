"""DeepLIFT where an operator selects: max pooling, maxima over axes, the larger of two tensors, `where`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Call
from .engine import Propagate, ratio, ruled
from .names import MAX_POOLS


@dataclass(frozen=True, eq=False)
class Windows:
    """A maximum over windows of rows: `rows(x)` is (..., M), `back` its inverse, `winner(rows)` each window's index."""

    rows: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    winner: Callable[[Tensor], Tensor]


def windows(call: Call) -> Windows:
    """View a call of a pooling or maximum over axes as windows over rows."""
    x = call.operands[0]
    if call.name in MAX_POOLS:
        name = call.name.removesuffix("_with_indices")
        pool, axes = getattr(F, name), int(name[-2])
        kwargs = {**call.kwargs, "return_indices": True}

        def indices(rows: Tensor) -> Tensor:
            index: Tensor = pool(rows.reshape(*rows.shape[:-1], *x.shape[-axes:]), *call.args[1:], **kwargs)[1]
            return index.flatten(-axes)

        return Windows(lambda t: t.flatten(-axes), lambda rows: rows.reshape(x.shape), indices)
    given = call.bound()
    dim = given.get("dim")
    chosen = range(x.ndim) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
    reduced = sorted(axis % x.ndim for axis in chosen)
    order = [axis for axis in range(x.ndim) if axis not in reduced] + reduced
    moved = [x.shape[axis] for axis in order]
    inverse = [order.index(axis) for axis in range(x.ndim)]
    return Windows(
        lambda t: t.permute(order).flatten(-len(reduced)),
        lambda rows: rows.reshape(moved).permute(inverse),
        lambda rows: rows.argmax(-1, keepdim=True),
    )


@dataclass(frozen=True)
class MaxDifference:
    r"""Of $y - y_0$, the winner of x gets the excess over $y_0$, the winner of $x_0$ the shortfall of $y$.

    Windows that overlap add their contributions; every multiplier lies in [0, 1], so no noise is amplified.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        (x,), (x0,) = call.operands, call.reference
        raw = call.run(x.detach())
        view = windows(call)
        sign = -1 if call.name in ("min", "amin") else 1
        rows, rows0 = view.rows(x.detach()) * sign, view.rows(x0.expand_as(x)) * sign
        at, at0 = view.winner(rows), view.winner(rows0)
        y, y0, delta = rows.gather(-1, at), rows0.gather(-1, at0), rows - rows0
        top = torch.maximum(y, y0)
        # Same winner, same value: the limit of the ratio, so that the multiplier is the derivative there.
        up = torch.where((at == at0) & (y == y0), 1.0, ratio(top - y0, delta.gather(-1, at)))
        down = ratio(y - top, delta.gather(-1, at0))

        def pull(g: Tensor, up: Tensor, down: Tensor, at: Tensor, at0: Tensor) -> tuple[Tensor | None, ...]:
            g = g.reshape(up.shape)
            out = g.new_zeros(rows_shape).scatter_add_(-1, at, g * up).scatter_add_(-1, at0, g * down)
            return (view.back(out),)

        rows_shape = rows.shape
        value = raw if isinstance(raw, Tensor) else raw[0]
        out = ruled(value, pull, [x], [up, down, at, at0])
        return out if isinstance(raw, Tensor) else type(raw)((out, *raw[1:]))


@dataclass(frozen=True)
class MaximumDifference:
    r"""The larger (smaller) of two tensors: MaxDifference on windows of the two."""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        sign = -1 if call.name in ("minimum", "min") else 1
        a, b = (t.detach() * sign for t in call.operands)
        a0, b0 = (t * sign for t in call.reference)
        y, y0 = torch.maximum(a, b), torch.maximum(a0, b0)
        top = torch.maximum(y, y0)
        won, won0 = a >= b, a0 >= b0
        shares = []
        for mine, mine0, wins, wins0 in ((a, a0, won, won0), (b, b0, ~won, ~won0)):
            delta = mine - mine0
            share = ratio(wins * (top - y0), delta) + ratio(wins0 * (y - top), delta)
            shares.append(torch.where(wins & wins0 & (delta == 0), 1.0, share))

        def pull(g: Tensor, *shares: Tensor) -> tuple[Tensor | None, ...]:
            return tuple((g * s).sum_to_size(o.shape) for s, o in zip(shares, call.operands, strict=True))

        return ruled(y * sign, pull, call.operands, shares)


@dataclass(frozen=True)
class WhereDifference:
    r"""`where(condition, a, b)`: the gradient where the condition is the reference's; elsewhere the jump
    $\Delta y$ is shared as $|\Delta a| : |\Delta b|$, which for `where(x > 0, x, 0.1 x)` is Rescale.

    A jump between branches that do not change cannot be attributed: UncoveredOperator.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        names = dict(zip(call.positions, range(len(call.operands)), strict=True))
        y, y0 = call.run(*(t.detach() for t in call.operands)), call.run(*call.reference)
        condition, condition0 = call.operands[0], call.reference[0]
        zero = torch.zeros_like(y)
        da, db = (
            (call.operands[names[i]].detach() - call.reference[names[i]]).expand_as(y) if i in names else zero
            for i in (1, 2)
        )
        kept, moved = (condition == condition0).expand_as(y), da.abs() + db.abs()
        if ((moved == 0) & ~kept & (y != y0)).any():
            propagate.uncovered("where", reason="it jumps between branches that are the same for the reference")
        jump = ratio(y - y0, moved)
        shares = (torch.where(kept, condition.to(y), jump * da.sign()),
                  torch.where(kept, (~condition).to(y), jump * db.sign()))  # fmt: skip

        def pull(g: Tensor, *shares: Tensor) -> tuple[Tensor | None, ...]:
            found: list[Tensor | None] = [None] * len(call.operands)
            for i, share in zip((1, 2), shares, strict=True):
                if i in names:
                    found[names[i]] = (g * share).sum_to_size(call.operands[names[i]].shape)
            return tuple(found)

        return ruled(y, pull, call.operands, shares)
