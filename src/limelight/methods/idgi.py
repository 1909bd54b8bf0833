"""IDGI: integrate along a path only the part of the gradient that changes the score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..base.named import require
from ..base.notes import Note
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.random_streams import Streams
from .base import FINE, Estimate, Method, Needs
from .guided_path import GuidedIntegratedGradients
from .moments import column
from .path import BlurIntegratedGradients, IntegratedGradients, gradients_by_step

PathMethod = IntegratedGradients | BlurIntegratedGradients | GuidedIntegratedGradients
Visit = tuple[Tensor, Tensor, Tensor]  # examples, their scores and gradients at the next point of their path


@dataclass(frozen=True)
class IDGI(Method):
    r"""Distribute the change in score of each step of a path by the squared gradient, the "important direction".

    $$A_i = \sum_j \frac{(\partial_i f(x_j))^2}{\lVert\nabla f(x_j)\rVert_2^2}\,\big(f(x_{j+1}) - f(x_j)\big)$$

    over the points $x_0, \dots, x_n$ of the path of `inner`: a straight line in as many equal steps as its quadrature
    has nodes, the levels of a blur, or a guided path. Exactly complete: the values sum to $f(x_n) - f(x_0)$ at any
    number of steps. Points without a gradient are left out of the path: the step before them, at the start after them,
    is longer. `notes` count them. [yang2023]
    """

    inner: Method = field(default_factory=IntegratedGradients)

    view = FINE

    def __post_init__(self) -> None:
        known = "a path method: IntegratedGradients, BlurIntegratedGradients or GuidedIntegratedGradients"
        require(isinstance(self.inner, PathMethod), self, "inner", known)
        whole = not isinstance(self.inner, IntegratedGradients) or self.inner.multiply
        require(whole, self, "inner", "one with multiply=True: IDGI reads its path alone")

    @property
    def no_sum(self) -> str | None:  # type: ignore[override]  # the inner path's promise
        return self.inner.no_sum

    @property
    def by_part(self) -> bool:  # type: ignore[override]  # as the inner path reads
        return self.inner.by_part

    @property
    def needs(self) -> Needs:
        return Needs(value=True, baseline=self.inner.needs.baseline)

    def rows(self, features: torch.Size) -> int | None:
        match self.inner:
            case IntegratedGradients():
                return self.inner.rule.n
            case BlurIntegratedGradients(steps=steps):
                return steps
            case GuidedIntegratedGradients(steps=steps):
                return steps + 1
        return None

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        dtype, n = sum_dtype(x), len(x)
        values = torch.zeros(x.shape, dtype=dtype, device=x.device)
        direction = torch.zeros_like(values)  # g^2 / |g|^2 at the point that each example is at
        at = torch.zeros(n, dtype=dtype, device=x.device)
        begun, moving = torch.zeros(2, n, dtype=torch.bool, device=x.device)
        flat = torch.zeros(n, dtype=torch.long, device=x.device)

        def step(examples: Tensor, scores: Tensor) -> None:
            values[examples] += direction[examples] * column(scores.to(dtype) - at[examples], x)
            at[examples] = torch.where(moving[examples], scores.to(dtype), at[examples])

        for examples, scores, gradient in self._visits(score, x, baseline):
            at[examples] = torch.where(begun[examples], at[examples], scores.to(dtype))  # the start of the path
            begun[examples] = True
            step(examples, scores)
            square = gradient.to(dtype).square()
            whole = square.flatten(1).sum(1)
            there = whole > 0
            kept = direction[examples]
            direction[examples] = torch.where(column(there, x), square / column(whole, x), kept)
            moving[examples] |= there
            flat[examples] += ~there
        step(torch.arange(n, device=x.device), score.values(x))
        notes = []
        for i in flat.nonzero()[:, 0].tolist():
            text = f"{int(flat[i])} points of the path have no gradient and were left out"
            none = "" if moving[i] else ", all of them: there is no direction for the change, so the values are zero"
            notes.append(Note("fact", text + none, i))
        return Estimate(values.to(result_dtype(x)), notes=tuple(notes))

    def _visits(self, score: Score, x: Tensor, baseline: Tensor) -> Iterator[Visit]:
        """Yield the points of each example's path in order, except the last, which is x."""
        inner = self.inner
        if isinstance(inner, GuidedIntegratedGradients):
            for part in torch.arange(len(x), device=x.device).split(score.rows_per_pass):
                for step in inner.walk(score.select(part), x[part], baseline[part]):
                    yield part, step.scores, step.gradient
            return
        if isinstance(inner, BlurIntegratedGradients):
            levels = inner.levels(x)
            points = (levels(x, step) for step in range(inner.steps))
        else:
            assert isinstance(inner, IntegratedGradients)
            n = inner.rule.n
            points = (torch.lerp(baseline, x, step / n) for step in range(n))
        for _, examples, scores, gradient in gradients_by_step(score, points):
            yield examples, scores, gradient
