"""RISE: how the score changes with each position's visibility under random masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import (
    LATER,
    is_whole,
    require,
    require_number,
    require_steadiness,
    require_tolerance,
    require_whole,
)
from ..base.notes import Note
from ..base.similarity import relative_size
from ..engine.interrupted import stream_until_interrupted
from ..engine.score import Score, result_dtype
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs, convergence, interrupted
from .moments import STILL, MixedMoments
from .stopping import Goal, Halves, above_rounding
from .two_precision import Sampler, TwoPrecision

CELLS, CELLS_OF_SERIES = 7, 16
FIRST_STAGE = 128  # masks before the first test of the tolerance; each later test doubles them
_CELLS = 2**21  # of masks held at once, in float64: 16 MiB


@dataclass(frozen=True)
class RISE(Method):
    r"""The slope of the score along each position's visibility, over random masks.

    $$A_i = \frac{\mathrm{Cov}(f(m \odot x + (1 - m) \odot b), m_i)}{\mathrm{Var}(m_i)}, \qquad
      \text{or } \frac{1}{N p} \sum_k f_k\, m_{k,i} \text{ with } \mathtt{centred=False}$$

    over `masks` masks m: a grid of `cells` per axis, each cell visible with `probability`, upsampled linearly to
    (cells + 1) x ceil(size / cells) and cropped at random. `cells="each"` masks each position by itself, without
    upsampling. None is 7 for pictures and volumes, 16 for a longer series `(channels, length)`, and "each" for a
    shorter one, for tokens and for the columns of a table, whose order means nothing.

    The plain form is the paper's; it has the same ranking and adds the error of the score's mean. `stderr`
    `(n, 1, *space)` is that of the regression slope (robust to unequal variances), or of the plain mean. `tolerance`
    stops an example as soon as |stderr| / |map| (L2) is below it after 128, 256, ... masks, `steadiness` as soon as two
    runs would correlate by so much as drawn (the lower end of the interval of `Attribution.steadiness`). Masks are
    products along the axes and made as they are used, so memory does not grow with their number. Raises ValueError
    where all masks agree at a position. With a `Box` target this is D-RISE. In two precisions masks run in bfloat16 and
    some in float32 too, which correct the others; `stderr` and `tolerance` are of both together.
    [petsiuk2018] [petsiuk2021]

    >>> a = ll.explain(model, x, ll.RISE(masks=100, cells=4), target=2)
    >>> a.values.shape, a.forward_rows
    (torch.Size([2, 1, 16, 16]), 204)
    """

    by_part: ClassVar[bool] = True
    masks: int = 4000
    cells: int | Literal["each"] | None = None
    probability: float = 0.5
    centred: bool = True
    tolerance: float | None = None
    steadiness: float | None = field(default=None, kw_only=True, metadata=LATER)

    no_sum: ClassVar[str | None] = "the slopes of the score along each position's visibility add up to no total"
    needs: ClassVar[Needs] = Needs(gradients=False, baseline=True)
    two_precisions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_whole(self, "masks", 3)
        fits = self.cells is None or self.cells == "each" or is_whole(self.cells, 1)
        require(fits, self, "cells", "a whole number of 1 or more, or 'each'")
        require_number(self, "probability", lambda share: 0 < share < 1, "a number between 0 and 1")
        require_tolerance(self)
        require_steadiness(self)

    @property
    def goal(self) -> Goal:
        return Goal(self.tolerance, self.steadiness, self.view)

    def of_tokens(self) -> Method:
        return self if self.cells is not None else replace(self, cells="each")

    def rows(self, features: torch.Size) -> int | None:
        return None if self.goal.is_set else self.masks

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        if x.ndim < 3 and self.cells != "each":
            alone = replace(self, cells="each").run(score, x, baseline, rng)
            text = f"cells={self.cells} is of spatial axes, which these inputs lack: each column is masked by itself"
            return alone if self.cells is None else replace(alone, notes=(*alone.notes, text))
        space = x.shape[2:] if x.ndim > 2 else x.shape[1:]
        moments = [MixedMoments(self.probability, space.numel(), x.device) for _ in range(len(x))]
        active, goal = list(range(len(x))), self.goal
        shape = (len(x), 1, *space) if x.ndim > 2 else x.shape
        twice = [
            _Twice(self, score.select([i]), x[[i]], baseline[[i]], rng.select([i]), score.bfloat16.cost)
            for i in active
            if score.bfloat16 is not None
        ]
        taken = [0] * len(x)
        notes: dict[int, Note] = {}
        cut = False
        for start, stop in goal.stages(FIRST_STAGE, self.masks):
            if not twice:
                own = score.select(active), x[active], baseline[active], rng.select(active)
                cut = self.stage(*own, range(start, stop), [moments[i] for i in active])
            else:
                for i in active:
                    twice[i].extend(range(start, stop))
                    moments[i] = twice[i].moments(stop)
            taken = [stop if i in active else done for i, done in enumerate(taken)]
            if not goal.is_set or cut:
                break
            for i in list(active):
                values, stderr = self._map(moments[i])
                error = above_rounding(
                    relative_size(stderr, values), stderr, score.runner.precision, moments[i].largest
                )
                done, detail = goal.met(error, self._halves([moments[i]], shape))
                notes[i] = convergence(done, f"after {stop} masks", detail, i)
                if done:
                    active.remove(i)
            if not active:
                break
        if cut and not all(map(self._is_known, moments)):
            raise KeyboardInterrupt
        maps = [self._map(each) for each in moments]
        values, stderr = (torch.stack(each).reshape(shape).to(result_dtype(x)) for each in zip(*maps, strict=True))
        told = [notes[i] for i in sorted(notes)]
        told += [each.rows.note(taken[i], "masks", i) for i, each in enumerate(twice)]
        told += [interrupted(each.count for each in moments)] if cut else []
        return Estimate(values, stderr, notes=tuple(told), halves=self._halves(moments, shape))

    def stage(
        self,
        score: Score,
        x: Tensor,
        baseline: Tensor,
        rng: Streams,
        masks: range,
        moments: list[MixedMoments],
    ) -> bool:
        """Run these masks on each example and add them to its moments; return whether Ctrl-C cut that short."""
        for visible, points in self.blocks(score, x, baseline, rng, masks):
            scores, cut = stream_until_interrupted(score, points)
            for i, each in enumerate(moments):
                own = scores[i :: len(x)].to(visible.dtype)
                if len(own):
                    each.add(visible[: len(own), i].flatten(1), own)
            if cut:
                return True
        return False

    def blocks(
        self, score: Score, x: Tensor, baseline: Tensor, rng: Streams, masks: range
    ) -> Iterator[tuple[Tensor, Iterator[Tensor]]]:
        """Yield blocks of masks `(k, n, *space)` of bounded memory, each with its k batches of rows."""
        space = x.shape[2:] if x.ndim > 2 else x.shape[1:]
        shape = (len(x), 1, *space) if x.ndim > 2 else x.shape
        fit = max(1, _CELLS // (len(x) * space.numel()))
        step = max(fit - fit % score.rows_per_pass, min(fit, score.rows_per_pass))
        for start in range(masks.start, masks.stop, step):
            block = range(start, min(start + step, masks.stop))
            visible = torch.stack([self.draw(rng.select([i]), block, space, x.device) for i in range(len(x))], 1)
            yield visible, map(partial(self._blended, x, baseline, shape), visible)

    @staticmethod
    def _blended(x: Tensor, baseline: Tensor, shape: Sequence[int], mask: Tensor) -> Tensor:
        return torch.lerp(baseline, x, mask.reshape(shape).to(x))

    def draw(self, rng: Streams, masks: Sequence[int], space: torch.Size, device: torch.device) -> Tensor:
        """Draw an example's masks `(masks, *space)` in [0, 1]; the k-th depends on example, seed and k alone."""
        double, axes = torch.empty(0, dtype=torch.float64), len(space)
        cells = _cells(space) if self.cells is None else self.cells
        if cells == "each":
            numbers = torch.cat([rng.uniform(f"mask {k}", (space.numel(),), double) for k in masks])
            return (numbers < self.probability).double().reshape(-1, *space).to(device)
        size = cells**axes
        numbers = torch.cat([rng.uniform(f"mask {k}", (size + axes,), double) for k in masks])
        visible = (numbers[:, :size] < self.probability).double().reshape(-1, *[cells] * axes).to(device)
        for axis, length in enumerate(space):
            cell = math.ceil(length / cells)
            enlarged = (cells + 1) * cell
            weights = F.interpolate(torch.eye(cells).double()[None], size=enlarged, mode="linear")[0].T
            offset = (numbers[:, size + axis] * cell).long()
            along = weights[offset[:, None] + torch.arange(length)].to(device)
            lines = visible.movedim(axis + 1, -1)
            product = torch.bmm(lines.reshape(len(lines), -1, cells), along.mT)
            visible = product.reshape(*lines.shape[:-1], length).movedim(-1, axis + 1)
        return visible

    def _is_known(self, moments: MixedMoments) -> bool:
        """Whether the masks so far determine a map."""
        return moments.count > 2 and (not self.centred or bool((moments.variance() > STILL).all()))

    def _halves(self, moments: Sequence[MixedMoments], shape: Sequence[int]) -> Halves:
        """Return the maps `(k, *shape[1:])` of both halves of the masks of k examples, NaN where one is unknown."""
        first, second = (
            torch.stack(each).reshape(-1, *shape[1:])
            for each in zip(*(each.halves(self.centred) for each in moments), strict=True)
        )
        return first, second

    def _map(self, moments: MixedMoments) -> tuple[Tensor, Tensor]:
        if not self.centred:
            return moments.plain()
        still = int((moments.variance() <= STILL).sum())
        require(still == 0, self, "masks", f"more: at {still} positions all of them agreed, so no slope is known there")
        return moments.slope()


def _cells(space: torch.Size) -> int | Literal["each"]:
    """Return the cells along each of the spatial axes where none are given."""
    if len(space) > 1:
        return CELLS
    return CELLS_OF_SERIES if space[0] > CELLS_OF_SERIES else "each"


class _Twice(Sampler):
    """The masks of one example in two precisions; `score`, x, baseline and rng are its own."""

    def __init__(self, method: RISE, score: Score, x: Tensor, baseline: Tensor, rng: Streams, cost: float) -> None:
        super().__init__(TwoPrecision(cost))
        self._method, self._score, self._x, self._baseline, self._rng = method, score, x, baseline, rng
        self._space = x.shape[2:] if x.ndim > 2 else x.shape[1:]
        self.reset()

    def reset(self) -> None:
        self._others = MixedMoments(self._method.probability, self._space.numel(), self._x.device)

    def run(self, samples: range, bfloat16: bool, alone: bool) -> Tensor:
        own = self._score, self._x, self._baseline, self._rng
        found = [self._x.new_zeros(0, dtype=torch.float64)]
        for visible, points in self._method.blocks(*own, samples):
            scores = self._score.stream_values(points, bfloat16)[:, 0].to(visible.dtype)
            if alone:
                self._others.add(visible[:, 0].flatten(1), scores)
            found.append(scores)
        return torch.cat(found)

    def moments(self, masks: int) -> MixedMoments:
        """Return the moments of all masks so far, the corrected ones drawn once more."""
        scores, mean = self.rows.corrected(masks)
        found = self._others.raised(float(mean))
        step = max(1, _CELLS // self._space.numel())
        for start in range(0, len(self.both), step):
            part = slice(start, start + step)
            visible = self._method.draw(self._rng, self.both[part], self._space, self._x.device)
            found.add(visible.flatten(1), scores[part])
        return found
