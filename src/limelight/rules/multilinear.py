"""The product of many activations along an axis, which is linear in each of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .call import Call
from .engine import Propagate
from .ruled import ruled


@dataclass(frozen=True)
class ProductDifference:
    r"""Products along an axis: each factor's Shapley value, $m_i = \int_0^1 \partial_i y(x_0 + t\,\Delta)\,dt$.

    The integrand is a polynomial, for which Gauss-Legendre quadrature is exact; for two factors it is `Midpoint`.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,), (x0,) = call.operands, call.reference
        points, weights = np.polynomial.legendre.leggauss((_factors(call) + 1) // 2 or 1)
        nodes = [((point + 1) / 2, weight / 2) for point, weight in zip(points.tolist(), weights.tolist(), strict=True)]

        def pull(g: Tensor, x: Tensor, x0: Tensor) -> tuple[Tensor | None, ...]:
            slopes = (_slope(call, torch.lerp(x0.expand_as(x), x, t), g) * weight for t, weight in nodes)
            return (sum(slopes, torch.zeros_like(x)),)

        return ruled(call.run(x.detach()), pull, [x], [x.detach(), x0])


@dataclass(frozen=True)
class EqualShares:
    """Products along an axis: each of the n factors gets an n-th of the relevance, as `Half` is for two."""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,) = call.operands
        pull: Callable[..., tuple[Tensor | None, ...]] = lambda g, x: (_slope(call, x, g) / _factors(call),)  # noqa: E731
        return ruled(call.run(x.detach()), pull, [x], [x.detach()])


def _factors(call: Call) -> int:
    (x,), dim = call.operands, call.bound().get("dim")
    return x.numel() if dim is None else x.shape[dim]


def _slope(call: Call, at: Tensor, g: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        (found,) = torch.autograd.grad(call.run(leaf), leaf, g)
    return found
