"""Quadratures on [0, 1]: nodes and weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..base.named import Named, is_whole, require, require_whole

_BY_EIGENVALUES = 256  # nodes up to which numpy's rule takes milliseconds
_NEWTON_STEPS = 4  # each doubles the digits


@dataclass(frozen=True)
class Quadrature(Named, ABC):
    """`n` nodes t and weights w on [0, 1]; the weights sum to 1. `least` is the smallest n allowed."""

    n: int = 32
    least: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_whole(self, "n", self.least)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        nodes, weights = self.rule()
        return zip(nodes.tolist(), weights.tolist(), strict=True)

    @abstractmethod
    def rule(self) -> tuple[np.ndarray, np.ndarray]:
        """Return nodes and weights, float64."""


@dataclass(frozen=True)
class GaussLegendre(Quadrature):
    """Exact for polynomials of degree 2n - 1: the fastest on smooth networks."""

    def rule(self) -> tuple[np.ndarray, np.ndarray]:
        nodes, weights = np.polynomial.legendre.leggauss(self.n) if self.n <= _BY_EIGENVALUES else _by_newton(self.n)
        return (nodes + 1) / 2, weights / 2


def _by_newton(n: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the nodes on [-1, 1], the roots of the Legendre polynomial $P_n$, and their weights.

    Newton's steps for all roots at once, from $\cos(\pi (4k - 1) / (4n + 2))$, whose error is of order $n^{-2}$. They
    take a time of order $n^2$, numpy's eigenvalues one of order $n^3$.
    """
    x = np.cos(np.pi * (4 * np.arange(n, (n + 1) // 2 - (n % 2), -1) - 1) / (4 * n + 2))  # up to 0, from -1
    for _ in range(_NEWTON_STEPS):
        before, value = np.ones_like(x), x
        for k in range(2, n + 1):
            before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
        slope = n * (x * value - before) / (x**2 - 1)
        x = x - value / slope
    x[n // 2 :] = 0.0  # the middle root of an odd n
    weights = 2 / ((1 - x**2) * slope**2)
    mirrored = slice(n // 2 - 1, None, -1)
    return np.concatenate([x, -x[mirrored]]), np.concatenate([weights, weights[mirrored]])


@dataclass(frozen=True)
class _EqualWeights(Quadrature):
    """Base of the rules t = (k - 1 + offset)/n."""

    offset: ClassVar[float]

    def rule(self) -> tuple[np.ndarray, np.ndarray]:
        return (np.arange(self.n) + self.offset) / self.n, np.full(self.n, 1 / self.n)


@dataclass(frozen=True)
class Midpoint(_EqualWeights):
    """t = (k - 1/2)/n. Error of order n^-2 where the gradient is smooth, and robust to its jumps in ReLU networks."""

    offset: ClassVar[float] = 0.5


@dataclass(frozen=True)
class RiemannLeft(_EqualWeights):
    """t = (k - 1)/n, from the baseline on. Error of order n^-1."""

    offset: ClassVar[float] = 0


@dataclass(frozen=True)
class RiemannRight(_EqualWeights):
    """t = k/n, up to the input: the sum in the paper. Error of order n^-1. [sundararajan2017]"""

    offset: ClassVar[float] = 1


@dataclass(frozen=True)
class Trapezoid(Quadrature):
    """t = (k - 1)/(n - 1), ends at half weight. Error of order n^-2."""

    least: ClassVar[int] = 2

    def rule(self) -> tuple[np.ndarray, np.ndarray]:
        weights = np.full(self.n, 1 / (self.n - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, self.n), weights


class OverNodes:
    """Base of the methods with a `quadrature`: a rule, or a number of nodes of `of_number`."""

    quadrature: Quadrature | int | None
    of_number: ClassVar[type[Quadrature]] = GaussLegendre
    when_none: ClassVar[Mapping[str, Any]] = {}
    other_names: ClassVar[Mapping[str, str]] = dict.fromkeys(("steps", "n_steps", "nodes", "n"), "quadrature")

    def read_quadrature(self) -> None:
        """Turn a number of nodes into a rule. Raises ValueError for anything else that is no rule."""
        nodes: Any = self.quadrature
        if is_whole(nodes, 1) and nodes is not True:
            object.__setattr__(self, "quadrature", self.of_number(int(nodes)))
        fits = isinstance(self.quadrature, Quadrature) or (self.quadrature is None and bool(self.when_none))
        require(fits, self, "quadrature", "a number of nodes, or a Quadrature such as Midpoint(50)")

    @property
    def rule(self) -> Quadrature:
        """The quadrature, also where a number of nodes or none was given."""
        found = self.when_none["quadrature"] if self.quadrature is None else self.quadrature
        assert isinstance(found, Quadrature)
        return found
