r"""Shapley values from a few pairs of opposite coalitions, with their standard errors.

Write a coalition as signs $z \in \{-1, 1\}^M$. Only the odd part of a game, $g(z) = v(z) - v(-z)$, carries Shapley
values, and its product $\prod_{i \in T} z_i$ over an odd set T gives each of its players $1 / |T|$. Least squares on
the linear part alone (KernelSHAP) treats the products of three and more players as noise. Here a Gaussian process
models them, with the covariance

$$k(z, z') = \frac{\sinh u - u}{\sinh c - c}, \qquad u = \sum_i a_i z_i z'_i,\ a_i \ge 0,\ \sum_i a_i = c$$

which holds the products of 3, 5, 7, ... players, over a linear part that is left free (universal kriging,
[matheron1969]). Through Owen's multilinear extension [owen1972] its Shapley values are one-dimensional integrals.
c sets how fast products of more players decay. Restricted likelihood chooses c, and whether all a_i are equal or
proportional to the players' linear effects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

STRENGTHS = (0.1, 1.0, 2.0, 4.0, 8.0, 16.0, 40.0)  # c: cubic alone up to nearly independent coalitions
LEAST_SPARE = 3  # pairs beyond those that determine the linear part; with fewer the rest stays unknown
_ENOUGH = 1024  # pairs to choose a covariance by; all of them are then fitted
_NODES = 32
_NUGGET = 1e-9  # of the variance; keeps the covariance positive definite where few products matter


@dataclass(frozen=True)
class Kriged:
    """Shapley values `(M,)` and their standard errors, NaN with too few pairs.

    `weights` `(M, n)` are those of the differences in the values, once the covariance is chosen.
    """

    values: Tensor
    errors: Tensor
    weights: Tensor | None = None


def shapley_by_kriging(coalitions: Tensor, differences: Tensor, change: float) -> Kriged:
    """Estimate from pairs of `coalitions` `(n, M)` (booleans) and their complements, the `differences` `(n,)` of their
    worth, and `change` = v(all players) - v(no player), to which the values sum.

    Exact where the odd part of the game is linear. The pairs must determine the linear part (rank M).
    """
    signs = torch.cat([torch.ones(1, coalitions.shape[1]), coalitions * 2.0 - 1.0]).double()
    data = torch.cat([torch.tensor([change], dtype=torch.float64), differences.double()])
    linear = torch.linalg.lstsq(signs, data[:, None], driver="gelsd").solution[:, 0]
    rest = (data - signs @ linear).abs().amax()
    if float(rest) <= 1e-12 * float(data.abs().amax()):
        return Kriged(linear, torch.zeros_like(linear), torch.linalg.pinv(signs)[:, 1:])
    if len(signs) - signs.shape[1] < LEAST_SPARE:
        unknown = torch.full_like(linear, torch.nan)
        return Kriged(_summing_to(linear, change), unknown, torch.linalg.pinv(signs)[:, 1:])
    shares = (torch.ones_like(linear), (linear.abs() / linear.abs().amax()).clamp(min=1e-3))
    few = max(_ENOUGH, 2 * signs.shape[1])
    trials = [strength * share / share.sum() for share in shares for strength in STRENGTHS]
    best = max(trials, key=lambda scales: _Fit(signs[:few], data[:few], scales).likelihood)
    found = _Fit(signs, data, best).shapley()
    assert found.weights is not None
    return replace(found, values=_summing_to(found.values, change), weights=found.weights[:, 1:])


def _summing_to(values: Tensor, change: float) -> Tensor:
    """Correct the sum, which rounding and the nugget changed, equally for all players."""
    return values + (change - values.sum()) / len(values)


class _Fit:
    """The fit of one covariance: its restricted likelihood, and the Shapley values with their errors."""

    def __init__(self, signs: Tensor, data: Tensor, scales: Tensor) -> None:
        self.signs, self.data, self.scales = signs, data, scales
        self.strength = float(scales.sum())
        products = (signs * scales) @ signs.T
        self.covariance = (products.sinh() - products) / self._unit
        self.covariance.diagonal().add_(_NUGGET)
        factor = torch.linalg.cholesky(self.covariance)
        white = torch.linalg.solve_triangular(factor, torch.cat([signs, data[:, None]], 1), upper=False)
        self.inner = torch.linalg.cholesky(white[:, :-1].T @ white[:, :-1])
        linear = torch.cholesky_solve(white[:, :-1].T @ white[:, -1:], self.inner)
        residual = white[:, -1:] - white[:, :-1] @ linear
        self.factor, self.spare = factor, len(data) - signs.shape[1]
        logs = factor.diagonal().log().sum() + self.inner.diagonal().log().sum()
        self.likelihood = -0.5 * self.spare * math.log(float(residual.square().sum())) - float(logs)

    @property
    def _unit(self) -> float:
        c = self.strength
        return c**3 / 6 * (1 + c**2 / 20) if c < 0.5 else math.sinh(c) - c  # the difference cancels for a small c

    def shapley(self) -> Kriged:
        inverse = torch.cholesky_inverse(self.factor)
        on_linear = inverse @ self.signs
        to_linear = torch.cholesky_solve(on_linear.T, self.inner)  # generalised least squares, (M, n)
        to_rest = inverse - on_linear @ to_linear  # the precision without the linear part
        with_data, own = self._functional()
        weights = to_linear + with_data @ to_rest
        variance = own - 2 * (weights * with_data).sum(1) + ((weights @ self.covariance) * weights).sum(1)
        # The scale is from leaving each pair out in turn: the likelihood's is too large for a smooth game with a few
        # large pairs. The factor (n - M) / (n - M - 2) accounts for the scale's own uncertainty.
        left_out = (to_rest @ self.data).square() / to_rest.diagonal()
        scale = left_out[1:].mean() * self.spare / (self.spare - 2)
        return Kriged(weights @ self.data, (scale * variance.clamp(min=0)).sqrt(), weights)

    def _functional(self) -> tuple[Tensor, Tensor]:
        """Return the covariance of each player's Shapley value with the data `(M, n)`, and its variance `(M,)`."""
        nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(_NODES))
        sinh, cosh = self.scales.sinh(), self.scales.cosh()

        def integral(chances: Tensor, signs: Tensor) -> Tensor:
            """Return the product over the other players of E exp(a z z') with E z = `chances` `(q,)`: `(q, n, M)`."""
            each = cosh + chances[:, None, None] * signs * sinh
            return each.prod(2, keepdim=True) / each

        one = integral(nodes, self.signs)
        with_data = self.signs * (sinh * torch.einsum("q,qnm->nm", weights / 2, one) - self.scales)
        both = integral((nodes[:, None] * nodes).flatten(), torch.ones_like(self.signs[:1]))[:, 0]
        own = sinh * ((weights[:, None] * weights / 4).flatten() @ both) - self.scales
        return with_data.T / self._unit, own / self._unit
