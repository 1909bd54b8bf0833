"""Whether a map points at what is known to matter: a mask, a box, or the right cell of a mosaic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import require
from ..base.similarity import ranks
from .base import Better, Check, Kind, Measured, NotApplicable, nan_where
from .case import Case
from .maps import units_of

EMPTY = "the mask is empty"


def masks_of_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes `(n, 4)`, or several `(n, k, 4)`, as left, top, right, bottom in pixels, to masks `(n, 1, H, W)`."""
    if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4:
        raise ValueError(f"boxes: shape {tuple(boxes.shape)}; use (n, 4) or (n, k, 4): left, top, right, bottom")
    several = boxes[:, None] if boxes.ndim == 2 else boxes
    y = torch.arange(size[0], device=boxes.device).view(1, 1, -1, 1) + 0.5
    x = torch.arange(size[1], device=boxes.device).view(1, 1, 1, -1) + 0.5
    left, top, right, bottom = (several[..., i, None, None] for i in range(4))
    return ((x > left) & (x < right) & (y > top) & (y < bottom)).any(1, keepdim=True)


def _inside(case: Case) -> Tensor:
    if case.mask is None:
        raise NotApplicable("no mask was given: pass mask= with the region that matters")
    return case.mask.flatten(1)


@dataclass(frozen=True)
class _Localisation(Check):
    kind: ClassVar[Kind] = "localisation"
    better: ClassVar[Better | None] = "higher"
    needs_mask: ClassVar[bool] = True


@dataclass(frozen=True)
class PointingGame(_Localisation):
    r"""Whether the map's maximum lies within `tolerance` of the mask. [zhang2018]

    `tolerance` is in pixels of a picture of 224, scaled to the picture's shorter side. Of several maxima the share
    inside counts, so a constant map scores the mask's share of the picture and not 100%.
    """

    tolerance: float = 15.0
    meaning: ClassVar[str] = "share of the map's highest points that hit the object"

    def __post_init__(self) -> None:
        require(self.tolerance >= 0, self, "tolerance", "0 or more pixels of 224")

    def run(self, case: Case) -> Measured:
        _inside(case)
        assert case.mask is not None
        mask = case.mask
        if mask.ndim != 4:
            raise NotApplicable("the pointing game is played on pictures")
        reach = self.tolerance * min(mask.shape[2:]) / 224
        units = units_of(case.attribution.values)
        top = units == units.amax(1, keepdim=True)
        hits = top & dilated(mask, reach).flatten(1)
        values, reasons = nan_where(hits.sum(1).double() / top.sum(1), ~mask.flatten(1).any(1), EMPTY)
        return Measured(values, reasons=reasons)


def dilated(mask: Tensor, reach: float) -> Tensor:
    """The mask `(n, 1, H, W)` and all pixels whose centre is at most `reach` pixels from one of it."""
    r = int(reach)
    if r == 0:
        return mask
    offset = torch.arange(-r, r + 1, device=mask.device)
    disc = (offset[:, None] ** 2 + offset[None] ** 2 <= reach**2).float()[None, None]
    return F.conv2d(mask.float(), disc, padding=r) > 0.5


def mass_inside(units: Tensor, inside: Tensor) -> Tensor:
    """The share `(n,)` of the positive values of `units` `(n, units)` that lie inside; NaN without any."""
    positive = units.double().clamp(min=0)
    return (positive * inside).sum(1) / positive.sum(1)


@dataclass(frozen=True)
class RelevanceMass(_Localisation):
    r"""The share of the positive relevance inside the mask: $\sum_{i \in M} A_i^+ / \sum_i A_i^+$. [arras2022]"""

    meaning: ClassVar[str] = "share of the map's positive weight on the object"

    def run(self, case: Case) -> Measured:
        inside = _inside(case)
        share = mass_inside(units_of(case.attribution.values), inside)
        empty = ~inside.any(1)
        values, reasons = nan_where(share, share.isnan() | empty, "the map has no positive value")
        reasons = tuple(EMPTY if none else reason for none, reason in zip(empty.tolist(), reasons, strict=True))
        return Measured(values, reasons=reasons)


@dataclass(frozen=True)
class RelevanceRank(_Localisation):
    r"""Of the |M| highest pixels, the share inside the mask M. [arras2022]

    Ties at the border of the |M| highest count by their share inside.
    """

    meaning: ClassVar[str] = "of as many top pixels as the object has, the share on it"

    def run(self, case: Case) -> Measured:
        overlap, size = _top_overlap(case)
        values, reasons = nan_where(overlap / size.clamp(min=1), size == 0, EMPTY)
        return Measured(values, reasons=reasons)


@dataclass(frozen=True)
class IoU(_Localisation):
    r"""Intersection over union of the |M| highest pixels and the mask M: $k / (2|M| - k)$ for k inside."""

    meaning: ClassVar[str] = "overlap of the top pixels and the object over their union"

    @classmethod
    def kebab(cls) -> str:
        return "iou"

    def run(self, case: Case) -> Measured:
        overlap, size = _top_overlap(case)
        values, reasons = nan_where(overlap / (2 * size - overlap).clamp(min=1), size == 0, EMPTY)
        return Measured(values, reasons=reasons)


def _top_overlap(case: Case) -> tuple[Tensor, Tensor]:
    """How many of the |M| highest pixels lie in M, ties at the limit by their share, and |M|; both `(n,)`."""
    inside = _inside(case)
    units = units_of(case.attribution.values)
    size = inside.sum(1)
    ranked = units.sort(dim=1, descending=True).values
    limit = ranked.gather(1, (size - 1).clamp(min=0)[:, None])
    above, tied = units > limit, units == limit
    room = (size - above.sum(1)).double()
    share = (tied & inside).sum(1) / tied.sum(1).clamp(min=1)
    return (above & inside).sum(1) + room * share, size


@dataclass(frozen=True)
class GridPointing(_Localisation):
    r"""On a mosaic, the share of positive relevance in the cell of the class explained; chance is 1/cells.

    The mask marks that cell; `limelight.studies.ground_truth.synthetic.mosaic` makes mosaics with their masks.
    [bohle2021]
    """

    meaning: ClassVar[str] = "share of the positive weight in the right cell of a mosaic"

    def run(self, case: Case) -> Measured:
        inside = _inside(case)
        share = RelevanceMass().run(case)
        chance = inside.double().mean(1)
        return Measured(share.values, detail={"chance": chance}, reasons=share.reasons)


@dataclass(frozen=True)
class MaskROC(_Localisation):
    r"""Area under the ROC curve of the map as a detector of the mask's pixels; ties count half."""

    meaning: ClassVar[str] = "chance that a pixel of the object ranks above one beside it"

    def run(self, case: Case) -> Measured:
        inside = _inside(case)
        units = units_of(case.attribution.values).double()
        places = ranks(units)
        positive = inside.sum(1).double()
        negative = inside.shape[1] - positive
        above = (places * inside).sum(1) - positive * (positive + 1) / 2
        one_sided = (positive == 0) | (negative == 0)
        area = above / (positive * negative).clamp(min=1)
        values, reasons = nan_where(area, one_sided, "the mask is empty or covers everything")
        return Measured(values, reasons=reasons)


__all__ = [
    "GridPointing",
    "IoU",
    "MaskROC",
    "PointingGame",
    "RelevanceMass",
    "RelevanceRank",
    "dilated",
    "masks_of_boxes",
]
