"""When a method that samples has samples enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.arithmetic import rounding_of
from ..base.steadiness import steadiness_of, two_runs
from ..base.view import View

Halves = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Goal:
    """What ends the sampling of an example: a relative standard error, a steadiness of the map as drawn, or both."""

    tolerance: float | None
    steadiness: float | None
    view: View

    @property
    def is_set(self) -> bool:
        return self.tolerance is not None or self.steadiness is not None

    def met(self, error: float, halves: Halves | None) -> tuple[bool, str]:
        """Return whether one example may stop, and the figures as text.

        `error`: its relative standard error. `halves` `(1, channels, *space)`: the maps of the halves of its samples.
        """
        good, told = True, []
        if self.tolerance is not None:
            good = error <= self.tolerance
            told.append(f"relative standard error {error:.2g}")
        if self.steadiness is not None:
            if halves is None:
                return False, ", ".join([*told, "two runs: correlation unknown"])
            found = steadiness_of(*halves, self.view)
            low = float(found.low)
            good = good and low >= self.steadiness  # False for NaN
            told.append(two_runs(float(found.value), low, float(found.high)))
        return good, ", ".join(told)

    def stages(self, first: int, most: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of samples `(start, stop)`: to `first`, twice that, and so on to `most`; without goal, all."""
        start, stop = 0, min(first, most) if self.is_set else most
        while start < stop:
            yield start, stop
            start, stop = stop, min(most, 2 * stop)


def above_rounding(error: float, errors: Tensor, dtype: torch.dtype, largest: float) -> float:
    """Return a relative standard `error`; 0 where the standard errors are no more than scores are rounded by.

    `largest` is the largest absolute score, computed in `dtype`. What a constant score leaves is rounding: no number of
    samples would bring it below a share of itself.
    """
    rounding = rounding_of(dtype, torch.tensor([largest], dtype=torch.float64))
    return 0.0 if bool((errors.double().abs().cpu() <= rounding).all()) else error


def of_example(halves: Halves | None, i: int) -> Halves | None:
    """Return the halves of one example."""
    return None if halves is None else (halves[0][[i]], halves[1][[i]])
