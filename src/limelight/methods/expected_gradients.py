"""Expected gradients: Integrated Gradients over many references, from few points of each line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import LATER, require_number, require_whole
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.random_streams import Streams
from .base import FINE, NOT_MULTIPLIED, Estimate, Method, Needs
from .moments import column, spread_over
from .path import gradients_by_step


@dataclass(frozen=True)
class ExpectedGradients(Method):
    r"""Integrated Gradients averaged over the baseline's references, both sampled together.

    $$A_i = \mathbb{E}_{b,\,t}\left[(x_i - b_i)\,\partial_i f(b + t\,(x - b))\right], \quad t \sim U(0, 1)$$

    Complete in expectation: the values sum to $f(x) - \mathbb{E} f(b)$. References are used equally often, m times each
    or m + 1 times, drawn at random where there are more than `samples`. t is stratified twice: one draw in each of m
    equal parts of [0, 1] for every reference, which divide each such part evenly among themselves. `stderr` is from the
    differences of draws in neighbouring parts: right for rough gradients, too large for those that change steadily
    along the lines (2.6 times for one that is linear in t, more for several alike). `steadiness` is a lower bound.

    `IntegratedGradients()` with the same baseline integrates the line of every reference by refined nodes instead: the
    better choice for references so few that each may have 16 rows or more.

    `noise` > 0 also perturbs the input by a Gaussian of that share of its range: this is GradientSHAP, which promises
    no sum. `multiply=False` leaves out the factor x - b: the map is the expected gradient, in units of the score per
    unit of the input. [erion2021] [lundberg2017]

    >>> data = ll.Samples(torch.rand(20, 3, 16, 16), 10)
    >>> ll.explain(model, x, ll.ExpectedGradients(50), target=2, baseline=data).stderr.shape
    torch.Size([2, 3, 16, 16])
    """

    samples: int = 64
    noise: float = 0.0
    multiply: bool = field(default=True, kw_only=True, metadata=LATER)

    view = FINE
    needs: ClassVar[Needs] = Needs(baseline=True, references=True)

    def __post_init__(self) -> None:
        require_whole(self, "samples", 2)
        require_number(self, "noise", lambda noise: noise >= 0, "0 or a positive share of the input's range")

    @property
    def no_sum(self) -> str | None:  # type: ignore[override]
        if not self.multiply:
            return NOT_MULTIPLIED
        return "noise moves the input, so the sum is not f(x) - f(baseline)" if self.noise else None

    def rows(self, features: torch.Size) -> int | None:
        return self.samples

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        drawn = _drawn(rng, self.samples, len(baseline), x)
        every, sigma = torch.arange(len(x), device=x.device), self.noise * spread_over(x)

        def pair(sample: int, rows: Tensor) -> tuple[Tensor, Tensor]:
            """Return the difference x - b and the point on the path, for the given rows of one sample."""
            own = x[rows]
            if self.noise:
                own = own + sigma[rows] * rng.select(rows.tolist()).normal(f"noise {sample}", x.shape[1:], x)
            reference = baseline[drawn.reference[rows, sample], rows]
            return own - reference, torch.lerp(reference, own, column(drawn.time[rows, sample], x))

        halves = torch.zeros((2, *x.shape), dtype=sum_dtype(x), device=x.device)
        before, squares = torch.zeros_like(halves[0]), torch.zeros_like(halves[0])
        points = (pair(sample, every)[1] for sample in range(self.samples))
        for sample, rows, _, gradient in gradients_by_step(score, points):
            value = (pair(sample, rows)[0] * gradient if self.multiply else gradient).to(halves)
            halves[int(drawn.half[sample]), rows] += value
            if sample % 2:
                squares[rows] += (value - before[rows]).square()
            before[rows] = value
        # The variance of a sum of two draws is the mean of their squared difference, and less where they lie apart.
        pairs = self.samples // 2
        stderr = (squares / (2 * pairs * self.samples)).sqrt()
        second = int(drawn.half.sum())
        means = halves[0] / (self.samples - second), halves[1] / second
        return Estimate((halves.sum(0) / self.samples).to(result_dtype(x)), stderr.to(result_dtype(x)), halves=means)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The reference and the time `(n, samples)` of each sample, and which half of the samples it is in `(samples,)`.

    Samples 2k and 2k + 1 lie in neighbouring parts of [0, 1], of one reference where that has both.
    """

    reference: Tensor
    time: Tensor
    half: Tensor


def _drawn(rng: Streams, samples: int, references: int, like: Tensor) -> _Drawn:
    """Draw the samples: the references that are used once more than the others, then the others."""
    each, more = divmod(samples, references)
    order = rng.permutation("reference", references).to(like.device)
    groups = (order[:, :more], each + 1), (order[:, more:], each)
    found = [_strata(rng, chosen, uses, like) for chosen, uses in groups if chosen.shape[1] and uses]
    times, halves = [group.time for group in found], [group.half for group in found]
    return _Drawn(torch.cat([group.reference for group in found], 1), torch.cat(times, 1), torch.cat(halves))


def _strata(rng: Streams, chosen: Tensor, uses: int, like: Tensor) -> _Drawn:
    """Draw one time in each of `uses` parts for each of `chosen` `(n, count)` references.

    Each part has `count` equal cells, and each reference takes one of them. The first part's cells are in the order of
    the references, which is random itself.
    """
    count = chosen.shape[1]
    part, place = torch.arange(uses, device=like.device), torch.arange(count, device=like.device)
    cell = rng.uniform(f"cell of {uses}", (count, uses), like).argsort(1)
    cell[:, :, 0] = place
    time = (part + (cell + rng.uniform(f"t of {uses}", (count, uses), like)) / count) / uses
    half = (part + place[:, None]) % 2  # evenly over the references and over the parts
    # There and back: the last part of one reference is followed by the last of the next.
    time[:, 1::2], half[1::2] = time[:, 1::2].flip(2), half[1::2].flip(1)
    return _Drawn(chosen.repeat_interleave(uses, 1), time.flatten(1).to(like.dtype), half.flatten())
