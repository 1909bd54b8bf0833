"""The gradient at the input, and its product with the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..engine.score import Score
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs


@dataclass(frozen=True)
class Gradient(Method):
    r"""The gradient, signed.

    $$A_i = \partial_i f(x)$$

    `heatmap("max")` shows its maximum absolute value over channels. [simonyan2014]
    """

    no_sum: ClassVar[str | None] = "a gradient says how fast the score changes, not how much of it each pixel gave"
    needs: ClassVar[Needs] = Needs(at_inputs=True)
    fixed_rows: ClassVar[int | None] = 1

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        return Estimate(score.gradient(x))


@dataclass(frozen=True)
class InputXGradient(Method):
    r"""Gradient times input.

    $$A_i = x_i \, \partial_i f(x)$$

    Sums to f(x) - f(0) only where the network is linear and without biases. [shrikumar2017]
    """

    no_sum: ClassVar[str | None] = "input x gradient sums to the score only for networks without biases"
    needs: ClassVar[Needs] = Needs(at_inputs=True)
    fixed_rows: ClassVar[int | None] = 1

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        return Estimate(x * score.gradient(x))
