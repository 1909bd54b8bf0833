"""Rules where an operator selects: max pooling, maxima over axes, the larger of two tensors, `where`."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .call import Call
from .engine import Propagate
from .ruled import Pull, ratio, ruled
from .shares import constant_part, taker_of
from .windows import Windows, windows


@dataclass(frozen=True)
class Winners:
    """Maxima by relevance: the winner takes all, and entries that tie share it equally. [bach2015]"""

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        def pull(g: Tensor, y: Tensor, *operands: Tensor) -> tuple[Tensor | None, ...]:
            rows = view.rows(*operands)
            shape = view.shape(rows)
            return view.back(view.share(g.reshape(shape), (rows, y.reshape(shape))))

        constant = constant_part(call) if propagate.propagation.counts else None
        raw, value = _run(call)
        view = windows(call, value)
        found = _attached(raw, value, pull, call, [value.clone(), *call.operands])
        propagate.counted(found, constant, taker_of(call))
        return found


@dataclass(frozen=True)
class MaxDifference:
    r"""Of $y - y_0$, winners of x share the excess over $y_0$ and winners of $x_0$ the shortfall of $y$, equally.

    Windows that overlap add their contributions; every multiplier lies in [0, 1], so no noise is amplified.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        def pull(g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
            rows, rows0 = _rows(view, saved)
            y, y0, g = view.top(rows), view.top(rows0), g.reshape(view.shape(rows))
            rise, fall = torch.where(y > y0, y - y0, 0.0), torch.where(y < y0, y - y0, 0.0)
            gained = view.share(g * rise, (rows, y)) + view.share(g * fall, (rows0, y0))
            # Where nothing changes the limit of the ratio: the multiplier is the derivative there.
            still = view.share(torch.where(y == y0, g, 0.0), (rows, y), (rows0, y0))
            return view.back(_quotient(gained, rows - rows0) + still)

        raw, value = _run(call)
        view = windows(call, value)
        return _attached(raw, value, pull, call, _points(call))


@dataclass(frozen=True)
class MaxShapley:
    r"""Maxima of up to four entries: each gets its Shapley value of $\max$ between $x_0$ and $x$. [shapley1953]

    Two entries are what RevealCancel makes of $b + \mathrm{relu}(a - b)$. Larger windows follow `MaxDifference`.
    """

    most: int = 4

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        raw, value = _run(call)
        view = windows(call, value)
        if view.size(view.rows(*map(Tensor.detach, call.operands))) > self.most:
            return MaxDifference()(call, propagate)

        def pull(g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
            rows, rows0 = _rows(view, saved)
            slopes = _shapley(view.entries(rows), view.entries(rows0))
            g = g.reshape(view.shape(rows))
            return view.back(view.add([g * slope for slope in slopes], rows))

        return _attached(raw, value, pull, call, _points(call))


def _shapley(x: Sequence[Tensor], x0: Sequence[Tensor]) -> list[Tensor]:
    """Return the entries' Shapley values of their maximum, each divided by its entry's change.

    Where an entry does not change, the quotient's limit: the mean derivative, in equal parts where entries tie.
    """
    players, tops, ties = range(len(x)), [], []
    for coalition in range(2 ** len(x)):
        values = [x[i] if coalition >> i & 1 else x0[i] for i in players]
        top = functools.reduce(torch.maximum, values)
        tied = [(value == top).to(top) for value in values]
        tops.append(top)
        ties.append((tied, sum(tied[1:], tied[0]).clamp(min=1)))
    slopes = []
    for i in players:
        effect, limit, delta = torch.zeros_like(x[i]), torch.zeros_like(x[i]), x[i] - x0[i]
        for coalition in range(2 ** len(x)):
            if not coalition >> i & 1:
                weight, larger = 1 / (len(x) * math.comb(len(x) - 1, coalition.bit_count())), coalition | 1 << i
                effect += weight * (tops[larger] - tops[coalition])
                tied, count = ties[larger]
                limit += weight * tied[i] / count
        # Between 0 and 1 by definition, which rounding would leave where the change is tiny.
        slopes.append(torch.where(delta == 0, limit, _quotient(effect, delta).clamp(0, 1)))
    return slopes


def _run(call: Call) -> tuple[Any, Tensor]:
    """Return what the operator returns, and its maxima without the indices that may go with them."""
    raw = call.run(*map(Tensor.detach, call.operands))
    return raw, raw if isinstance(raw, Tensor) else raw[0]


def _attached(raw: Any, value: Tensor, pull: Pull, call: Call, saved: list[Tensor]) -> Any:
    out = ruled(value, pull, call.operands, [each.detach() for each in saved])
    return out if isinstance(raw, Tensor) else type(raw)((out, *raw[1:]))


def _points(call: Call) -> list[Tensor]:
    pairs = zip(call.operands, call.reference, strict=True)
    return [*call.operands, *(reference.expand_as(operand) for operand, reference in pairs)]


def _rows(view: Windows, points: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    half = len(points) // 2
    return view.rows(*points[:half]) * view.sign, view.rows(*points[half:]) * view.sign


def _quotient(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 0 where part is 0: masked entries of -inf change by nan and get nothing."""
    return torch.where(part == 0, 0.0, part / whole)


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
