"""Integration along a path, refined for each example where the change of its score is missed most."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..base.arithmetic import rounding_of
from ..base.notes import Note
from ..engine.score import Score, sum_dtype
from .base import convergence
from .moments import column
from .quadrature import Midpoint, Quadrature

START = Midpoint(32)  # the first nodes, by default
TOLERANCE = 0.01  # share of the score's change that the sum of a map may miss, by default
MOST_NODES = 512
_CANCELS = 0.1  # share of the score's ups and downs that the gaps may miss together, their signs aside
_FRESH = 8  # nodes that one refinement adds for an example, which do not depend on the batch or the passes
_KEPT = 2**29  # bytes of gradients kept at once, where every example takes all its nodes
_FIRST, _LAST, _INNER = 0, 1, 2  # columns of times and scores: the path's ends, and the first node


class Path(ABC):
    """A path of each example, from a start at t = 0 to x at t = 1."""

    @abstractmethod
    def points(self, examples: Tensor, times: Tensor) -> Tensor:
        """Return the points `(m, *features)` of `examples` `(m,)` at `times` `(m,)`."""

    @abstractmethod
    def way(self, examples: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        """Return the differences `(m, *features)` of two points of the path, at times `(m,)`, in the times' dtype."""


@dataclass(frozen=True, eq=False)
class Line(Path):
    """The straight line from a baseline to x."""

    x: Tensor
    baseline: Tensor

    def points(self, examples: Tensor, times: Tensor) -> Tensor:
        return torch.lerp(self.baseline[examples], self.x[examples], column(times.to(self.x.dtype), self.x))

    def way(self, examples: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        return column(stop - start, self.x) * (self.x[examples] - self.baseline[examples]).to(start.dtype)


@dataclass(frozen=True)
class Stop:
    """When to stop: where the sum misses `tolerance` of the score's change or less, not by luck; or with `most` nodes.

    By luck means that the misses of the gaps cancel: their sizes must add up to a tenth of the score's ups and downs
    along the path or less (or `tolerance` of them, if that is more).
    """

    tolerance: float = TOLERANCE
    most: int = MOST_NODES


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of some examples' paths in order of time, as many for each.

    `examples` `(m,)` are their places in the batch. `times` and `scores` `(m, k + 2)` begin with the path's start and
    end with x, where no gradient is taken; `gradients` are `(m, k, *features)`. `missed` `(m,)` is the sum of the map
    less the change of the score.
    """

    examples: Tensor
    times: Tensor
    scores: Tensor
    gradients: Tensor
    missed: Tensor
    converged: Tensor

    def __len__(self) -> int:
        """Return the number of nodes of each example."""
        return self.gradients.shape[1]

    @property
    def cells(self) -> Tensor:
        """The length of the path that each node stands for `(m, k)`: the part of [0, 1] that is nearest to it."""
        between = (self.times[:, 1:-2] + self.times[:, 2:-1]) / 2
        return torch.cat([self.times[:, :1], between, self.times[:, -1:]], 1).diff(dim=1)

    def average(self) -> Tensor:
        """Return the average gradient along the path `(m, *features)`."""
        cells = self.cells
        return sum(
            (column(cells[:, k], self.gradients[:, 0]) * self.gradients[:, k] for k in range(len(self))), _zero(self)
        )

    def integral(self, path: Path) -> Tensor:
        """Return the integral of the gradient along the path `(m, *features)`, a value for each feature."""
        total = _zero(self)
        for gap in range(len(self) + 1):
            before, after = max(gap - 1, 0), min(gap, len(self) - 1)
            mean = (self.gradients[:, before].to(total) + self.gradients[:, after].to(total)) / 2
            total += path.way(self.examples, self.times[:, gap], self.times[:, gap + 1]) * mean
        return total

    def halved(self) -> Nodes:
        """Return every second node alone."""
        inner = torch.arange(1, len(self), 2, device=self.times.device)
        ends = torch.tensor([0, len(self) + 1], device=inner.device)
        at = torch.cat([ends[:1], inner + 1, ends[1:]])
        return replace(self, times=self.times[:, at], scores=self.scores[:, at], gradients=self.gradients[:, inner])

    def notes(self, values: Tensor, coarse: Tensor | None, change: str) -> list[Note]:
        """Note for each example how its refinement ended.

        The refinement stops by the sum, which is therefore no evidence. What is: by how much `values` `(m, ...)` differ
        from `coarse`, the map of every second node.
        """
        found = []
        whole = (self.scores[:, -1] - self.scores[:, 0]).abs().tolist()
        for i, example in enumerate(self.examples.tolist()):
            missed = float(self.missed[i].abs())
            share = f"{missed / whole[i]:.2%} of {change}" if missed < whole[i] else f"{missed:.2g} of {change}"
            text = f"chosen by the gradients' sum, which misses {share}"
            size = float(values[i].double().abs().sum())
            if coarse is not None and size:
                moved = float((values[i] - coarse[i]).double().abs().sum()) / size
                text += f"; every second node alone gives a map that differs by {moved:.1%}"
            found.append(convergence(bool(self.converged[i]), f"with {len(self)} nodes", text, example))
        return found


def refined(score: Score, path: Path, ends: tuple[Tensor, Tensor], first: Quadrature, stop: Stop) -> Iterator[Nodes]:
    r"""Yield the nodes of all examples, each refined by itself; those that end with as many nodes come together.

    The first nodes are those of a quadrature. They divide the path $\gamma$ into gaps, and a gap from a to c adds

    $$\tfrac12 \big(\gamma(c) - \gamma(a)\big) \odot \big(\nabla f(\gamma(a)) + \nabla f(\gamma(c))\big)$$

    to the map; at the ends of the path the gradient is that of the nearest node. Of equal midpoints this is the
    midpoint rule. What a gap misses of f(c) - f(a) is known from the nodes' own passes. While the whole sum misses more
    than the tolerance, or rounding, or is met because misses cancel, the gaps that miss most get a node each. Every
    node that was run is in the map.
    Costs as many forward and backward rows as there are nodes. `ends`: the scores `(n,)` at the path's start and at x.
    """
    row = path.points(torch.zeros(1, dtype=torch.long, device=ends[0].device), torch.zeros_like(ends[0][:1]))
    together = max(1, _KEPT // (row.numel() * row.element_size() * stop.most))
    for part in torch.arange(len(score), device=row.device).split(together):
        known = (each[part].to(sum_dtype(row)) for each in ends)
        yield from _refined(score, path, part, torch.stack(tuple(known), 1), first, stop)


def _refined(score: Score, path: Path, active: Tensor, ends: Tensor, first: Quadrature, stop: Stop) -> Iterator[Nodes]:
    """Refine examples together; `ends` `(n, 2)`."""
    at = _begun(score, path, active, ends, first)
    while True:
        missed = at.gains.sum(1) - at.change
        rounding = _rounding(at)
        converged = missed.abs() <= (stop.tolerance * at.change.abs()).maximum(rounding)
        few = max(stop.tolerance, _CANCELS) * at.changes.abs().sum(1)
        converged &= at.missed.abs().sum(1) <= few.maximum(rounding)
        ended = converged | (at.gradients.shape[1] >= stop.most)
        if bool(ended.any()):
            out = ended.nonzero()[:, 0]
            yield at.select(out).in_order(missed[out], converged[out])
        if bool(ended.all()):
            return
        at = _finer(score, path, at.select((~ended).nonzero()[:, 0]), stop.most)


@dataclass(frozen=True, eq=False)
class _Gaps:
    """Nodes in the order in which they were run, and the gaps between them in no order.

    `times` and `scores` `(m, 2 + k)` begin with both ends of the path; `gradients` are `(m, k, *features)`. `left` and
    `right` `(m, gaps)` are columns of `times`, and `gains` is what each gap adds to the sum of the map.
    """

    examples: Tensor
    times: Tensor
    scores: Tensor
    gradients: Tensor
    left: Tensor
    right: Tensor
    gains: Tensor

    @property
    def change(self) -> Tensor:
        return self.scores[:, _LAST] - self.scores[:, _FIRST]

    @property
    def changes(self) -> Tensor:
        """The change of the score over each gap `(m, gaps)`."""
        return self.scores.gather(1, self.right) - self.scores.gather(1, self.left)

    @property
    def missed(self) -> Tensor:
        """What the map lacks or has too much of each gap's change `(m, gaps)`."""
        return self.gains - self.changes

    def select(self, which: Tensor) -> _Gaps:
        return _Gaps(*(getattr(self, each.name)[which] for each in fields(self)))

    def in_order(self, missed: Tensor, converged: Tensor) -> Nodes:
        at = _columns(self.times)
        row = torch.arange(len(at), device=at.device)[:, None]
        own = self.gradients[row, at[:, 1:-1] - _INNER]
        return Nodes(self.examples, self.times.gather(1, at), self.scores.gather(1, at), own, missed, converged)


def _columns(times: Tensor) -> Tensor:
    """Return the columns of `times` in order of time: the path's start, the nodes and its end."""
    inner = times[:, _INNER:].argsort(dim=1, stable=True) + _INNER
    return torch.cat([torch.full_like(inner[:, :1], _FIRST), inner, torch.full_like(inner[:, :1], _LAST)], 1)


def _begun(score: Score, path: Path, examples: Tensor, ends: Tensor, first: Quadrature) -> _Gaps:
    """Run the first nodes."""
    fresh = torch.tensor([t for t, _ in first], dtype=ends.dtype, device=ends.device).expand(len(ends), -1)
    scores, gradients = _run(score, path, examples, fresh)
    times = torch.cat([torch.zeros_like(ends[:, :1]), torch.ones_like(ends[:, :1]), fresh], 1)
    order = _columns(times)
    wide = times[0].gather(0, order[0]).diff() > 0  # a rule may have nodes at the ends of the path
    left, right = order[:, :-1][:, wide], order[:, 1:][:, wide]
    gains = _gains(path, examples, times, gradients, left, right)
    return _Gaps(examples, times, torch.cat([ends, scores], 1), gradients, left, right, gains)


def _finer(score: Score, path: Path, at: _Gaps, most: int) -> _Gaps:
    """Run a node in each of the gaps that miss most of the score's change."""
    cut = at.missed.abs().argsort(dim=1, descending=True, stable=True)[:, : min(_FRESH, most - at.gradients.shape[1])]
    before, after = at.left.gather(1, cut), at.right.gather(1, cut)
    # At an end of the path, where no gradient is taken, a third is the middle of the part that the node stands for.
    share = torch.where(before == _FIRST, 1 / 3, torch.where(after == _LAST, 2 / 3, 1 / 2)).to(at.times)
    fresh = torch.lerp(at.times.gather(1, before), at.times.gather(1, after), share)
    found = _run(score, path, at.examples, fresh)
    new = torch.arange(cut.shape[1], device=cut.device).expand_as(cut) + at.times.shape[1]
    pairs = (at.times, fresh), (at.scores, found[0]), (at.gradients, found[1])
    times, scores, gradients = (torch.cat(pair, 1) for pair in pairs)
    halves = [_gains(path, at.examples, times, gradients, *gap) for gap in ((before, new), (new, after))]
    gains = torch.cat([at.gains.scatter(1, cut, halves[0]), halves[1]], 1)
    left, right = torch.cat([at.left, new], 1), torch.cat([at.right.scatter(1, cut, new), after], 1)
    return _Gaps(at.examples, times, scores, gradients, left, right, gains)


def _run(score: Score, path: Path, active: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores `(m, k)` and gradients `(m, k, *features)` at `times` `(m, k)`."""
    points = (path.points(active, times[:, step]) for step in range(times.shape[1]))
    scores, gradients = torch.empty_like(times), torch.empty(0)
    for rows in score.select(active).stream_gradients(points):
        assert rows.gradient is not None
        if not len(gradients):
            gradients = rows.gradient.new_empty((*times.shape, *rows.gradient.shape[1:]))
        scores[rows.position, rows.step] = rows.scores.to(scores)
        gradients[rows.position, rows.step] = rows.gradient
    return scores, gradients


def _gains(path: Path, examples: Tensor, times: Tensor, gradients: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return what each gap `(m, gaps)` adds to the sum of the map."""
    row, found = torch.arange(len(examples), device=times.device), []
    for before, after in zip(left.unbind(1), right.unbind(1), strict=True):
        start, stop = torch.where(before == _FIRST, after, before), torch.where(after == _LAST, before, after)
        first, last = (gradients[row, node - _INNER].to(times.dtype) for node in (start, stop))
        way = path.way(examples, times[row, before], times[row, after])
        found.append((way * (first + last) / 2).flatten(1).sum(1))
    return torch.stack(found, 1)


def _rounding(at: _Gaps) -> Tensor:
    """Return what arithmetic alone may add to or take from the sum of the gains, `(m,)`."""
    return rounding_of(at.gradients.dtype, *at.scores[:, :_INNER].unbind(1), at.gains.abs().sum(1)).to(at.gains)


def _zero(nodes: Nodes) -> Tensor:
    first = nodes.gradients[:, 0]
    return torch.zeros_like(first, dtype=sum_dtype(first))
