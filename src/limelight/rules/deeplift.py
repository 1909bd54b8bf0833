r"""DeepLIFT: multipliers of finite differences from a reference. [shrikumar2017]

Every rule here is *complete*: its multipliers times the operands' differences sum to the output's difference exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Call
from .differences import NormDifference, SoftmaxDifference
from .engine import Native, Propagate, Propagation, ruled
from .maxima import MaxDifference, MaximumDifference, WhereDifference
from .names import NONLINEAR
from .predicates import is_kind

# Piecewise linear with slopes 0 and 1 only: within a piece y - y0 is x - x0 or 0 to the last bit, and across a kink
# there is no cancellation, so their quotient is exact however close x and x0 are.
_STEPS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "relu6": F.relu6}


def divided_difference(call: Call, x: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    r"""$y$ and $(y - y_0) / (x - x_0)$ of an elementwise operator; the derivative between them where they coincide.

    They coincide within $\epsilon^{2/3}$ of their size: activations of 1e-9 in a deep network still differ, while for
    ReLU no kink can lie between two numbers that close. The derivative's midpoint makes the error third order.
    """
    step = _STEPS.get(call.name)
    if step is not None:
        y, delta = step(x), x - x0
        slope = (y - step(x0)).div_(delta)
        near = slope.isnan()  # 0 / 0
    else:
        y, y0, delta = call.run(x), call.run(x0), x - x0
        near = delta.abs() <= torch.finfo(x.dtype).eps ** (2 / 3) * torch.maximum(x.abs(), x0.abs())
        slope = (y - y0) / delta.masked_fill(near, 1.0)
    if near.any():
        with torch.enable_grad():
            z = ((x + x0) / 2).requires_grad_()
            (derivative,) = torch.autograd.grad(call.run(z).sum(), z)
        slope = torch.where(near, derivative.nan_to_num(0.0, 0.0, 0.0), slope)  # sqrt at 0: infinite, times nothing
    return y, slope


@dataclass(frozen=True)
class Rescale:
    r"""Elementwise operators: $m_x = m_y\,(y - y_0) / (x - x_0)$."""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,), (x0,) = call.operands, call.reference
        y, slope = divided_difference(call, x.detach(), x0)
        return ruled(y, lambda g, slope: (g * slope,), [x], [slope])


@dataclass(frozen=True)
class Midpoint:
    r"""Products of two activations: each operand's derivative at the midpoint $(x + x_0) / 2$, exact for them."""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        middle = [(a.detach() + a0) / 2 for a, a0 in zip(call.operands, call.reference, strict=True)]
        return ruled(call.run(*map(Tensor.detach, call.operands)), product_pull(call), call.operands, middle)


def product_pull(call: Call, share: float = 1.0) -> Any:
    """The multipliers of a product's operands, `share` of each derivative at the saved point."""

    def pull(g: Tensor, *point: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            leaves = [p.detach().expand_as(o).requires_grad_() for p, o in zip(point, call.operands, strict=True)]
            found = torch.autograd.grad(call.run(*leaves), leaves, g * share)
        return tuple(found)

    return pull


@dataclass(frozen=True)
class Quotient:
    r"""$y = a / b$ from $a = y\,b$: $\Delta y = (\Delta a - \bar y\,\Delta b) / \bar b$, bars for midpoints."""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (a, b), (a0, b0) = call.operands, call.reference
        y = call.run(a.detach(), b.detach())
        middle, denominator = (y + a0 / b0) / 2, (b.detach() + b0) / 2

        def pull(g: Tensor, middle: Tensor, denominator: Tensor) -> tuple[Tensor | None, ...]:
            g = g / denominator
            return g.sum_to_size(a.shape), (-g * middle).sum_to_size(b.shape)

        return ruled(y, pull, [a, b], [middle, denominator])


RESCALE = Propagation(
    "DeepLift",
    (
        (is_kind("activation"), Rescale()),
        (is_kind("product"), Midpoint()),
        (is_kind("quotient"), Quotient()),
        (is_kind("softmax"), SoftmaxDifference()),
        (is_kind("normalisation"), NormDifference()),
        (is_kind("max"), MaxDifference()),
        (is_kind("maximum"), MaximumDifference()),
        (is_kind("where"), WhereDifference()),
        (is_kind("affine", "sum", "batch_norm"), Native()),
    ),
    taped=NONLINEAR,
)
