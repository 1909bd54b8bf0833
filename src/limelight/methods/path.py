"""Path methods: gradients integrated along a path from a baseline, or from a blurred input, to the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..base.named import LATER, is_whole, require, require_number, require_tolerance, require_whole
from ..base.notes import Note
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.baselines import gaussian_blur
from ..question.random_streams import Streams
from .base import FINE, NOT_MULTIPLIED, Estimate, Method, Needs
from .quadrature import Midpoint, OverNodes, Quadrature
from .refine import MOST_NODES, START, TOLERANCE, Line, Nodes, Path, Stop, refined

CHANGE = "f(x) - f(baseline)"


@dataclass(frozen=True)
class IntegratedGradients(OverNodes, Method):
    r"""Integrate the gradient along the straight line from the baseline $b$ to the input $x$.

    $$A_i = (x_i - b_i) \int_0^1 \partial_i f(b + t\,(x - b))\,\mathrm{d}t$$

    Complete: $\sum_i A_i = f(x) - f(b)$ up to quadrature error. [sundararajan2017]

    By default 32 equal nodes are refined, for each example by itself, where the change of the score is missed most,
    until the map's sum misses at most 1% of f(x) - f(b), or rounding, and not because misses cancel; at most
    `most_nodes`, and then a caution says the miss. `tolerance` is another share than 1%. The sum is what the refinement
    stops by and so no evidence; a note says by how much the map differs from that of every second node.

    `quadrature` is a rule such as `GaussLegendre(16)`, or a number of equal nodes, `Midpoint`, also called `n_steps`:
    it is taken as it is, or gives the first nodes where there is a `tolerance` too. `multiply=False` leaves out the
    factor x - b: the map is the average gradient, in units of the score per unit of the input, and promises no sum.

        IntegratedGradients()                 # refined to 1%
        IntegratedGradients(tolerance=0.02)   # refined to 2%
        IntegratedGradients(50)               # 50 equal nodes

    >>> a = ll.explain(model, x, ll.IntegratedGradients(tolerance=0.01), target=2)
    >>> bool((a.delta.abs() < 0.01 * (a.score - a.baseline_score).abs()).all())
    True
    """

    quadrature: Quadrature | int | None = None
    tolerance: float | None = None
    most_nodes: int = MOST_NODES
    multiply: bool = field(default=True, kw_only=True, metadata=LATER)
    n_steps: InitVar[int | None] = field(default=None, kw_only=True)

    view = FINE
    of_number: ClassVar[type[Quadrature]] = Midpoint
    when_none: ClassVar[Mapping[str, Any]] = {"quadrature": START}
    needs: ClassVar[Needs] = Needs(baseline=True)

    def __post_init__(self, n_steps: int | None) -> None:
        if n_steps is not None:
            if self.quadrature is not None:
                raise ValueError(f"IntegratedGradients.n_steps={n_steps!r}: use it or quadrature={self.quadrature!r}")
            object.__setattr__(self, "quadrature", n_steps)
        self.read_quadrature()
        require_tolerance(self)
        if self.stop is not None:
            least = self.rule.n
            require(is_whole(self.most_nodes, least), self, "most_nodes", f"at least {least}, the first nodes")

    @property
    def no_sum(self) -> str | None:  # type: ignore[override]
        return None if self.multiply else NOT_MULTIPLIED

    @property
    def stop(self) -> Stop | None:
        """When the refinement stops; None where the quadrature is taken as it is."""
        return stop_of(self.quadrature, self.tolerance, self.most_nodes)

    @property
    def without_effect(self) -> Mapping[str, Any]:
        return {"most_nodes": 2048} if self.stop is None else {}  # the default before nodes were refined by themselves

    def rows(self, features: torch.Size) -> int | None:
        return self.rule.n if self.stop is None else None

    def rows_at_least(self, features: torch.Size) -> int:
        return self.rule.n

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        factor = x - baseline if self.multiply else torch.ones_like(x)
        if self.stop is None:
            return Estimate(factor * _average(score, x, baseline, self.rule))

        def average(nodes: Nodes) -> Tensor:
            return factor[nodes.examples] * nodes.average()

        return over_nodes(refined_line(score, x, baseline, self.rule, self.stop), x, average, CHANGE)


def refined_line(score: Score, x: Tensor, baseline: Tensor, first: Quadrature, stop: Stop) -> Iterator[Nodes]:
    """Yield the nodes of the straight line from the baseline to x."""
    ends = score.values(baseline), score.values(x)
    return refined(score, Line(x, baseline), ends, first, stop)


def _average(score: Score, x: Tensor, baseline: Tensor, nodes: Iterable[tuple[float, float]]) -> Tensor:
    """Return the weighted sum of gradients at nodes of the line from the baseline to x."""
    return score.weighted_gradient((torch.lerp(baseline, x, t), weight) for t, weight in nodes)


def over_nodes(groups: Iterable[Nodes], x: Tensor, map_of: Callable[[Nodes], Tensor], change: str) -> Estimate:
    """Make the map of each example from its nodes, and note how its refinement ended.

    `change` says in words what the map's values sum to.
    """
    values, notes = torch.zeros(x.shape, dtype=sum_dtype(x), device=x.device), []
    for nodes in groups:
        own = map_of(nodes).to(values)
        coarse = map_of(nodes.halved()) if len(nodes) > 1 else None
        values[nodes.examples] = own
        notes += nodes.notes(own, coarse, change)
    ordered = sorted(notes, key=lambda note: note.example)  # type: ignore[arg-type, return-value]  # all have one
    return Estimate(values.to(result_dtype(x)), notes=tuple(ordered))


def stop_of(given: object, tolerance: float | None, most: int) -> Stop | None:
    """Return when to stop; None where nodes are given and no tolerance, so that they are taken as they are."""
    if given is not None and tolerance is None:
        return None
    return Stop(TOLERANCE if tolerance is None else tolerance, most)


def gradients_by_step(score: Score, points: Iterable[Tensor]) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield the step, examples, scores and gradients of each batch of `points`, or of the part of it in one pass."""
    for rows in score.stream_gradients(points):
        assert rows.gradient is not None
        for step in dict.fromkeys(rows.step.tolist()):
            mine = rows.step == step
            yield step, rows.position[mine], rows.scores[mine], rows.gradient[mine]


@dataclass(frozen=True)
class BlurIntegratedGradients(Method):
    r"""Integrate the gradient while the input sharpens, from a Gaussian blur of `max_sigma` pixels to itself.

    $$A_i = \int_{\sigma_{\max}}^0 \partial_i f(L_\sigma)\, \partial_\sigma L_{\sigma,i}\, \mathrm{d}\sigma,
      \quad L_\sigma = \text{x blurred by } \sigma$$

    By default 32 equal nodes of t, where $\sigma = \sigma_{\max}(1 - t)^2$, are refined as those of IntegratedGradients
    are: to `tolerance`, at most `most_nodes`. With `steps` alone it is the trapezoid rule over
    $\sigma_k = \sigma_{\max}(1 - k/n)^2$, n = `steps`; with `tolerance` too, `steps` is the number of the first nodes.
    Both take the exact change of each pixel between two levels. Edge values are repeated beyond the border, as in
    `Blur`. Complete with respect to the blurred input: the values sum to $f(x) - f(L_{\sigma_{\max}})$ up to quadrature
    error, which `notes` report. Raises ValueError for inputs without spatial axes. [xu2020]

    >>> ll.explain(model, x, ll.BlurIntegratedGradients(steps=16, max_sigma=4), target=2).values.shape
    torch.Size([2, 3, 16, 16])
    """

    by_part: ClassVar[bool] = True
    steps: int | None = None
    max_sigma: float = 50.0
    tolerance: float | None = field(default=None, kw_only=True, metadata=LATER)
    most_nodes: int = field(default=MOST_NODES, kw_only=True, metadata=LATER)

    view = FINE
    no_sum: ClassVar[str | None] = "the values sum to f(x) - f(x blurred), not to f(x) - f(baseline); see the notes"

    def __post_init__(self) -> None:
        if self.steps is not None:
            require_whole(self, "steps", 1)
        require_number(self, "max_sigma", lambda sigma: sigma > 0, "a positive number of pixels")
        require_tolerance(self)
        if self.stop is not None:
            least = self.first.n
            require(is_whole(self.most_nodes, least), self, "most_nodes", f"at least {least}, the first nodes")

    @property
    def stop(self) -> Stop | None:
        """When the refinement stops; None where the steps are taken as they are."""
        return stop_of(self.steps, self.tolerance, self.most_nodes)

    @property
    def needs(self) -> Needs:
        return Needs(at_inputs=self.stop is None, value=True)

    @property
    def first(self) -> Quadrature:
        """The first nodes of t where they are refined."""
        return START if self.steps is None else Midpoint(self.steps)

    def rows(self, features: torch.Size) -> int | None:
        return None if self.steps is None or self.stop is not None else self.steps + 1

    def rows_at_least(self, features: torch.Size) -> int:
        return self.first.n

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        if self.stop is not None:
            path = self.path(x)
            return over_nodes(self.refined(score, x), x, lambda nodes: nodes.integral(path), self.change)
        assert self.steps is not None
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
        start = f"the values sum to {self.change} ="
        sums = enumerate(zip(change.tolist(), missed.tolist(), strict=True))
        notes = [Note("fact", f"{start} {all_of_it:.4g} but for {rest:.2g}", i) for i, (all_of_it, rest) in sums]
        return Estimate(total.to(result_dtype(x)), notes=tuple(notes))

    @property
    def change(self) -> str:
        """What the values sum to, in words."""
        return f"f(x) - f(x blurred by {self.max_sigma:g} pixels)"

    def refined(self, score: Score, x: Tensor) -> Iterator[Nodes]:
        """Yield the nodes of the path from the blurred input to x."""
        assert self.stop is not None
        path, start = self.path(x), torch.arange(len(x), device=x.device)
        at_start = score.values(path.points(start, torch.zeros(len(x), dtype=sum_dtype(x), device=x.device)))
        return refined(score, path, (at_start, score.values(x)), self.first, self.stop)

    def path(self, x: Tensor) -> Blurred:
        """Return the path as a function of t in [0, 1]. Raises ValueError for inputs without spatial axes."""
        return Blurred(x, self.max_sigma, _units(x, self))

    def levels(self, x: Tensor) -> Levels:
        """Return the levels of a fixed number of steps. Raises ValueError for inputs without spatial axes."""
        assert self.steps is not None
        units = _units(x, self)
        sigmas = (self.max_sigma * (1 - step / self.steps) ** 2 for step in range(self.steps))
        return Levels([[gaussian_blur(unit, sigma)[:, 0] for unit in units] for sigma in sigmas])


def _units(x: Tensor, method: Method) -> list[Tensor]:
    """Return a unit matrix for each spatial axis `(size, 1, size)`."""
    if x.ndim < 3:
        raise ValueError(
            f"inputs: shape {tuple(x.shape)}; {type(method).__name__} blurs spatial axes, so inputs must be "
            "(batch, channels, *space); use IntegratedGradients"
        )
    return [torch.eye(size, dtype=x.dtype, device=x.device)[:, None] for size in x.shape[2:]]


@dataclass(frozen=True, eq=False)
class Blurred(Path):
    """The input, blurred by max_sigma (1 - t)^2 pixels at time t."""

    x: Tensor
    max_sigma: float
    units: list[Tensor]

    def points(self, examples: Tensor, times: Tensor) -> Tensor:
        found = self.x[examples]
        for time in dict.fromkeys(times.tolist()):
            if time < 1:
                mine, sigma = times == time, self.max_sigma * (1 - time) ** 2
                blur = Levels([[gaussian_blur(unit, sigma)[:, 0] for unit in self.units]])
                found[mine] = blur(found[mine], 0)
        return found

    def way(self, examples: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        return self.points(examples, stop).to(stop.dtype) - self.points(examples, start).to(start.dtype)


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
