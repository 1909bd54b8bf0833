"""Guided Integrated Gradients: a path that takes the steep directions last."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import require_number, require_whole
from ..base.notes import Note
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.random_streams import Streams
from .base import FINE, Estimate, Method, Needs
from .path import gradients_by_step

_TIE = 2.0**-16  # gradients closer than this share of the largest are equal, so that rounding decides nothing
_ROUGH = 0.05  # share of the changes in score that the gradients may miss without a note


@dataclass(frozen=True)
class Step:
    """One step of a path: the point `(n, *features)`, scores and gradient there, and the point after it."""

    point: Tensor
    scores: Tensor
    gradient: Tensor
    after: Tensor


@dataclass(frozen=True)
class GuidedIntegratedGradients(Method):
    r"""Integrate the gradient along a path on which the features of the smallest slope $|\partial_i f|$ move first.

    $$A_i = \int \partial_i f(\gamma)\,\mathrm{d}\gamma_i$$

    Each of `steps` steps reduces $\lVert x - \gamma\rVert_1$ by the same amount. It moves the `fraction` of the
    features with the smallest gradient as far as they may, then the next. Every feature stays within `max_dist` of the
    straight line, a share of its own distance: 1 is no limit, 0 gives Integrated Gradients, as `fraction` 1 does. The
    gradient half a step along the line orders the first step, for at the baseline it is often zero. [kapishnikov2021]

    Complete: $\sum_i A_i = f(x) - f(b)$. The gradient of a step is the mean of that at both ends. The rest of the
    step's change in score is shared in proportion to the features' values; a note says so above 5% of the changes.

    >>> a = ll.explain(model, x, ll.GuidedIntegratedGradients(steps=20), target=2)
    >>> torch.allclose(a.values.sum((1, 2, 3)), a.score - a.baseline_score, atol=1e-5)
    True
    """

    steps: int = 64
    fraction: float = 0.25
    max_dist: float = 0.02

    view = FINE
    needs: ClassVar[Needs] = Needs(at_inputs=True, value=True, baseline=True)

    def __post_init__(self) -> None:
        require_whole(self, "steps", 1)
        require_number(self, "fraction", lambda share: 0 < share <= 1, "a share of the features in (0, 1]")
        require_number(self, "max_dist", lambda share: 0 <= share <= 1, "a share of the distance in [0, 1]")

    def rows(self, features: torch.Size) -> int | None:
        return self.steps + 2

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        last, at_x = score.gradient(x), score.values(x)
        found = [
            self._integrate(score.select(part), x[part], baseline[part], last[part], at_x[part])
            for part in torch.arange(len(x), device=x.device).split(score.rows_per_pass)
        ]
        notes = []
        for i, share in enumerate(torch.cat([each for _, each in found]).tolist()):
            text = f"the steps' own error, {share:.0%} of the changes in score, was shared among the features; more "
            if share > _ROUGH:
                notes.append(Note("fact", text + "steps make it smaller", i))
        return Estimate(torch.cat([values for values, _ in found]).to(result_dtype(x)), notes=tuple(notes))

    def _integrate(
        self, score: Score, x: Tensor, baseline: Tensor, last: Tensor, at_x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the map, and the share of the changes in score that the gradients missed."""
        dtype = sum_dtype(x)
        values = torch.zeros(x.shape, dtype=dtype, device=x.device)
        moved = torch.zeros(len(x), dtype=dtype, device=x.device)
        changed = torch.zeros_like(moved)
        before: Step | None = None
        for step in [*self.walk(score, x, baseline), None]:
            gradient, scores = (step.gradient, step.scores) if step else (last, at_x)
            if before is not None:
                way = (before.after - before.point).to(dtype)
                gained = way * (before.gradient.to(dtype) + gradient.to(dtype)) / 2
                change = scores.to(dtype) - before.scores.to(dtype)
                missed = change - gained.flatten(1).sum(1)
                values += gained + _shared(missed, gained, way)
                moved += missed.abs()
                changed += change.abs()
            before = step
        return values, moved / changed.clamp(min=torch.finfo(dtype).tiny)

    def walk(self, score: Score, x: Tensor, baseline: Tensor) -> Iterator[Step]:
        """Yield the steps from the baseline to x; each depends on the gradient of the step before."""
        way = (x - baseline).abs().flatten(1).to(sum_dtype(x))
        done = torch.zeros_like(way)  # the share of its distance that each feature has moved
        point = baseline
        guess = _scores_and_gradient(score, torch.lerp(baseline, x, 0.5 / self.steps))[1]
        for step in range(self.steps):
            scores, gradient = _scores_and_gradient(score, point)
            done = self._advanced(done, way, (gradient if step else guess).flatten(1), step)
            after = x if step == self.steps - 1 else torch.lerp(baseline, x, done.view_as(x).to(x.dtype))
            yield Step(point, scores, gradient, after)
            point = after

    def _advanced(self, done: Tensor, way: Tensor, gradient: Tensor, step: int) -> Tensor:
        """Move features in blocks of ascending |gradient|, ties together, until the distance left is as planned."""
        along = (step + 1) / self.steps
        low, high = max(along - self.max_dist, 0.0), min(along + self.max_dist, 1.0)
        done = done.clamp(min=low)
        room = way * (high - done)
        needed = (way * (along - done)).sum(1, keepdim=True).clamp(min=0)
        size = gradient.abs().to(way.dtype)
        largest = size.amax(1, keepdim=True).clamp(min=torch.finfo(way.dtype).tiny)
        size = (size / largest / _TIE).round().masked_fill(room <= 0, torch.inf)
        count = math.ceil(self.fraction * size.shape[1])
        ends = size.sort(1).values[:, count - 1 :: count].contiguous()
        block = torch.searchsorted(ends, size)
        cost = torch.zeros(len(ends), ends.shape[1] + 1, dtype=way.dtype, device=way.device)
        cost.scatter_add_(1, block, room)
        before = cost.cumsum(1) - cost
        share = ((needed - before) / cost.clamp(min=torch.finfo(way.dtype).tiny)).clamp(0, 1)
        return done + share.gather(1, block) * (high - done)


def _scores_and_gradient(score: Score, points: Tensor) -> tuple[Tensor, Tensor]:
    _, _, scores, gradients = zip(*gradients_by_step(score, [points]), strict=True)
    return torch.cat(scores), torch.cat(gradients)


def _shared(missed: Tensor, gained: Tensor, way: Tensor) -> Tensor:
    """Distribute `missed` `(n,)` in proportion to |gained|, or to |way| where all of `gained` is 0."""
    size = gained.abs().flatten(1)
    size = torch.where(size.sum(1, keepdim=True) > 0, size, way.abs().flatten(1))
    whole = size.sum(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    return (missed[:, None] * size / whole).view_as(gained)
