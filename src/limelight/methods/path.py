"""Path methods: gradients gathered on the way from a baseline to the input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.named import is_whole, require, require_number, require_tolerance, require_whole
from ..base.notes import Note
from ..engine.score import Score
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs, convergence
from .moments import Moments, spread_over
from .quadrature import GaussLegendre, Quadrature


@dataclass(frozen=True)
class IntegratedGradients(Method):
    r"""Integrate the gradient along the straight line from the baseline $b$ to the input $x$.

    $$A_i = (x_i - b_i) \int_0^1 \partial_i f(b + t\,(x - b))\,\mathrm{d}t$$

    Complete: $\sum_i A_i = f(x) - f(b)$ up to quadrature error. [sundararajan2017]

    With `tolerance` the quadrature is refined, for each example by itself, until the map changes by less than
    the tolerance (relative L1) and |delta| is below tolerance x min(1, |f(x) - f(b)|); at most `most_nodes`.
    All quadratures but GaussLegendre keep their earlier nodes then, so that none is wasted.
    """

    quadrature: Quadrature = GaussLegendre(32)
    tolerance: float | None = None
    most_nodes: int = 2048

    def __post_init__(self) -> None:
        require(isinstance(self.quadrature, Quadrature), self, "quadrature", "a Quadrature such as Midpoint(50)")
        require_tolerance(self)
        if self.tolerance is not None:
            next_n = self.quadrature.refined().rule.n
            enough = is_whole(self.most_nodes, next_n)
            require(enough, self, "most_nodes", f"at least {next_n}, one refinement of the quadrature")

    @property
    def needs(self) -> Needs:
        return Needs(baseline=True)

    def rows(self, features: torch.Size) -> int | None:
        return self.quadrature.n if self.tolerance is None else None

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        values = _integrate(score, x, baseline, self.quadrature)
        if self.tolerance is None:
            return Estimate(values)
        return self._refine(score, x, baseline, values, self.tolerance)

    def _refine(self, score: Score, x: Tensor, baseline: Tensor, values: Tensor, tolerance: float) -> Estimate:
        at_x, at_baseline = score.values(x).double(), score.values(baseline).double()
        change_in_score = at_x - at_baseline
        # Where f(x) and f(b) nearly cancel, completeness cannot be finer than the rounding of either.
        floor = 1e-3 * (at_x.abs() + at_baseline.abs()).clamp(max=1)
        allowed = tolerance * change_in_score.abs().clamp(max=1).maximum(floor)
        active = list(range(len(x)))
        notes: dict[int, Note] = {}
        rule, kept, fresh = self.quadrature.refined()
        while active and rule.n <= self.most_nodes:
            finer = kept * values[active] + _integrate(score.select(active), x[active], baseline[active], fresh)
            change = _norm(finer - values[active]) / _norm(finer).clamp(min=torch.finfo(torch.float64).tiny)
            delta = (finer.double().flatten(1).sum(1) - change_in_score[active]).abs()
            values = values.index_copy(0, torch.tensor(active, device=x.device), finer)
            good = (change <= tolerance) & (delta <= allowed[active])
            for row, i in enumerate(active):
                detail = (
                    f"the last refinement changed the map by {float(change[row]):.2g} and left |delta| "
                    f"{float(delta[row]):.2g}"
                )
                notes[i] = convergence(bool(good[row]), f"with {rule.n} nodes", detail, i)
            active = [i for row, i in enumerate(active) if not good[row]]
            rule, kept, fresh = rule.refined()
        return Estimate(values, notes=tuple(notes[i] for i in sorted(notes)))


def _integrate(score: Score, x: Tensor, baseline: Tensor, nodes: Iterable[tuple[float, float]]) -> Tensor:
    points = ((torch.lerp(baseline, x, t), weight) for t, weight in nodes)
    return (x - baseline) * score.weighted_gradient(points)


def _norm(values: Tensor) -> Tensor:
    return values.double().abs().flatten(1).sum(1)


@dataclass(frozen=True)
class ExpectedGradients(Method):
    r"""Integrated Gradients averaged over the baseline's references, both sampled together.

    $$A_i = \mathbb{E}_{b,\,t}\left[(x_i - b_i)\,\partial_i f(b + t\,(x - b))\right], \quad t \sim U(0, 1)$$

    Complete in expectation: the values sum to $f(x) - \mathbb{E} f(b)$. t is stratified: one draw in each of
    `samples` equal parts of [0, 1]; references are visited equally often, in a random order. `stderr` is that of
    independent draws, which stratification can only improve on. `noise` > 0 also perturbs the input by a Gaussian
    of that share of its range, which makes it GradientSHAP and gives up the sum. [erion2021] [lundberg2017]
    """

    samples: int = 64
    noise: float = 0.0

    def __post_init__(self) -> None:
        require_whole(self, "samples", 2)
        require_number(self, "noise", lambda noise: noise >= 0, "0 or a positive share of the input's range")

    @property
    def no_sum(self) -> str | None:  # type: ignore[override]
        return "noise moves the input, so the sum is not f(x) - f(baseline)" if self.noise else None

    @property
    def needs(self) -> Needs:
        return Needs(baseline=True, references=True)

    def rows(self, features: torch.Size) -> int | None:
        return self.samples

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        references, n = baseline, len(x)
        part = rng.permutation("part of t", self.samples)
        order = rng.permutation("reference", self.samples) % len(references)
        times = (part.to(x) + rng.uniform("t", (self.samples,), x)) / self.samples
        example = torch.arange(n, device=x.device)
        sigma = self.noise * spread_over(x)

        def pair(sample: int, rows: Tensor) -> tuple[Tensor, Tensor]:
            """The difference x - b and the point on the way, for the given rows of one sample."""
            own = x[rows]
            if self.noise:
                own = own + sigma[rows] * rng.select(rows.tolist()).normal(f"noise {sample}", x.shape[1:], x)
            reference = references[order[rows.cpu(), sample].to(x.device), rows]
            return own - reference, torch.lerp(reference, own, times[rows, sample].view(-1, *[1] * (x.ndim - 1)))

        moments = Moments(x)
        for rows in score.stream_gradients(pair(s, example)[1] for s in range(self.samples)):
            assert rows.gradient is not None
            for sample in dict.fromkeys(rows.step.tolist()):
                mine = rows.step == sample
                position = rows.position[mine]
                moments.add(position, pair(sample, position)[0] * rows.gradient[mine])
        return Estimate(moments.mean(), moments.standard_error())
