"""Localisation: whether a map points at the known region, given as a mask, a box or a cell of a mosaic."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import require
from ..base.similarity import ranks
from .base import Better, Check, Kind, Measured, NotApplicable
from .case import Case
from .maps import units_of

EMPTY = "the mask is empty"


def masks_of_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Convert boxes `(n, 4)` or `(n, k, 4)`, as left, top, right, bottom in pixels, to masks `(n, 1, H, W)`."""
    if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4:
        raise ValueError(f"boxes: shape {tuple(boxes.shape)}; use (n, 4) or (n, k, 4): left, top, right, bottom")
    several = boxes[:, None] if boxes.ndim == 2 else boxes
    y = torch.arange(size[0], device=boxes.device).view(1, 1, -1, 1) + 0.5
    x = torch.arange(size[1], device=boxes.device).view(1, 1, 1, -1) + 0.5
    left, top, right, bottom = (several[..., i, None, None] for i in range(4))
    return ((x > left) & (x < right) & (y > top) & (y < bottom)).any(1, keepdim=True)


@dataclass(frozen=True)
class _Localisation(Check):
    kind: ClassVar[Kind] = "localisation"
    better: ClassVar[Better | None] = "higher"

    def run(self, case: Case) -> Measured:
        if case.mask is None:
            raise NotApplicable("no mask was given: pass mask= with the region that matters")
        return self.compare(units_of(case.attribution.values), case.mask)

    @abstractmethod
    def compare(self, units: Tensor, mask: Tensor) -> Measured:
        """Compare a map `(n, units)` with the mask `(n, 1, *space)`, booleans."""


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

    def compare(self, units: Tensor, mask: Tensor) -> Measured:
        if mask.ndim != 4:
            raise NotApplicable("the pointing game is played on pictures")
        top = units == units.amax(1, keepdim=True)
        hits = top & _dilated(mask, self.tolerance * min(mask.shape[2:]) / 224).flatten(1)
        return Measured(hits.sum(1).double() / top.sum(1)).unknown_where(~mask.flatten(1).any(1), EMPTY)


def _dilated(mask: Tensor, reach: float) -> Tensor:
    """Return the mask `(n, 1, H, W)` with all pixels whose centre is at most `reach` pixels from one of its own."""
    r = int(reach)
    if r == 0:
        return mask
    offset = torch.arange(-r, r + 1, device=mask.device)
    disc = (offset[:, None] ** 2 + offset[None] ** 2 <= reach**2).float()[None, None]
    return F.conv2d(mask.float(), disc, padding=r) > 0.5


def mass_inside(units: Tensor, inside: Tensor) -> Tensor:
    """Compute the share `(n,)` of the positive values of `units` `(n, units)` that lie inside; NaN without any."""
    positive = units.double().clamp(min=0)
    return (positive * inside).sum(1) / positive.sum(1)


@dataclass(frozen=True)
class RelevanceMass(_Localisation):
    r"""The share of the positive relevance inside the mask: $\sum_{i \in M} A_i^+ / \sum_i A_i^+$. [arras2022]"""

    meaning: ClassVar[str] = "share of the map's positive weight on the object"

    def compare(self, units: Tensor, mask: Tensor) -> Measured:
        inside = mask.flatten(1)
        share = mass_inside(units, inside)
        found = Measured(share).unknown_where(share.isnan(), "the map has no positive value")
        return found.unknown_where(~inside.any(1), EMPTY)


@dataclass(frozen=True)
class GridPointing(_Localisation):
    r"""On a mosaic, the share of positive relevance in the cell of the explained class; chance is 1/cells.

    The mask marks that cell; `limelight.studies.ground_truth.synthetic.mosaic` makes mosaics with their masks.
    [bohle2021]
    """

    meaning: ClassVar[str] = "share of the positive weight in the right cell of a mosaic"

    def compare(self, units: Tensor, mask: Tensor) -> Measured:
        chance = mask.flatten(1).double().mean(1)
        return replace(RelevanceMass().compare(units, mask), detail={"chance": chance})


@dataclass(frozen=True)
class RelevanceRank(_Localisation):
    r"""Of the |M| highest pixels, the share inside the mask M. [arras2022]

    Ties at the border of the |M| highest count by their share inside.
    """

    meaning: ClassVar[str] = "of as many top pixels as the object has, the share on it"

    def compare(self, units: Tensor, mask: Tensor) -> Measured:
        overlap, size = _top_overlap(units, mask.flatten(1))
        return Measured(overlap / size.clamp(min=1)).unknown_where(size == 0, EMPTY)


@dataclass(frozen=True)
class IoU(_Localisation):
    r"""Intersection over union of the |M| highest pixels and the mask M: $k / (2|M| - k)$ for k inside."""

    meaning: ClassVar[str] = "overlap of the top pixels and the object over their union"

    @classmethod
    def kebab(cls) -> str:
        return "iou"

    def compare(self, units: Tensor, mask: Tensor) -> Measured:
        overlap, size = _top_overlap(units, mask.flatten(1))
        return Measured(overlap / (2 * size - overlap).clamp(min=1)).unknown_where(size == 0, EMPTY)


def _top_overlap(units: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Count the |M| highest pixels that lie in M, ties at the limit by their share, and |M|; both `(n,)`."""
    size = inside.sum(1)
    ranked = units.sort(dim=1, descending=True).values
    limit = ranked.gather(1, (size - 1).clamp(min=0)[:, None])
    above, tied = units > limit, units == limit
    room = (size - above.sum(1)).double()
    share = (tied & inside).sum(1) / tied.sum(1).clamp(min=1)
    return (above & inside).sum(1) + room * share, size


@dataclass(frozen=True)
class MaskROC(_Localisation):
    r"""Area under the ROC curve of the map as a detector of the mask's pixels; ties count half."""

    meaning: ClassVar[str] = "chance that a pixel of the object ranks above one beside it"

    def compare(self, units: Tensor, mask: Tensor) -> Measured:
        inside = mask.flatten(1)
        positive = inside.sum(1).double()
        negative = inside.shape[1] - positive
        above = (ranks(units.double()) * inside).sum(1) - positive * (positive + 1) / 2
        one_sided = (positive == 0) | (negative == 0)
        area = above / (positive * negative).clamp(min=1)
        return Measured(area).unknown_where(one_sided, "the mask is empty or covers everything")
