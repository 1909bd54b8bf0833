"""How far numbers may be apart by the rounding of floating-point arithmetic alone."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_DECIMALS = 5  # that outputs are recognised as rounded to; float32 numbers between .1 and 1 have seven
CHANCE = 0.02  # of a step, within which a number is on it: larger ones cannot be told from others in float32
ROUNDINGS = 64  # of the largest number, to which the sums of a network add up when they are taken in another order


def rounding_of(dtype: torch.dtype, *numbers: Tensor) -> Tensor:
    r"""Return how far `(n,)` results may be off by rounding: $64\,\epsilon \max_k |a_k|$ over the numbers $a_k$ `(n,)`.

    `numbers` are those that were added or subtracted, such as two scores; $\epsilon$ is the step of `dtype`, the
    coarsest in which they were computed, 0 where that is no floating point.
    """
    step = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    largest = torch.stack([each.double().abs() for each in numbers]).amax(0)
    return ROUNDINGS * step * largest


def sum_rounding(values: Tensor, at_x: Tensor, at_baseline: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    r"""Return how far `(n,)` the sum of a map may be from $f(x) - f(b)$ by rounding, of $f$ and of $\sum_i |A_i|$.

    `values` `(n, ...)` is the map; `dtype` is what the model computes in, None that of the scores. A gap below it says
    nothing against the map, and a change of the score below it is no change.
    """
    coarsest = at_x.dtype if dtype is None else dtype
    return rounding_of(coarsest, at_x, at_baseline, values.double().abs().flatten(1).sum(1))


def decimals_of(numbers: Tensor) -> int | None:
    """Return the decimals, 5 at most, that all `numbers` are rounded to; None where they are not, or whole numbers.

    Services round what they answer. At least three different numbers have to show it, for one or two may end by chance.
    """
    values = numbers.detach().double().flatten().unique()
    if len(values) < 3 or bool((values == values.round()).all()):
        return None
    for decimals in range(1, MOST_DECIMALS + 1):
        scaled = values * 10**decimals
        off = torch.finfo(torch.float32).eps * scaled.abs()  # also of numbers that were float32 once
        if float(off.max()) > CHANCE:
            return None
        if bool(((scaled - scaled.round()).abs() <= off).all()):
            return decimals
    return None
