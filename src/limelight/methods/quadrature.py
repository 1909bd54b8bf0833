"""Quadratures on [0, 1]: nodes and weights, as small values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from ..base.named import Named, is_whole


class Refinement(NamedTuple):
    """A finer rule whose sum is `kept` times the coarser one's plus that over the `fresh` nodes and weights."""

    rule: Quadrature
    kept: float
    fresh: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Quadrature(Named, ABC):
    """`n` nodes t and weights w on [0, 1]; the weights sum to 1. `least` is the smallest n that makes sense."""

    n: int
    least: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not is_whole(self.n, self.least):
            raise ValueError(f"{type(self).__name__}.n={self.n!r}: use a whole number of {self.least} or more")

    def __iter__(self) -> Iterator[tuple[float, float]]:
        nodes, weights = self.rule()
        return zip(nodes.tolist(), weights.tolist(), strict=True)

    def refined(self) -> Refinement:
        """Twice the nodes, all of them new; nested rules keep the nodes that they have."""
        return self._refined(2 * self.n, 0.0, lambda k: True)

    def _refined(self, n: int, kept: float, is_fresh: Callable[[int], bool]) -> Refinement:
        finer = replace(self, n=n)
        return Refinement(finer, kept, tuple(node for k, node in enumerate(finer) if is_fresh(k)))

    @abstractmethod
    def rule(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights, float64."""


@dataclass(frozen=True)
class GaussLegendre(Quadrature):
    """Exact for polynomials of degree 2n - 1: the fastest on smooth networks."""

    n: int = 32

    def rule(self) -> tuple[np.ndarray, np.ndarray]:
        nodes, weights = np.polynomial.legendre.leggauss(self.n)
        return (nodes + 1) / 2, weights / 2


@dataclass(frozen=True)
class Midpoint(Quadrature):
    """t = (k - 1/2)/n. Error of order n^-2 where the gradient is smooth, and robust to its jumps in ReLU networks."""

    n: int = 32

    def rule(self) -> tuple[np.ndarray, np.ndarray]:
        return (np.arange(self.n) + 0.5) / self.n, np.full(self.n, 1 / self.n)

    def refined(self) -> Refinement:
        """Each part in three; the middle one's midpoint is the old one."""
        return self._refined(3 * self.n, 1 / 3, lambda k: k % 3 != 1)


@dataclass(frozen=True)
class RiemannLeft(Quadrature):
    """t = (k - 1)/n, from the baseline on. Error of order n^-1."""

    n: int = 32

    def rule(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(self.n) / self.n, np.full(self.n, 1 / self.n)

    def refined(self) -> Refinement:
        return self._refined(2 * self.n, 1 / 2, lambda k: k % 2 == 1)


@dataclass(frozen=True)
class RiemannRight(Quadrature):
    """t = k/n, up to the input: the sum in the paper. Error of order n^-1. [sundararajan2017]"""

    n: int = 32

    def rule(self) -> tuple[np.ndarray, np.ndarray]:
        return (np.arange(self.n) + 1) / self.n, np.full(self.n, 1 / self.n)

    def refined(self) -> Refinement:
        return self._refined(2 * self.n, 1 / 2, lambda k: k % 2 == 0)


@dataclass(frozen=True)
class Trapezoid(Quadrature):
    """t = (k - 1)/(n - 1), ends at half weight. Error of order n^-2."""

    n: int = 32
    least: ClassVar[int] = 2

    def rule(self) -> tuple[np.ndarray, np.ndarray]:
        weights = np.full(self.n, 1 / (self.n - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, self.n), weights

    def refined(self) -> Refinement:
        return self._refined(2 * self.n - 1, 1 / 2, lambda k: k % 2 == 1)
