"""Faithfulness by keeping: the score of the picture with each pixel kept by the share that the map gives it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import require
from .base import Better, Measured
from .case import Case, On
from .maps import CONSTANT, over_units, pearson, units_of
from .removal import ROAD, Faithfulness, Filling, hiding, require_shares
from .shared import Asked, contents

NOT_POSITIVE = "the score is not positive: a share of it means nothing"


def shares(values: Tensor) -> Tensor:
    """Stretch each map `(n, *features)`, summed over channels, to [0, 1], `(n, units)`; a constant one is NaN."""
    units = units_of(values).double()
    low, high = units.amin(1, keepdim=True), units.amax(1, keepdim=True)
    return (units - low) / (high - low)


def kept(case: Case, fill: Filling) -> Asked:
    """Blend each input with its filling, so that a unit of share 1 stays as it is and one of share 0 is filled."""
    x = case.x
    filling = hiding(case, fill)(torch.ones_like(x, dtype=torch.bool), 0)
    share = over_units(shares(case.attribution.values).nan_to_num(1.0), x).to(x)
    keys = zip(("kept",) * len(x), contents(filling), contents(share), strict=True)
    return Asked(tuple(keys), lambda: torch.lerp(filling, x, share))


@dataclass(frozen=True)
class _Kept(Faithfulness):
    fill: Filling = 0.0
    on: On = "probability"

    def __post_init__(self) -> None:
        require(self.on in ("probability", "score"), self, "on", "'probability' or 'score'")

    def scores(self, case: Case) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Return the scores `(n,)` of the inputs and of what their maps keep, and notes."""
        score, notes = case.confidence(self.on)
        before, after = case.scores((Asked.itself(case.x), kept(case, self.fill)), score).double()
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

    $d$ is `AverageDrop`, 1 where more than the score is lost; the coherency $c$ is $(1 + \rho)/2$ for Pearson's
    correlation $\rho$ of the map with that of the picture which it keeps; the complexity $s$ is the mean of the map
    stretched to [0, 1]. `detail` has the three. Costs another map. A constant map, before or after, and a score that is
    not positive have no figure. [poppi2021]
    """

    meaning: ClassVar[str] = "whether a small, stable part of the picture carries the answer"

    def maps(self) -> float:
        return 1.0

    def run(self, case: Case) -> Measured:
        before, after, notes = self.scores(case)
        drop = (before - after).clamp(min=0) / before
        found = _with_coherency(self, case, 1 - drop)
        found = replace(found, detail={"average drop": drop, **found.detail}, notes=notes)
        return _drop(found, before, case)


@dataclass(frozen=True)
class ARCC(_Kept):
    r"""The harmonic mean of what ROAD finds, of coherency and of simplicity, in [0, 1]; higher is better.

    $$3 \left(\frac{1}{r} + \frac{1}{c} + \frac{1}{1 - s}\right)^{-1}$$

    $r$ is `ROAD`, the confidence with the least relevant removed minus with the most relevant removed, the mean over
    `shares` clipped to [0, 1]; the coherency $c$ and the complexity $s$ are those of `ADCC`. `detail` has the three. A
    map that ranks pixels no better than its negative has 0, however small and stable it is. Costs another map. A
    constant map, before or after, has no figure. [domeniconi2026]

        limelight.check(net, x, "grad-cam", limelight.ARCC(shares=(0.2, 0.4)), target=0)[0].detail
    """

    shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    meaning: ClassVar[str] = "whether a small, stable part of the picture carries the answer, its pixels in that order"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self)

    def maps(self) -> float:
        return 1.0

    def run(self, case: Case) -> Measured:
        road = ROAD(self.shares, on=self.on).run(case)
        found = _with_coherency(self, case, road.values)
        found = replace(found, detail={"road": road.values, **found.detail}, notes=road.notes)
        return found.unknown_where(shares(case.attribution.values).isnan().any(1), CONSTANT)


def _with_coherency(check: ADCC | ARCC, case: Case, faithful: Tensor) -> Measured:
    """Return the harmonic mean of a figure `(n,)`, clipped to [0, 1], with coherency and simplicity.

    It is 0 where one of the three is 0; of a negative number there is no such mean.
    """
    again = case.explain(x=kept(case, check.fill).make())
    own = shares(case.attribution.values)
    coherency = (1 + pearson(own, shares(again.values))) / 2
    complexity = own.mean(1)
    parts = torch.stack([faithful.clamp(0, 1), coherency, 1 - complexity])
    found = Measured(3 / (1 / parts).sum(0), detail={"coherency": coherency, "complexity": complexity})
    return found.unknown_where(found.values.isnan(), f"of what the map keeps, {CONSTANT}")
