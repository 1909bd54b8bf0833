"""The gradient at the input, its product with the input, and Taylor decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..base.named import require, require_whole
from ..base.notes import Note
from ..engine.score import Score
from ..question.random_streams import Streams
from .base import FINE, Estimate, Method, Needs
from .moments import column

_REACH = 1024.0  # largest step of the search for a root, in units of the first guess |f| / |g|
_GROWTH = 1.5  # factor from one step to the next; the first is an eighth of that guess
_CLOSE = 1e-4  # share of |f(x)| below which a score is a root


@dataclass(frozen=True)
class Gradient(Method):
    r"""The gradient, signed.

    $$A_i = \partial_i f(x)$$

    `heatmap("max")` shows its maximum absolute value over channels. [simonyan2014]

    >>> ll.explain(model, x, ll.Gradient(), target=2).values.shape
    torch.Size([2, 3, 16, 16])
    """

    view = FINE
    per_unit: ClassVar[bool] = True
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

    >>> a = ll.explain(model, x, ll.InputXGradient(), target=2)
    >>> a.values.shape, a.complete
    (torch.Size([2, 3, 16, 16]), False)
    """

    view = FINE
    no_sum: ClassVar[str | None] = "input x gradient sums to the score only for networks without biases"
    needs: ClassVar[Needs] = Needs(at_inputs=True)
    fixed_rows: ClassVar[int | None] = 1

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        return Estimate(x * score.gradient(x))


@dataclass(frozen=True)
class TaylorDecomposition(Method):
    r"""The gradient at a root point $\tilde x$, a point with a score near 0, times the distance to it.

    $$A_i = (x_i - \tilde x_i)\, \partial_i f(\tilde x)$$

    `root="baseline"` expands around the baseline. `root="nearest"` searches the nearest point with $f(\tilde x) = 0$
    along the gradient at x, $\tilde x = x - t \nabla f(x)$: with up to `most_evaluations` scores it brackets the first
    change of sign, then bisects. Without one the root is the point with the smallest |f| found, and a note says so.
    The first-order term sums to $f(x) - f(\tilde x)$ only where f is linear in between; `notes` give the remainder.
    [bach2015] [montavon2017]

    >>> a = ll.explain(model, x, ll.TaylorDecomposition(), target=2, baseline="blur(2)")
    >>> len(a.notes)
    2
    """

    root: Literal["baseline", "nearest"] = "baseline"
    most_evaluations: int = 48

    view = FINE
    no_sum: ClassVar[str | None] = "the first-order term alone; the notes give the higher orders"
    least_rows: ClassVar[int] = 2  # f at the first step of the search, and the gradient at the root

    def __post_init__(self) -> None:
        require(self.root in ("baseline", "nearest"), self, "root", "'baseline' or 'nearest'")
        require_whole(self, "most_evaluations", 16)

    @property
    def needs(self) -> Needs:
        if self.root == "baseline":
            return Needs(value=True, value_at_baseline=True, baseline=True)
        return Needs(value=True, at_inputs=True)

    def rows(self, features: torch.Size) -> int | None:
        return 1 if self.root == "baseline" else None

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        at_x = score.values(x)
        notes: list[Note] = []
        if self.root == "baseline":
            root, at_root = baseline, score.values(baseline)
        else:
            root, at_root = self._search(score, x, at_x)
            for i in (at_root.abs() > _CLOSE * at_x.abs()).nonzero()[:, 0].tolist():
                least = f"{float(at_root[i].abs()):.4g}, of f(x) = {float(at_x[i]):.4g}; take root='baseline'"
                text = f"the search for a root did not converge: the smallest |f| along the gradient was {least}"
                notes.append(Note("not-converged", text, i))
        values = (x - root) * score.gradient(root)
        rest = at_x.double() - at_root.double() - values.double().flatten(1).sum(1)
        far = (x - root).flatten(1).norm(dim=1)
        for i in range(len(x)):
            text = f"root at L2 distance {float(far[i]):.4g} with score {float(at_root[i]):.4g}"
            notes.append(Note("fact", f"{text}; beyond the first order f(x) - f(root) has {float(rest[i]):.4g}", i))
        return Estimate(values, notes=tuple(notes))

    def _search(self, score: Score, x: Tensor, at_x: Tensor) -> tuple[Tensor, Tensor]:
        """Find the root of each example, and return it with the score there."""
        gradient = score.gradient(x)
        steep = gradient.flatten(1).square().sum(1)
        found = []
        for part in torch.arange(len(x), device=x.device).split(score.rows_per_pass):
            first = torch.where(steep[part] > 0, at_x[part] / steep[part], 0)  # Newton's step, exact where f is linear
            found.append(self._along(score.select(part), x[part], gradient[part], at_x[part], first))
        best, least = (torch.cat(each) for each in zip(*found, strict=True))
        return x - column(best, x) * gradient, least

    def _along(self, score: Score, x: Tensor, gradient: Tensor, at_x: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Search by growing steps, then bisection; return the t with the smallest |f(x - t g)| `(n,)`, and f there."""
        best, least = torch.zeros_like(first), at_x.clone()
        near, far = torch.zeros_like(first), torch.full_like(first, torch.nan)  # far is NaN until the sign changes
        trial = first / 8
        for _ in range(self.most_evaluations):
            lost = far.isnan() & (trial.abs() > _REACH * first.abs())
            active = ((least.abs() > _CLOSE * at_x.abs()) & (first != 0) & ~lost).nonzero()[:, 0]
            if not len(active):
                break
            step = torch.where(far.isnan(), trial, (near + far) / 2)[active]
            at = score.select(active).values(x[active] - column(step, x) * gradient[active])
            closer = at.abs() < least[active].abs()
            best[active] = torch.where(closer, step, best[active])
            least[active] = torch.where(closer, at, least[active])
            over = at.sign() != at_x[active].sign()
            far[active] = torch.where(over, step, far[active])
            near[active] = torch.where(over, near[active], step)
            trial = trial * _GROWTH
        return best, least
