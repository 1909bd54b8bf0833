"""DeepLIFT beyond elementwise operators: softmax, normalisation, each complete in closed form."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .call import Call
from .engine import Propagate, ruled
from .normalise import normalised


@dataclass(frozen=True)
class SoftmaxDifference:
    r"""Softmax, log-softmax and logsumexp, exactly and without overflow.

    With $L = \log\sum_j e^{x_j}$ and $\ell(a, b) = (e^a - e^b) / (a - b)$: $\Delta L = \sum_j q_j\,\Delta x_j$,
    $q_j = \ell(x_j, x_{0j}) / \ell(L, L_0)$; log-softmax is $x - L$, and softmax its exponential, by Rescale.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,), (x0,) = call.operands, call.reference
        given = call.bound()
        dim = given["dim"] if given.get("dim") is not None else (0 if x.ndim in (0, 1, 3) else 1)
        value = x.detach()
        y = call.run(value)
        total, total0 = value.logsumexp(dim, keepdim=True), x0.logsumexp(dim, keepdim=True)
        shift = torch.maximum(total, total0)
        q = mean_exponential(value - shift, x0 - shift) / mean_exponential(total - shift, total0 - shift)
        name = call.name

        def pull(g: Tensor, q: Tensor, slope: Tensor) -> tuple[Tensor | None, ...]:
            if name == "logsumexp":
                return (q * (g if given.get("keepdim") else g.unsqueeze(dim)),)
            g = g * slope if name == "softmax" else g
            return (g - q * g.sum(dim, keepdim=True),)

        slope = mean_exponential(value - total, x0 - total0) if name == "softmax" else q
        return ruled(y, pull, [x], [q, slope])


def mean_exponential(a: Tensor, b: Tensor) -> Tensor:
    r"""$(e^a - e^b) / (a - b)$, the mean of the exponential between a and b; 0 where both are -inf (masked)."""
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
