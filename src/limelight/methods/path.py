"""Path methods: gradients integrated along a path from a baseline, or from a blurred input, to the input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import LATER, is_whole, require, require_number, require_tolerance, require_whole
from ..base.notes import Note
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.baselines import gaussian_blur
from ..question.random_streams import Streams
from .base import FINE, NOT_MULTIPLIED, Estimate, Method, Needs, convergence
from .moments import Moments, column, spread_over
from .quadrature import GaussLegendre, OverNodes, Quadrature


@dataclass(frozen=True)
class IntegratedGradients(OverNodes, Method):
    r"""Integrate the gradient along the straight line from the baseline $b$ to the input $x$.

    $$A_i = (x_i - b_i) \int_0^1 \partial_i f(b + t\,(x - b))\,\mathrm{d}t$$

    Complete: $\sum_i A_i = f(x) - f(b)$ up to quadrature error. [sundararajan2017]

    `quadrature` is a rule such as `Midpoint(50)`, or a number of nodes of Gauss-Legendre. With `tolerance` it is
    refined, for each example by itself, until the map changes by less than the tolerance (relative L1) and |delta| is
    below tolerance x min(1, |f(x) - f(b)|); at most `most_nodes`. All quadratures but GaussLegendre reuse their
    earlier nodes. `multiply=False` leaves out the factor x - b: the map is the average gradient, in units of the score
    per unit of the input, and promises no sum.
    """

    quadrature: Quadrature | int = GaussLegendre(32)
    tolerance: float | None = None
    most_nodes: int = 2048
    multiply: bool = field(default=True, kw_only=True, metadata=LATER)

    view = FINE
    needs: ClassVar[Needs] = Needs(baseline=True)

    def __post_init__(self) -> None:
        self.read_quadrature()
        require_tolerance(self)
        if self.tolerance is not None:
            next_n = self.rule.refined().rule.n
            enough = is_whole(self.most_nodes, next_n)
            require(enough, self, "most_nodes", f"at least {next_n}, one refinement of the quadrature")

    @property
    def no_sum(self) -> str | None:  # type: ignore[override]
        return None if self.multiply else NOT_MULTIPLIED

    def rows(self, features: torch.Size) -> int | None:
        return self.rule.n if self.tolerance is None else None

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        slope = _average(score, x, baseline, self.rule)
        factor = x - baseline if self.multiply else torch.ones_like(x)
        if self.tolerance is None:
            return Estimate(factor * slope)
        at_x, at_baseline = score.values(x).double(), score.values(baseline).double()
        change_in_score = at_x - at_baseline
        # Where f(x) and f(b) nearly cancel, their rounding limits completeness.
        floor = 1e-3 * (at_x.abs() + at_baseline.abs()).clamp(max=1)
        allowed = self.tolerance * change_in_score.abs().clamp(max=1).maximum(floor)
        active = list(range(len(x)))
        notes: dict[int, Note] = {}
        rule, kept, fresh = self.rule.refined()
        while active and rule.n <= self.most_nodes:
            before, moved_by = slope[active], (x - baseline)[active]
            finer = kept * before + _average(score.select(active), x[active], baseline[active], fresh)
            change = _norm(factor[active] * (finer - before))
            change = change / _norm(factor[active] * finer).clamp(min=torch.finfo(torch.float64).tiny)
            delta = ((moved_by * finer).double().flatten(1).sum(1) - change_in_score[active]).abs()
            slope = slope.index_copy(0, torch.tensor(active, device=x.device), finer)
            good = ((change <= self.tolerance) & (delta <= allowed[active])).tolist()
            for i, moved, left, ok in zip(active, change.tolist(), delta.tolist(), good, strict=True):
                detail = f"the last refinement changed the map by {moved:.2g} and left |delta| {left:.2g}"
                notes[i] = convergence(ok, f"with {rule.n} nodes", detail, i)
            active = [i for i, ok in zip(active, good, strict=True) if not ok]
            rule, kept, fresh = rule.refined()
        return Estimate(factor * slope, notes=tuple(notes[i] for i in sorted(notes)))


def _average(score: Score, x: Tensor, baseline: Tensor, nodes: Iterable[tuple[float, float]]) -> Tensor:
    """Return the weighted sum of gradients at nodes of the line from the baseline to x."""
    return score.weighted_gradient((torch.lerp(baseline, x, t), weight) for t, weight in nodes)


def _norm(values: Tensor) -> Tensor:
    return values.double().abs().flatten(1).sum(1)


def gradients_by_step(score: Score, points: Iterable[Tensor]) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield the step, examples, scores and gradients of each batch of `points`, or of the part of it in one pass."""
    for rows in score.stream_gradients(points):
        assert rows.gradient is not None
        for step in dict.fromkeys(rows.step.tolist()):
            mine = rows.step == step
            yield step, rows.position[mine], rows.scores[mine], rows.gradient[mine]


@dataclass(frozen=True)
class ExpectedGradients(Method):
    r"""Integrated Gradients averaged over the baseline's references, both sampled together.

    $$A_i = \mathbb{E}_{b,\,t}\left[(x_i - b_i)\,\partial_i f(b + t\,(x - b))\right], \quad t \sim U(0, 1)$$

    Complete in expectation: the values sum to $f(x) - \mathbb{E} f(b)$. t is stratified: one draw in each of `samples`
    equal parts of [0, 1]; references are used equally often, in a random order. `stderr` is that of independent draws,
    an upper bound for stratified ones, and `steadiness` a lower bound. `noise` > 0 also perturbs the input by a
    Gaussian of that share of its range: this is GradientSHAP, which promises no sum. `multiply=False` leaves out the
    factor x - b: the map is the expected gradient, in units of the score per unit of the input. [erion2021]
    [lundberg2017]
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
        references, n = baseline, len(x)
        part = rng.permutation("part of t", self.samples)
        order = rng.permutation("reference", self.samples) % len(references)
        times = (part.to(x) + rng.uniform("t", (self.samples,), x)) / self.samples
        example = torch.arange(n, device=x.device)
        sigma = self.noise * spread_over(x)

        def pair(sample: int, rows: Tensor) -> tuple[Tensor, Tensor]:
            """Return the difference x - b and the point on the path, for the given rows of one sample."""
            own = x[rows]
            if self.noise:
                own = own + sigma[rows] * rng.select(rows.tolist()).normal(f"noise {sample}", x.shape[1:], x)
            reference = references[order[rows.cpu(), sample].to(x.device), rows]
            return own - reference, torch.lerp(reference, own, column(times[rows, sample], x))

        moments = Moments(x)
        points = (pair(sample, example)[1] for sample in range(self.samples))
        for sample, rows, _, gradient in gradients_by_step(score, points):
            # Every second part of [0, 1] is a half's, so that each half is stratified as the whole.
            second = part[rows.cpu(), sample].to(x.device) % 2 == 1
            moments.add(rows, pair(sample, rows)[0] * gradient if self.multiply else gradient, second)
        return Estimate(moments.mean(), moments.standard_error(), halves=moments.halves())


@dataclass(frozen=True)
class BlurIntegratedGradients(Method):
    r"""Integrate the gradient while the input sharpens, from a Gaussian blur of `max_sigma` pixels to itself.

    $$A_i = \int_{\sigma_{\max}}^0 \partial_i f(L_\sigma)\, \partial_\sigma L_{\sigma,i}\, \mathrm{d}\sigma,
      \quad L_\sigma = \text{x blurred by } \sigma$$

    by the trapezoid rule over $\sigma_k = \sigma_{\max}(1 - k/n)^2$, n = `steps`: closer together where the picture
    changes most, with the exact change of each pixel between two levels. Edge values are repeated beyond the border,
    as in `Blur`. Complete with respect to the blurred input: the values sum to $f(x) - f(L_{\sigma_{\max}})$
    up to quadrature error, which `notes` report. Raises ValueError for inputs without spatial axes. [xu2020]
    """

    by_part: ClassVar[bool] = True
    steps: int = 32
    max_sigma: float = 50.0

    view = FINE
    no_sum: ClassVar[str | None] = "the values sum to f(x) - f(x blurred), not to f(x) - f(baseline); see the notes"
    needs: ClassVar[Needs] = Needs(at_inputs=True, value=True)

    def __post_init__(self) -> None:
        require_whole(self, "steps", 1)
        require_number(self, "max_sigma", lambda sigma: sigma > 0, "a positive number of pixels")

    def rows(self, features: torch.Size) -> int | None:
        return self.steps + 1

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        levels, n = self.levels(x), self.steps
        total = torch.zeros(x.shape, dtype=sum_dtype(x), device=x.device)
        at_start = torch.zeros(len(x), dtype=total.dtype, device=x.device)
        for step, rows, scores, gradient in gradients_by_step(score, (levels(x, step) for step in range(n))):
            total[rows] += _weight(levels, x[rows], step, n) * gradient
            if step == 0:
                at_start[rows] = scores.to(total.dtype)
        total += _weight(levels, x, n, n) * score.gradient(x)
        change = score.values(x).to(total.dtype) - at_start
        missed = total.flatten(1).sum(1) - change
        start = f"the values sum to f(x) - f(x blurred by {self.max_sigma:g} pixels) ="
        sums = enumerate(zip(change.tolist(), missed.tolist(), strict=True))
        notes = [Note("fact", f"{start} {all_of_it:.4g} but for {rest:.2g}", i) for i, (all_of_it, rest) in sums]
        return Estimate(total.to(result_dtype(x)), notes=tuple(notes))

    def levels(self, x: Tensor) -> Levels:
        """Return the path's levels for inputs like x. Raises ValueError where these have no spatial axes."""
        if x.ndim < 3:
            raise ValueError(
                f"inputs: shape {tuple(x.shape)}; {type(self).__name__} blurs spatial axes, so inputs must be "
                "(batch, channels, *space)"
            )
        sigmas = [self.max_sigma * (1 - step / self.steps) ** 2 for step in range(self.steps)]
        units = [torch.eye(size, dtype=x.dtype, device=x.device)[:, None] for size in x.shape[2:]]
        return Levels([[gaussian_blur(unit, sigma)[:, 0] for unit in units] for sigma in sigmas])


@dataclass(frozen=True, eq=False)
class Levels:
    """A blur as one matrix an axis, for each level of a path: much cheaper than convolutions with wide kernels."""

    matrices: list[list[Tensor]]

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Blur x by a level, 0 the strongest; past the last level return x itself."""
        if step >= len(self.matrices):
            return x
        for axis, matrix in enumerate(self.matrices[step], start=2):
            x = (x.movedim(axis, -1) @ matrix).movedim(-1, axis)
        return x.contiguous()


def _weight(levels: Levels, x: Tensor, step: int, n: int) -> Tensor:
    """Return the trapezoid rule's weight of a level: half the difference of the levels after and before it."""
    return (levels(x, min(step + 1, n)) - levels(x, max(step - 1, 0))) / 2
