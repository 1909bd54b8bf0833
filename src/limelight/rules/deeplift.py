r"""DeepLIFT: multipliers of finite differences from a reference. [shrikumar2017]

Every rule here is *complete*: its multipliers times the operands' differences sum to the output's difference exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Call
from .engine import Native, Propagate, Propagation
from .maxima import MaxDifference, WhereDifference
from .multilinear import ProductDifference
from .names import NONLINEAR
from .predicates import is_kind, named
from .ruled import ruled


@dataclass(frozen=True, eq=False)
class Normalised:
    r"""$y = w\,x_c / \sigma + b$, $x_c = x - \bar x$ (or $x$ for RMS), $\sigma = \sqrt{\overline{x_c^2} + \epsilon}$.

    `rows(t)` brings a tensor shaped like the input to (..., M); `weight` broadcasts to the input's shape.
    """

    weight: Tensor | None
    epsilon: float
    centred: bool
    rows: Callable[[Tensor], Tensor]

    def centre(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(-1, keepdim=True) if self.centred else rows

    def scale(self, centred: Tensor) -> Tensor:
        return (centred.square().mean(-1, keepdim=True) + self.epsilon).sqrt()


def normalised(call: Call) -> Normalised | None:
    """View a normalisation's call; None where it uses running statistics, which makes it affine."""
    given: dict[str, Any] = call.bound()
    x: Tensor = given["input"]
    weight: Tensor | None = given.get("weight")
    epsilon = given.get("eps")
    if call.name in ("layer_norm", "rms_norm"):
        axes = len(given["normalized_shape"])
        epsilon = (1e-5 if call.name == "layer_norm" else torch.finfo(x.dtype).eps) if epsilon is None else epsilon
        return Normalised(weight, epsilon, call.name == "layer_norm", lambda t: t.flatten(-axes))
    if call.name != "group_norm" and not given.get("use_input_stats", True):
        return None
    groups = given["num_groups"] if call.name == "group_norm" else x.shape[1]
    if weight is not None:
        weight = weight.view(-1, *[1] * (x.ndim - 2))
    return Normalised(weight, 1e-5 if epsilon is None else epsilon, True, lambda t: t.reshape(t.shape[0], groups, -1))


# Piecewise linear with slopes 0 and 1 only: within a piece y - y0 is x - x0 or 0 to the last bit, and across a kink
# there is no cancellation, so their quotient is exact however close x and x0 are.
_STEPS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "relu6": F.relu6}


def divided_difference(call: Call, x: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return $y$ and $(y - y_0) / (x - x_0)$ of an elementwise operator, where $x = x_0$ the derivative between them.

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
        if call.inverted:
            return Quotient()(call, propagate)
        middle = [(a.detach() + a0) / 2 for a, a0 in zip(call.operands, call.reference, strict=True)]
        return ruled(call.run(*map(Tensor.detach, call.operands)), product_pull(call), call.operands, middle)


def product_pull(call: Call, share: float = 1.0) -> Any:
    """Return the multipliers of a product's operands, `share` of each derivative at the saved point."""
    call = call.detached()

    def pull(g: Tensor, *point: Tensor) -> tuple[Tensor | None, ...]:
        twice = torch.is_grad_enabled()  # a first layer's rule differentiates this again
        with torch.enable_grad():
            leaves = [p.detach().expand_as(o).requires_grad_() for p, o in zip(point, call.operands, strict=True)]
            found = torch.autograd.grad(call.run(*leaves), leaves, g * share, create_graph=twice)
        return tuple(found)

    return pull


def scaled_pull(call: Call) -> Any:
    """Return the multipliers of a product with a scale, which is saved and counts as a constant."""
    scale, call = call.reciprocal, call.detached()
    assert scale is not None

    def pull(g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        twice = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = torch.zeros_like(call.operands[1 - scale]).requires_grad_()
            operands = [leaf, saved[0]] if scale == 1 else [saved[0], leaf]
            (found,) = torch.autograd.grad(call.run(*operands), leaf, g, create_graph=twice)
        return (found, None) if scale == 1 else (None, found)

    return pull


@dataclass(frozen=True)
class Quotient:
    r"""$y = a / b$ from $a = y\,b$: $\Delta y = (\Delta a - \bar y\,\Delta b) / \bar b$, bars for midpoints.

    A product $y = a\,r$ with $r = 1 / b$ is the same: $\Delta y = h\,\Delta a + (y + y_0) / (r + r_0)\,\Delta r$ with
    the harmonic mean $h$ of $r$ and $r_0$. Where b changes its sign, or is itself a reciprocal or a gate's
    denominator, a and 1 / b are factors at their midpoints.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        if call.reciprocal is not None:
            return self._scaled(call, call.reciprocal)
        (a, b), (a0, b0) = call.operands, call.reference
        y = call.run(a.detach(), b.detach())
        value = b.detach()
        same = ((value * b0 > 0) | (value == b0)) & (not call.inverted)
        over_a = torch.where(same, 2 / (value + b0), (1 / value + 1 / b0) / 2)
        over_b = torch.where(same, (y + a0 / b0) / (value + b0), (a.detach() + a0) / 2 / (value * b0))

        def pull(g: Tensor, over_a: Tensor, over_b: Tensor) -> tuple[Tensor | None, ...]:
            return (g * over_a).sum_to_size(a.shape), (-g * over_b).sum_to_size(b.shape)

        return ruled(y, pull, [a, b], [over_a, over_b])

    def _scaled(self, call: Call, scale: int) -> Tensor:
        values = [operand.detach() for operand in call.operands]
        r, r0 = values[scale], call.reference[scale]
        same = r * r0 > 0
        mean = torch.where(same, 2 / (1 / r + 1 / r0), (r + r0) / 2)
        share = torch.where(same, r / (r + r0), 0.5)  # of a; the rest is of the reference's
        pull_scaled, other = scaled_pull(call), replace(call, reciprocal=1 - scale)

        def pull(g: Tensor, mean: Tensor, share: Tensor, a: Tensor, a0: Tensor) -> tuple[Tensor | None, ...]:
            found = list(pull_scaled(g, mean))
            at, at0 = (scaled_pull(other)(g, point)[scale] for point in (a, a0))
            found[scale] = share * at + (1 - share) * at0
            return tuple(found)

        a, a0 = values[1 - scale], call.reference[1 - scale].expand_as(values[1 - scale])
        return ruled(call.run(*values), pull, call.operands, [mean, share, a.clone() if call.in_place else a, a0])


@dataclass(frozen=True)
class SoftmaxDifference:
    r"""Softmax, log-softmax and logsumexp, exactly and without overflow.

    With $L = \log\sum_j e^{x_j}$ and $\ell(a, b) = (e^a - e^b) / (a - b)$ at the log-probabilities,
    $\ell_j = \ell(x_j - L, x_{0j} - L_0)$: $\Delta p_j = \ell_j\,(\Delta x_j - \Delta L)$. They sum to 0, so that
    $\Delta L = \sum_j q_j\,\Delta x_j$ with $q_j = \ell_j / \sum_k \ell_k$, which no common shift of x changes.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,), (x0,) = call.operands, call.reference
        given = call.bound()
        dim = given["dim"] if given.get("dim") is not None else (0 if x.ndim in (0, 1, 3) else 1)
        y = call.run(x.detach())
        value, x0 = x.detach().to(y.dtype), x0.to(y.dtype)  # softmax may be taken in another precision
        slope = mean_exponential(_log_probabilities(value, dim), _log_probabilities(x0, dim))
        total = slope.sum(dim, keepdim=True)
        q, kept = slope / total, total.shape

        def pull(g: Tensor, q: Tensor, slope: Tensor) -> tuple[Tensor | None, ...]:
            if call.name == "logsumexp":
                return (q * g.reshape(kept),)
            g = g * slope if call.name == "softmax" else g
            return (g - q * g.sum(dim, keepdim=True),)

        return ruled(y, pull, [x], [q, slope])


def _log_probabilities(x: Tensor, dim: Any) -> Tensor:
    x = x - x.amax(dim, keepdim=True)  # before the sum, or a common shift would cost digits
    return x - x.logsumexp(dim, keepdim=True)


def mean_exponential(a: Tensor, b: Tensor) -> Tensor:
    r"""Return $(e^a - e^b) / (a - b)$, the mean of the exponential between a and b; 0 where both are -inf (masked)."""
    high, gap = torch.maximum(a, b), (a - b).abs()
    gap = gap.nan_to_num(nan=0.0, posinf=torch.inf)
    ratio = torch.where(gap < 1e-12, 1.0, -torch.expm1(-gap) / gap.clamp(min=1e-12))
    return high.exp() * ratio


@dataclass(frozen=True)
class NormDifference:
    r"""Layer, group, instance and RMS norm, from $x_c = y\,\sigma$ read as a product at midpoints.

    $$\Delta y = (\Delta x_c - \bar y\,\Delta\sigma) / \bar\sigma, \qquad
    \Delta\sigma = \overline{\bar x_c \Delta x_c} / \bar\sigma$$

    It is the ordinary derivative with means over input and reference, and stays bounded where a constant reference has
    no variance, which a separate rule for the reciprocal of sigma would not.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        norm = normalised(call)
        if norm is None:
            return propagate.native(call, covered=True)  # running statistics: an affine operator
        propagate.normalised = True
        (x,), (x0,) = call.operands, call.reference
        c, c0 = norm.centre(norm.rows(x.detach())), norm.centre(norm.rows(x0))
        s, s0 = norm.scale(c), norm.scale(c0)
        sigma, centre, middle = (s + s0) / 2, (c + c0) / 2, (c / s + c0 / s0) / 2

        def pull(g: Tensor, sigma: Tensor, centre: Tensor, middle: Tensor) -> tuple[Tensor | None, ...]:
            h = norm.rows(g if norm.weight is None else g * norm.weight) / sigma
            h = norm.centre(h - centre * (h * middle).mean(-1, keepdim=True) / sigma)
            return (h.reshape(g.shape),)

        return ruled(call.run(x.detach()), pull, [x], [sigma, centre, middle])


RESCALE = Propagation(
    "DeepLift",
    (
        (is_kind("activation"), Rescale()),
        (named("prod"), ProductDifference()),
        (is_kind("product"), Midpoint()),
        (is_kind("quotient"), Quotient()),
        (is_kind("softmax"), SoftmaxDifference()),
        (is_kind("normalisation"), NormDifference()),
        (is_kind("max", "maximum"), MaxDifference()),
        (is_kind("where"), WhereDifference()),
        (is_kind("affine", "sum", "batch_norm"), Native()),
    ),
    taped=NONLINEAR,
    folds=True,
)
