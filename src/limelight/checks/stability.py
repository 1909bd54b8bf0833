"""Robustness to small random changes of the input."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..base.attribution import Attribution
from ..base.named import require
from ..question.targets import ClassTarget
from .base import Better, Check, Kind, Measured, nan_where
from .case import Case

FLAT = "the map is zero everywhere, a share of it means nothing"
PLAIN = "the input is the same number everywhere: a share of its range is no change; use absolute_radius=True"
MOST_MAPS = 16  # explained at once, so that memory does not grow with the samples


@dataclass(frozen=True)
class _Stability(Check):
    r"""$|A(x + u) - A(x)|_2 \,/\, |A(x)|_2$ over `samples` draws of u, uniform within `radius` of the input's range.

    The class stays the one explained; `detail["flips"]` is the share of draws at which the model's first class is
    another. `relative=False` leaves the division out; `absolute_radius` takes `radius` in the input's own units.
    """

    samples: int = 10
    radius: float = 0.02
    relative: bool = True
    absolute_radius: bool = False
    kind: ClassVar[Kind] = "robustness"
    better: ClassVar[Better | None] = "lower"
    needs_method: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.samples >= 1, self, "samples", "1 or more")
        require(self.radius > 0, self, "radius", "a positive share of the input's range")

    def maps(self) -> float:
        return float(self.samples)

    @abstractmethod
    def summary(self, changes: Tensor) -> Tensor:
        """Changes `(samples, n)` as one figure per example."""

    def run(self, case: Case) -> Measured:
        changes = torch.zeros(self.samples, len(case), dtype=torch.float64)
        flips = torch.zeros(len(case), dtype=torch.float64)
        own = case.attribution.values.double()
        size = own.flatten(1).norm(dim=1)
        known = False
        for examples, draws in self._groups(len(case)):
            part = case.select(examples)
            found = part.explain(
                x=torch.cat([self._near(case.select([e]), d) for e, d in zip(examples, draws, strict=True)])
            )
            changed = other_class(part, found)
            known = changed is not None
            gap = (found.values.double() - own[examples]).flatten(1).norm(dim=1)
            for row, (example, draw) in enumerate(zip(examples, draws, strict=True)):
                changes[draw, example] = gap[row] / (size[example] if self.relative else 1)
                if changed is not None:
                    flips[example] += float(changed[row]) / self.samples
        detail = {"flips": flips} if known else {}
        flat = (size == 0).cpu() & self.relative
        plain = (case.x.flatten(1).amax(1) == case.x.flatten(1).amin(1)).cpu() & (not self.absolute_radius)
        values, reasons = nan_where(self.summary(changes), flat | plain, FLAT)
        reasons = tuple(PLAIN if no_range else reason for no_range, reason in zip(plain.tolist(), reasons, strict=True))
        return Measured(values, detail=detail, reasons=reasons)

    def _groups(self, n: int) -> Iterator[tuple[list[int], list[int]]]:
        pairs = [(example, draw) for draw in range(self.samples) for example in range(n)]
        for start in range(0, len(pairs), MOST_MAPS):
            group = pairs[start : start + MOST_MAPS]
            yield [example for example, _ in group], [draw for _, draw in group]

    def _near(self, case: Case, draw: int) -> Tensor:
        x = case.x
        width = 1.0 if self.absolute_radius else float(x.max() - x.min())
        return x + self.radius * width * (2 * case.rng.uniform(f"near {draw}", x.shape[1:], x) - 1)


def other_class(case: Case, found: Attribution) -> Tensor | None:
    """Whether the model's first class `(n,)` is another in `found` than in the case; None where it has no classes.

    Of a single output nobody says where its threshold lies.
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
    meaning: ClassVar[str] = "the most the map changed under changes nobody would see"

    def summary(self, changes: Tensor) -> Tensor:
        return changes.amax(0)


@dataclass(frozen=True)
class AvgSensitivity(_Stability):
    __doc__ = "The mean change of the map, relative to the map. [yeh2019]\n\n" + (_Stability.__doc__ or "")
    meaning: ClassVar[str] = "how much the map changed on average under changes nobody would see"

    def summary(self, changes: Tensor) -> Tensor:
        return changes.mean(0)
