"""Shifts of the input: one that the model is made not to see, and one that it sees as brightness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..base.named import require
from ..base.similarity import rank_correlation
from ..model_edits.input_shift import compensated
from .base import Better, Check, Kind, Measured, nan_where, relative_difference
from .case import Case
from .maps import units_of
from .similarity import ssim
from .stability import other_class


@dataclass(frozen=True)
class InputShift(Check):
    r"""Kindermans' test: shift every input by `shift` and let the first layer's bias take it back.

    Both models give the same outputs (asserted), so the same map is due: $\max|A_1 - A_2| / \max|A_1|$. Methods that
    multiply with the input, or compare with a fixed reference, fail it; a reference that moves along
    (`limelight.Minimum()`) mends that. A copy gets another bias, nothing of the model is edited. In float32
    rounding alone moves a gradient by up to a percent, where units sit at their kinks; failures are tens of percent.
    [kindermans2019]
    """

    shift: float = 0.5
    tolerance: float = 0.05
    kind: ClassVar[Kind] = "hard"
    better: ClassVar[Better | None] = "lower"
    needs_method: ClassVar[bool] = True
    meaning: ClassVar[str] = "how much the map changes under a shift that changes nothing in the model's answer"

    def __post_init__(self) -> None:
        require(self.shift != 0, self, "shift", "a number other than 0")
        require(self.tolerance > 0, self, "tolerance", "a positive share of the map's maximum")

    def maps(self) -> float:
        return 1.0

    def run(self, case: Case) -> Measured:
        with compensated(case.model, case.x, self.shift) as shifted:
            found = case.explain(model=shifted.module, x=case.x + self.shift)
        same = (found.score - case.attribution.score).abs().double()
        scale = case.attribution.score.abs().double().clamp(min=1e-3)
        values = relative_difference(case.attribution.values, found.values)
        values, reasons = nan_where(
            values, same > 1e-3 * scale, "the compensated model's score differs, so the comparison would mean nothing"
        )
        notes = (shifted.note, *found.cautions)
        return Measured(values, values <= self.tolerance, {"score change": same}, reasons, notes)


@dataclass(frozen=True)
class BiasShift(Check):
    r"""The brightness study: add `levels` (in the input's units) to every channel, keep the class, explain again.

    Value: the lowest rank correlation of the maps with the unshifted one. `detail` has for each level the rank
    correlation, the structural similarity, the score of the class and whether the model's first class is another. The
    model sees the numbers as they are, beyond 1 too; only a display would clip them. No right answer is known: the
    model itself may answer differently, which the detail shows beside the map.
    """

    levels: tuple[float, ...] = (0.1, 0.2, 0.4)
    kind: ClassVar[Kind] = "robustness"
    better: ClassVar[Better | None] = "higher"
    needs_method: ClassVar[bool] = True
    meaning: ClassVar[str] = "how alike the map stays when the picture gets brighter"

    def __post_init__(self) -> None:
        require(len(self.levels) > 0, self, "levels", "at least one level")

    def maps(self) -> float:
        return float(len(self.levels))

    def run(self, case: Case) -> Measured:
        own = case.attribution
        alike, structure, scores, flips = [], [], [], []
        for level in self.levels:
            found = case.explain(x=case.x + level)
            alike.append(rank_correlation(units_of(own.values), units_of(found.values)))
            if case.x.ndim == 4:
                structure.append(ssim(own.heatmap(), found.heatmap()))
            scores.append(found.score.double())
            if (changed := other_class(case, found)) is not None:
                flips.append(changed.double())
        by_level = torch.stack(alike, 1)
        detail = {"spearman": by_level, "score": torch.stack(scores, 1)}
        detail |= {"ssim": torch.stack(structure, 1)} if structure else {}
        detail |= {"flips": torch.stack(flips, 1)} if flips else {}
        lowest = by_level.amin(1)  # NaN where one is
        values, reasons = nan_where(lowest, lowest.isnan(), "a map is constant: it has no order to compare")
        return Measured(values, detail=detail, reasons=reasons)
