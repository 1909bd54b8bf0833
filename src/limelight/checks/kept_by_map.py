"""Faithfulness by keeping: the score of the picture with each pixel kept by the share that the map gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import require
from .base import Better, Measured
from .case import Case, On
from .maps import CONSTANT, over_units, pearson, units_of
from .removal import Faithfulness, Filling, as_imputer

NOT_POSITIVE = "the score is not positive: a share of it means nothing"


def shares(values: Tensor) -> Tensor:
    """Stretch each map `(n, *features)`, summed over channels, to [0, 1], `(n, units)`; a constant one is NaN."""
    units = units_of(values).double()
    low, high = units.amin(1, keepdim=True), units.amax(1, keepdim=True)
    return (units - low) / (high - low)


def kept(case: Case, fill: Filling) -> Tensor:
    """Blend each input with its filling, so that a unit of share 1 stays as it is and one of share 0 is filled."""
    x = case.x
    hide = as_imputer(fill).prepare(x, case.rng.fork("imputer"))
    filling = hide(torch.ones_like(x, dtype=torch.bool), 0)
    share = over_units(shares(case.attribution.values).nan_to_num(1.0), x).to(x)
    return torch.lerp(filling, x, share)


@dataclass(frozen=True)
class _Kept(Faithfulness):
    fill: Filling = 0.0
    on: On = "probability"

    def __post_init__(self) -> None:
        require(self.on in ("probability", "score"), self, "on", "'probability' or 'score'")

    def scores(self, case: Case) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Return the scores `(n,)` of the inputs and of what their maps keep, and notes."""
        score, notes = case.confidence(self.on)
        before, after = score.stream_values(iter([case.x, kept(case, self.fill)])).double()
        return before, after, notes


def _drop(measured: Measured, before: Tensor, case: Case) -> Measured:
    constant = shares(case.attribution.values).isnan().any(1)
    return measured.unknown_where(before <= 0, NOT_POSITIVE).unknown_where(constant, CONSTANT)


@dataclass(frozen=True)
class AverageDrop(_Kept):
    r"""The share of the score that is lost where each pixel is kept by the map's share; lower is better.

    $$\frac{\max(0,\ f(x) - f(\tilde x))}{f(x)}, \quad \tilde x = b + m \odot (x - b)$$

    $m$ is the map, summed over channels and stretched to [0, 1] for each example; $b$ is `fill`. The mean over examples
    is the paper's average drop. The score is the class's probability, or with `on="score"` the score itself. A constant
    map and a score that is not positive have no figure. A map that keeps everything loses nothing: read it beside
    `Gini`, or take `ADCC`. [chattopadhay2018]
    """

    better: ClassVar[Better | None] = "lower"
    meaning: ClassVar[str] = "share of the answer lost when only what the map marks is kept"

    def run(self, case: Case) -> Measured:
        before, after, notes = self.scores(case)
        lost = (before - after).clamp(min=0) / before
        return _drop(Measured(lost, detail={"kept": after}, notes=notes), before, case)


@dataclass(frozen=True)
class IncreaseInConfidence(_Kept):
    r"""Whether the score rises where each pixel is kept by the map's share, 1 or 0; higher is better.

    $[f(x) < f(\tilde x)]$ with the $\tilde x$ of `AverageDrop`; the mean over examples is the paper's share. A constant
    map has no figure. [chattopadhay2018]
    """

    meaning: ClassVar[str] = "how often the answer grows surer when only what the map marks is kept"

    def run(self, case: Case) -> Measured:
        before, after, notes = self.scores(case)
        measured = Measured((after > before).double(), detail={"kept": after}, notes=notes)
        return measured.unknown_where(shares(case.attribution.values).isnan().any(1), CONSTANT)


@dataclass(frozen=True)
class ADCC(_Kept):
    r"""The harmonic mean of what is kept of the score, of coherency and of simplicity, in [0, 1]; higher is better.

    $$3 \left(\frac{1}{1 - d} + \frac{1}{c} + \frac{1}{1 - s}\right)^{-1}$$

    $d$ is `AverageDrop`; the coherency $c$ is $(1 + \rho)/2$ for Pearson's correlation $\rho$ of the map with that of
    the picture which it keeps; the complexity $s$ is the mean of the map stretched to [0, 1]. `detail` has the three.
    Costs another map. A constant map, before or after, and a score that is not positive have no figure. [poppi2021]
    """

    meaning: ClassVar[str] = "whether a small, stable part of the picture carries the answer"

    def maps(self) -> float:
        return 1.0

    def run(self, case: Case) -> Measured:
        before, after, notes = self.scores(case)
        drop = (before - after).clamp(min=0) / before
        again = case.explain(x=kept(case, self.fill))
        own = shares(case.attribution.values)
        coherency = (1 + pearson(own, shares(again.values))) / 2
        complexity = own.mean(1)
        parts = torch.stack([1 - drop, coherency, 1 - complexity])
        values = 3 / (1 / parts).sum(0)  # 0 where a part is 0
        detail = {"average drop": drop, "coherency": coherency, "complexity": complexity}
        measured = _drop(Measured(values, detail=detail, notes=notes), before, case)
        flat = measured.values.isnan() & torch.tensor([not each for each in measured.reasons], device=values.device)
        return measured.unknown_where(flat, f"of what the map keeps, {CONSTANT}")
