r"""Shapley values from a few pairs of opposite coalitions, with their standard errors.

Write a coalition as signs $z \in \{-1, 1\}^M$. Only the odd part of a game, $g(z) = v(z) - v(-z)$, carries Shapley
values, and its product $\prod_{i \in T} z_i$ over an odd set T gives each of its players $1 / |T|$. Least squares on
the linear part alone (KernelSHAP) treats the products of three and more players as noise. Here a Gaussian process
models them, with the covariance

$$k(z, z') = \frac{\sinh u - u}{\sinh c - c}, \qquad u = \frac cM \sum_i z_i z'_i$$

which holds the products of 3, 5, 7, ... players, over a linear part that is left free (universal kriging,
[matheron1969]). Through Owen's multilinear extension [owen1972] its Shapley values are one-dimensional integrals.
c sets how fast products of more players decay; restricted likelihood chooses it for each game. All players count alike,
so that the covariance depends on the coalitions alone: one factor serves all games on them.

With $K = L L^\top$, Z the signs `(n, M)`, d the data, C the covariances of the data with the players' values, their own
variance s, and a hat for $\hat B = L^{-1} B$:

$$\beta = (\hat Z^\top \hat Z)^{-1} \hat Z^\top \hat d, \quad r = \hat d - \hat Z \beta, \quad
  \phi = \beta + \hat C^\top r, \quad
  \mathrm{Var}\,\phi_i \propto s - |\hat C_i|^2 + g_i^\top (\hat Z^\top \hat Z)^{-1} g_i,
  \quad g = I - \hat Z^\top \hat C$$
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..base.devices import CPU

STRENGTHS = (0.1, 1.0, 2.0, 4.0, 8.0, 16.0, 40.0)  # c: cubic alone up to nearly independent coalitions
LEAST_SPARE = 3  # pairs beyond those that determine the linear part; with fewer the rest stays unknown
_ENOUGH = 1024  # pairs to choose a covariance by; all of them are then fitted
_NODES = 32
_NUGGET = 1e-9  # of the variance; keeps the covariance positive definite where few products matter
_CELLS = {"cuda": 2**28}  # of the covariances that are held at once, by device
_BLOCK = 512  # rows or columns of a matrix that are made at a time


@dataclass(frozen=True)
class Pairs:
    """A game as it was sampled: pairs of `coalitions` `(n, M)` (booleans) and their complements, the `differences`
    `(n,)` of their worth, and `change` = v(all players) - v(no player), to which the values sum. The pairs must
    determine the linear part (rank M)."""

    coalitions: Tensor
    differences: Tensor
    change: float

    def part(self, index: Tensor) -> Pairs:
        """Return some of the pairs."""
        return replace(self, coalitions=self.coalitions[index], differences=self.differences[index])


@dataclass(frozen=True)
class Kriged:
    """Shapley values `(M,)` and their standard errors, NaN with too few pairs: float64 on the CPU.

    `weights` `(M, n)` are those of the differences in the values, once the covariance is chosen; None unless asked for.
    """

    values: Tensor
    errors: Tensor
    weights: Tensor | None = None


def shapley_by_kriging(games: Sequence[Pairs], device: torch.device = CPU, weights: bool = False) -> list[Kriged]:
    """Estimate the Shapley values of each game in float64 on `device`, the CPU where that has none.

    Exact where the odd part of a game is linear. Games on the same coalitions share all factors, and others of one
    size are computed together, as many as some memory holds.
    """
    place = device if device.type in ("cpu", "cuda") else CPU
    designs: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
    for number, each in enumerate(games):
        key = tuple(each.coalitions.shape), np.packbits(each.coalitions.numpy()).tobytes()
        designs.setdefault(key, []).append(number)
    alike: dict[tuple[int, ...], list[list[int]]] = {}
    for (shape, _), numbers in designs.items():
        alike.setdefault((*shape, len(numbers)), []).append(numbers)
    found: dict[int, Kriged] = {}
    for (pairs, _, _), groups in alike.items():
        most = max(1, _CELLS.get(place.type, 2**23) // (pairs + 1) ** 2)
        for start in range(0, len(groups), most):
            part = groups[start : start + most]
            signs = torch.stack([_signs(games[numbers[0]]) for numbers in part]).to(place)
            data = torch.stack([torch.stack([_data(games[i]) for i in numbers], 1) for numbers in part]).to(place)
            for numbers, of_group in zip(part, _solved(signs, data, weights), strict=True):
                found |= zip(numbers, of_group, strict=True)
    return [found[number] for number in range(len(games))]


def _signs(game: Pairs) -> Tensor:
    """Return the signs of the whole input and of the coalitions `(n + 1, M)`."""
    return torch.cat([torch.ones(1, game.coalitions.shape[1]), game.coalitions * 2.0 - 1.0]).double()


def _data(game: Pairs) -> Tensor:
    return torch.cat([torch.tensor([game.change], dtype=torch.float64), game.differences.double().cpu()])


def _solved(signs: Tensor, data: Tensor, weights: bool) -> list[list[Kriged]]:
    """Solve the games of several designs, `signs` `(designs, n, M)` and `data` `(designs, n, games)`."""
    designs, pairs, players = signs.shape
    q, r = torch.linalg.qr(signs)
    linear = _by_game(lambda own: torch.linalg.solve_triangular(r, q.mT @ own, upper=True), data)
    rest = (data - _by_game(lambda own: signs @ own, linear)).abs().amax(1, keepdim=True)
    is_linear = rest <= 1e-12 * data.abs().amax(1, keepdim=True)
    values = torch.where(is_linear, linear, _summing_to(linear, data[:, :1]))
    errors = torch.zeros_like(values).where(is_linear, torch.nan)
    of_data = torch.linalg.pinv(signs) if weights else signs.new_zeros(designs, 0, pairs)
    of_games = of_data[:, None].expand(-1, data.shape[2], -1, -1).clone() if weights else None
    if pairs - players >= LEAST_SPARE and not bool(is_linear.all()):
        few = max(_ENOUGH, 2 * players)
        best = torch.stack([_Fit(signs[:, :few], data[:, :few], c).likelihood() for c in STRENGTHS]).argmax(0)
        for number, strength in enumerate(STRENGTHS):
            wanted = (best[:, None] == number) & ~is_linear
            own = wanted.any(2)[:, 0].nonzero()[:, 0]
            if not len(own):
                continue
            fit, chosen = _Fit(signs[own], data[own], strength, with_players=True), wanted[own]
            values[own] = torch.where(chosen, _summing_to(fit.values(), data[own, :1]), values[own])
            errors[own] = torch.where(chosen, fit.errors(), errors[own])
            if of_games is not None:
                of_games[own] = torch.where(chosen[:, 0, :, None, None], fit.weights()[:, None], of_games[own])
    values, errors = values.mT.cpu(), errors.mT.cpu()
    return [
        [
            Kriged(values[d, g], errors[d, g], None if of_games is None else of_games[d, g, :, 1:].cpu())
            for g in range(data.shape[2])
        ]
        for d in range(designs)
    ]


def _by_game(change: Callable[[Tensor], Tensor], data: Tensor) -> Tensor:
    """Return what `change` makes of the data of each game, `(designs, n, games)`.

    One by one: of several right sides at once the last digits depend on how many there are.
    """
    return torch.cat([change(data[:, :, i : i + 1].contiguous()) for i in range(data.shape[2])], 2)


def _summing_to(values: Tensor, change: Tensor) -> Tensor:
    """Correct the sum, which rounding and the nugget changed, equally for all players."""
    return values + (change - values.sum(1, keepdim=True)) / values.shape[1]


class _Fit:
    """One covariance on several designs: the restricted likelihood, values and errors of all games on them.

    `with_players` computes what the values need. No more than two matrices `(designs, n, n)` are held.
    """

    def __init__(self, signs: Tensor, data: Tensor, strength: float, with_players: bool = False) -> None:
        self._players, self._strength = signs.shape[2], strength
        self._spare = signs.shape[1] - self._players
        self._factor: Tensor = torch.linalg.cholesky(self._covariance(signs))
        right = torch.cat([signs, *([self._with_data(signs)] if with_players else [])], 2)
        white = torch.linalg.solve_triangular(self._factor, right, upper=False)
        self._signs: Tensor = white[:, :, : self._players]
        self._of_players: Tensor = white[:, :, self._players :]
        self._inner: Tensor = torch.linalg.cholesky(self._signs.mT @ self._signs)
        of_data = _by_game(lambda own: torch.linalg.solve_triangular(self._factor, own, upper=False), data)
        # Generalised least squares.
        self._linear: Tensor = _by_game(lambda own: torch.cholesky_solve(self._signs.mT @ own, self._inner), of_data)
        self._rest: Tensor = of_data - _by_game(lambda own: self._signs @ own, self._linear)

    def likelihood(self) -> Tensor:
        """Return the restricted likelihood of each game `(designs, games)`."""
        both = [each.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True) for each in (self._factor, self._inner)]
        return -0.5 * self._spare * self._rest.square().sum(1).log() - both[0] - both[1]

    def values(self) -> Tensor:
        """Return the Shapley values `(designs, M, games)`."""
        return self._linear + _by_game(lambda own: self._of_players.mT @ own, self._rest)

    def errors(self) -> Tensor:
        """Return their standard errors `(designs, M, games)`."""
        missed = torch.eye(self._players).to(self._signs) - self._signs.mT @ self._of_players
        of_linear = torch.linalg.solve_triangular(self._inner, missed, upper=False)
        variance = self._own() - self._of_players.square().sum(1) + of_linear.square().sum(1)
        # The scale is from leaving each pair out in turn: the likelihood's is too large for a smooth game with a few
        # large pairs. The factor (n - M) / (n - M - 2) accounts for the scale's own uncertainty.
        left_out = _by_game(self._back, self._rest).square() / self._precisions()[..., None]
        scale = left_out[:, 1:].mean(1, keepdim=True) * self._spare / (self._spare - 2)
        found: Tensor = (scale * variance.clamp(min=0)[..., None]).sqrt()
        return found

    def weights(self) -> Tensor:
        """Return the weights of the data in the values `(designs, M, n)`."""
        to_linear = torch.cholesky_solve(self._back(self._signs).mT, self._inner)
        return to_linear + self._back(self._of_players).mT - (self._of_players.mT @ self._signs) @ to_linear

    def _back(self, white: Tensor) -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(self._factor.mT, white, upper=True)
        return found

    def _precisions(self) -> Tensor:
        """Return the diagonal `(designs, n)` of the data's precision without the linear part."""
        of_linear = torch.linalg.solve_triangular(self._inner, self._back(self._signs).mT, upper=False)
        found: Tensor = -of_linear.square().sum(1)
        for start in range(0, found.shape[1], _BLOCK):  # the inverse's diagonal, without the inverse
            below = self._factor[:, start:, start:]
            unit = torch.eye(below.shape[1], min(_BLOCK, below.shape[1])).to(below).expand(len(below), -1, -1)
            columns = torch.linalg.solve_triangular(below, unit, upper=False)
            found[:, start : start + _BLOCK] += columns.square().sum(1)
        return found

    @property
    def _unit(self) -> float:
        c = self._strength  # of a small one the difference cancels
        series = c**3 / 6 * (1 + c**2 / 20 * (1 + c**2 / 42 * (1 + c**2 / 72)))
        return series if c < 0.5 else math.sinh(c) - c

    def _covariance(self, signs: Tensor) -> Tensor:
        """Return the lower half of the covariance `(designs, n, n)` of the data."""
        designs, pairs, players = signs.shape
        found, whole = signs.new_zeros(designs, pairs, pairs), signs.float()  # sums of signs are exact
        for start in range(0, pairs, _BLOCK):
            rows = slice(start, start + _BLOCK)
            u = (whole[:, rows] @ whole[:, : rows.stop].mT).double().mul_(self._strength / players)
            found[:, rows, : rows.stop] = u.sinh().sub_(u).div_(self._unit)
        found.diagonal(dim1=1, dim2=2).add_(_NUGGET)
        return found

    def _with_data(self, signs: Tensor) -> Tensor:
        """Return the covariance of each player's Shapley value with the data, `(designs, n, M)`.

        With E z = x for the players at the others' turn, E exp(a z z') is cosh a + x z' sinh a for each of them.
        """
        a, players = self._strength / self._players, self._players
        nodes, weights = (torch.from_numpy(each).to(signs) for each in np.polynomial.legendre.leggauss(_NODES))
        with_it, without = (math.cosh(a) + sign * nodes * math.sinh(a) for sign in (1, -1))
        size = torch.arange(players + 1, device=signs.device)[:, None]  # of the coalition
        beside = with_it ** (size - 1).clamp(min=0) * without ** (players - size)
        outside = with_it**size * without ** (players - 1 - size).clamp(min=0)
        present, absent = (math.sinh(a) * (each @ weights) / 2 - a for each in (beside, outside))
        own = (signs > 0).sum(2, keepdim=True).expand_as(signs)
        return torch.where(signs > 0, present[own], -absent[own]) / self._unit

    def _own(self) -> float:
        """Return the variance of a player's Shapley value."""
        a = self._strength / self._players
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        others = (math.cosh(a) + np.outer(nodes, nodes) * math.sinh(a)) ** (self._players - 1)
        return float(math.sinh(a) * (weights @ others @ weights) / 4 - a) / self._unit
