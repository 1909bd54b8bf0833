"""How concentrated a map is. It says nothing about being right; a map of one pixel is the most concentrated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Check, Kind, Measured
from .case import Case
from .maps import units_of

ZERO = "the map is zero everywhere"


def _shares(case: Case) -> tuple[Tensor, Tensor]:
    """Return |A| as shares `(n, units)` of its sum, and whether that is 0 `(n,)`."""
    units = units_of(case.attribution.values).double().abs()
    total = units.sum(1, keepdim=True)
    return units / total.clamp(min=torch.finfo(torch.float64).tiny), total[:, 0] == 0


@dataclass(frozen=True)
class Gini(Check):
    r"""The Gini index of |A| over pixels, 0 for a constant map, $1 - 1/n$ for one pixel. [chalasani2020]

    $$G = \sum_{i=1}^n \frac{(2 i - n - 1)\,|A|_{(i)}}{n \sum_j |A|_j}$$
    """

    kind: ClassVar[Kind] = "complexity"
    meaning: ClassVar[str] = "how few pixels hold the map together: 0 all alike, 1 a single one"

    def run(self, case: Case) -> Measured:
        shares, empty = _shares(case)
        n = shares.shape[1]
        weight = 2 * torch.arange(1, n + 1, device=shares.device, dtype=shares.dtype) - n - 1
        return Measured((shares.sort(dim=1).values * weight).sum(1) / n).unknown_where(empty, ZERO)


@dataclass(frozen=True)
class Entropy(Check):
    r"""The entropy of |A| as a distribution over pixels, in nats: $-\sum_i p_i \log p_i$. [bhatt2020]"""

    kind: ClassVar[Kind] = "complexity"
    meaning: ClassVar[str] = "how spread the map is: 0 a single pixel, log(pixels) all alike"

    def run(self, case: Case) -> Measured:
        shares, empty = _shares(case)
        return Measured(torch.special.entr(shares).sum(1)).unknown_where(empty, ZERO)
