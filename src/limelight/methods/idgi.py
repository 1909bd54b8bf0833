"""IDGI: integrate along a path only the part of the gradient that changes the score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..base.named import require
from ..base.notes import Note
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.random_streams import Streams
from .base import FINE, Estimate, Method, Needs
from .guided_path import GuidedIntegratedGradients
from .moments import column
from .path import (
    CHANGE,
    BlurIntegratedGradients,
    IntegratedGradients,
    gradients_by_step,
    over_nodes,
    refined_line,
)
from .refine import Nodes

PathMethod = IntegratedGradients | BlurIntegratedGradients | GuidedIntegratedGradients
Visit = tuple[Tensor, Tensor, Tensor]  # examples, their scores and gradients at the next point of their path


class _Shares:
    """The change of the scores along a path, shared out by the squared gradients, as points are visited in order."""

    def __init__(self, like: Tensor, start: Tensor | None = None) -> None:
        """Begin at the scores `start` `(n,)`, where no gradient is taken; None: at the first point."""
        dtype, n = sum_dtype(like), len(like)
        self.values = torch.zeros(like.shape, dtype=dtype, device=like.device)
        self.direction = torch.zeros_like(self.values)  # g^2 / |g|^2 at the point that each example is at
        self.at = torch.zeros(n, dtype=dtype, device=like.device) if start is None else start.to(dtype, copy=True)
        self.begun = torch.full((n,), start is not None, device=like.device)
        self.moving = torch.zeros(n, dtype=torch.bool, device=like.device)
        self.flat = torch.zeros(n, dtype=torch.long, device=like.device)

    def visit(self, examples: Tensor, scores: Tensor, gradient: Tensor) -> None:
        """Go to the next point of some examples."""
        own = scores.to(self.at)
        self.at[examples] = torch.where(self.begun[examples], self.at[examples], own)
        self.begun[examples] = True
        square = gradient.to(self.values).square()
        whole = square.flatten(1).sum(1)
        there = whole > 0
        ahead = torch.where(column(there, square), square / column(whole, square), self.direction[examples])
        # Before the first gradient of a path, what the score has changed by goes in that gradient's direction.
        first = there & ~self.moving[examples]
        self._share(examples, own, torch.where(column(first, square), ahead, self.direction[examples]), first)
        self.direction[examples] = ahead
        self.moving[examples] |= there
        self.flat[examples] += ~there

    def end(self, scores: Tensor) -> None:
        """Go to x."""
        every = torch.arange(len(scores), device=scores.device)
        self._share(every, scores.to(self.at), self.direction, self.moving)

    def _share(self, examples: Tensor, scores: Tensor, direction: Tensor, first: Tensor) -> None:
        moving = self.moving[examples] | first
        change = torch.where(moving, scores - self.at[examples], 0)
        self.values[examples] += direction * column(change, direction)
        self.at[examples] = torch.where(moving, scores, self.at[examples])

    def notes(self, examples: Tensor) -> list[Note]:
        """Count the points without a gradient; `examples` are their places in the batch."""
        found = []
        for i in self.flat.nonzero()[:, 0].tolist():
            text = f"{int(self.flat[i])} points of the path have no gradient and were left out"
            none = (
                "" if self.moving[i] else ", all of them: there is no direction for the change, so the values are zero"
            )
            found.append(Note("fact", text + none, int(examples[i])))
        return found


@dataclass(frozen=True)
class IDGI(Method):
    r"""Distribute the change in score of each step of a path by the squared gradient, the "important direction".

    $$A_i = \sum_j \frac{(\partial_i f(x_j))^2}{\lVert\nabla f(x_j)\rVert_2^2}\,\big(f(x_{j+1}) - f(x_j)\big)$$

    over the points $x_0, \dots, x_n$ of the path of `inner`: a straight line in as many equal steps as its quadrature
    has nodes, the levels of a blur, a guided path, or the nodes of a line or a blur as `inner` refines them, where the
    first node's gradient also serves the step before it. Exactly complete: the values sum to $f(x_n) - f(x_0)$ at any
    number of steps. Points without a gradient are left out of the path: the step before them, at the start after them,
    is longer. `notes` count them. [yang2023]

    >>> ll.explain(model, x, ll.IDGI(ll.IntegratedGradients(32)), target=2).values.shape
    torch.Size([2, 3, 16, 16])
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
            case IntegratedGradients(stop=None):
                return self.inner.rule.n
            case BlurIntegratedGradients(stop=None, steps=steps):
                return steps
            case GuidedIntegratedGradients(steps=steps):
                return steps + 1
        return None

    def rows_at_least(self, features: torch.Size) -> int:
        return self.inner.rows_at_least(features)

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        inner = self.inner
        if isinstance(inner, IntegratedGradients) and inner.stop is not None:
            groups, change = refined_line(score, x, baseline, inner.rule, inner.stop), CHANGE
        elif isinstance(inner, BlurIntegratedGradients) and inner.stop is not None:
            groups, change = inner.refined(score, x), inner.change
        else:
            shares = _Shares(x)
            for examples, scores, gradient in self._visits(score, x, baseline):
                shares.visit(examples, scores, gradient)
            shares.end(score.values(x))
            return Estimate(shares.values.to(result_dtype(x)), notes=tuple(shares.notes(torch.arange(len(x)))))
        notes: list[Note] = []

        def shared(nodes: Nodes) -> Tensor:
            found = _Shares(nodes.gradients[:, 0], nodes.scores[:, 0])
            every = torch.arange(len(nodes.examples), device=x.device)
            for k in range(len(nodes)):
                found.visit(every, nodes.scores[:, k + 1], nodes.gradients[:, k])
            found.end(nodes.scores[:, -1])
            notes.extend(found.notes(nodes.examples))
            return found.values

        found = over_nodes(groups, x, shared, change)
        return replace(found, notes=(*found.notes, *notes))

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
            points = (levels(x, step) for step in range(len(levels.matrices)))
        else:
            assert isinstance(inner, IntegratedGradients)
            n = inner.rule.n
            points = (torch.lerp(baseline, x, step / n) for step in range(n))
        for _, examples, scores, gradient in gradients_by_step(score, points):
            yield examples, scores, gradient
