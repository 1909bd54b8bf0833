"""Robustness: how much the map changes with small random changes of the input, and with its brightness."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..base.attribution import Attribution
from ..base.named import require
from ..base.similarity import rank_correlation
from ..question.targets import ClassTarget
from .base import Better, Check, Kind, Measured, NotApplicable
from .case import Case
from .exhibits import Exhibit, exhibit, exhibited
from .maps import CONSTANT, ssim, units_of

FLAT = "the map is zero everywhere, a share of it means nothing"
PLAIN = "the input is the same number everywhere: a share of its range is no change; use absolute_radius=True"
MOST_MAPS = 16  # explained at once, so that memory does not grow with the samples


@dataclass(frozen=True)
class _Stability(Check):
    r"""$|A(x + u) - A(x)|_2 \,/\, |A(x)|_2$ over `samples` draws of u, uniform within `radius` of the input's range.

    The explained class stays fixed; `detail["flips"]` is the share of draws at which the model's first class changes.
    `relative=False` omits the division; `absolute_radius` reads `radius` in the input's own units.
    """

    samples: int = 10
    radius: float = 0.02
    relative: bool = True
    absolute_radius: bool = False
    kind: ClassVar[Kind] = "robustness"
    better: ClassVar[Better | None] = "lower"

    def __post_init__(self) -> None:
        require(self.samples >= 1, self, "samples", "1 or more")
        require(self.radius > 0, self, "radius", "a positive share of the input's range")

    def maps(self) -> float:
        return float(self.samples)

    @abstractmethod
    def summary(self, changes: Tensor) -> Tensor:
        """Reduce changes `(samples, n)` to one figure per example."""

    def run(self, case: Case) -> Measured:
        changes = torch.zeros(self.samples, len(case), dtype=torch.float64)
        flips = torch.zeros(len(case), dtype=torch.float64)
        own = case.attribution.values.double()
        size = own.flatten(1).norm(dim=1)
        known = False
        for group in self._groups(len(case)):
            examples = [example for example, _ in group]
            part = case.select(examples)
            found = part.explain(x=torch.cat([self._near(case.select([example]), draw) for example, draw in group]))
            changed = other_class(part, found)
            known = changed is not None
            gap = (found.values.double() - own[examples]).flatten(1).norm(dim=1)
            for row, (example, draw) in enumerate(group):
                changes[draw, example] = gap[row] / (size[example] if self.relative else 1)
                if changed is not None:
                    flips[example] += float(changed[row]) / self.samples
        detail = {"flips": flips} if known else {}
        flat = (size == 0).cpu() & self.relative
        plain = (case.x.flatten(1).amax(1) == case.x.flatten(1).amin(1)).cpu() & (not self.absolute_radius)
        measured = Measured(self.summary(changes), detail=detail)
        return measured.unknown_where(flat, FLAT).unknown_where(plain, PLAIN)

    def _groups(self, n: int) -> Iterator[list[tuple[int, int]]]:
        """Yield every (example, draw), `MOST_MAPS` at a time."""
        pairs = [(example, draw) for draw in range(self.samples) for example in range(n)]
        for start in range(0, len(pairs), MOST_MAPS):
            yield pairs[start : start + MOST_MAPS]

    def _near(self, case: Case, draw: int) -> Tensor:
        """Draw one changed input of a case of one example."""
        x = case.x
        width = 1.0 if self.absolute_radius else float(x.max() - x.min())
        return x + self.radius * width * (2 * case.rng.uniform(f"near {draw}", x.shape[1:], x) - 1)


def other_class(case: Case, found: Attribution) -> Tensor | None:
    """Whether the model's first class `(n,)` differs between `found` and the case; None where it has no classes.

    A single output has no known threshold, so it counts as no class.
    """
    before, after = case.attribution.outputs, found.outputs
    if not isinstance(case.target, ClassTarget) or before is None or after is None:
        return None
    if before.ndim != 2 or before.shape[1] < 2:
        return None
    return after.argmax(1) != before.argmax(1)


@dataclass(frozen=True)
class MaxSensitivity(_Stability):
    __doc__ = "The largest change of the map, relative to the map. [yeh2019]\n\n" + (_Stability.__doc__ or "")
    meaning: ClassVar[str] = "the most the map changed under invisible changes"

    def summary(self, changes: Tensor) -> Tensor:
        return changes.amax(0)


@dataclass(frozen=True)
class AvgSensitivity(_Stability):
    __doc__ = "The mean change of the map, relative to the map. [yeh2019]\n\n" + (_Stability.__doc__ or "")
    meaning: ClassVar[str] = "how much the map changed on average under invisible changes"

    def summary(self, changes: Tensor) -> Tensor:
        return changes.mean(0)


@dataclass(frozen=True)
class BiasShift(Check):
    r"""Add `levels` (in the input's units) to every channel, keep the class, and explain again.

    Value: the lowest rank correlation of the maps with the unshifted one. `detail` has for each level the rank
    correlation, the structural similarity, the score of the class and whether the model's first class changed. Values
    beyond 1 are not clipped. No right answer is known: the model itself may answer differently, which the detail shows
    beside the map.
    """

    levels: tuple[float, ...] = (0.1, 0.2, 0.4)
    kind: ClassVar[Kind] = "robustness"
    better: ClassVar[Better | None] = "higher"
    meaning: ClassVar[str] = "how alike the map stays when the picture gets brighter"

    def __post_init__(self) -> None:
        require(len(self.levels) > 0, self, "levels", "at least one level")

    def maps(self) -> float:
        return float(len(self.levels))

    def run(self, case: Case) -> Measured:
        if case.question.texts:
            raise NotApplicable("embeddings of tokens have no brightness")
        own = case.attribution
        alike, structure, scores, flips, maps = [], [], [], [], []
        for level in self.levels:
            found = case.explain(x=case.x + level)
            alike.append(rank_correlation(units_of(own.values), units_of(found.values)))
            if case.x.ndim == 4:
                structure.append(ssim(own.heatmap(), found.heatmap()))
            scores.append(found.score.double())
            maps.append(found.viewed() if case.keeps_exhibits else None)
            if (changed := other_class(case, found)) is not None:
                flips.append(changed.double())
        by_level = torch.stack(alike, 1)
        detail = {"spearman": by_level, "score": torch.stack(scores, 1)}
        detail |= {"ssim": torch.stack(structure, 1)} if structure else {}
        detail |= {"flips": torch.stack(flips, 1)} if flips else {}
        lowest = by_level.amin(1)  # NaN where one is
        shown = exhibited(case, lambda: self._exhibits(case, maps, detail))
        return Measured(lowest, detail=detail, exhibits=shown).unknown_where(lowest.isnan(), CONSTANT)

    def _exhibits(self, case: Case, maps: Sequence[Tensor | None], detail: Mapping[str, Tensor]) -> list[Exhibit]:
        """Return the brighter pictures with their maps."""
        found = []
        for k, (level, each) in enumerate(zip(self.levels, maps, strict=True)):
            lines = [
                (f"score {float(detail['score'][i, k]):.4g}", likeness(detail, i, k), *flip_of(detail, i, k))
                for i in range(len(case))
            ]
            found.append(exhibit(f"{level:+g} to every channel", case.x + level, case.x, each, lines))
        return found


def likeness(detail: Mapping[str, Tensor], example: int, k: int) -> str:
    """Say how alike the k-th map of an example is to the unchanged one."""
    words = f"rank correlation {float(detail['spearman'][example, k]):.2f}"
    return words + (f", SSIM {float(detail['ssim'][example, k]):.2f}" if "ssim" in detail else "")


def flip_of(detail: Mapping[str, Tensor], example: int, k: int) -> tuple[str, ...]:
    """Say where the model's first class is another than of the unchanged input."""
    return ("the model's first class changes",) if "flips" in detail and bool(detail["flips"][example, k]) else ()
