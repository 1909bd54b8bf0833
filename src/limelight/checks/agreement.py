"""Faithfulness by agreement: whether sums over the map agree with changes of the score, over random changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..base.named import require
from ..methods import Method
from .base import Better, Measured
from .case import Case
from .imputers import Filled
from .maps import pearson, space_of, units_of
from .removal import Faithfulness, Filling, hiding
from .shared import Asked

STILL = "neither side varies over the subsets: a correlation is undefined"
UNCHANGED = "the perturbations leave this input as it is; give another fill, or patches in place of noise"


@dataclass(frozen=True)
class Infidelity(Faithfulness):
    r"""The expected squared difference between the change of the score that the map predicts and the actual one.

    $$\mathrm{E}_I\left[\left(I^\top A - (f(x) - f(x - I))\right)^2\right]$$

    `perturbation` "patches" hides squares of `patch` pixels (filled with `fill`), "gaussian" adds noise of `noise` of
    the input's range. With `slopes` the map holds slopes and predicts $\sum_i I_i A_i$; without, it holds shares of
    the score and predicts the sum of A over the hidden region. None is False for patches and True for Gaussian noise.
    `scaled` first multiplies the map by the best single factor of 0 or more, `detail["factor"]`; None does so for
    methods that promise no sum, whose maps are in no unit of the score, and takes a finished map as it is. A map of
    zeros has the figure `detail["zero map"]`, the mean square of the changes. An input that no sample changes has no
    figure. Lower is better. [yeh2019]
    """

    perturbation: Literal["patches", "gaussian"] = "patches"
    samples: int = 64
    patch: int | None = None
    noise: float = 0.1
    fill: Filling = 0.0
    slopes: bool | None = None
    scaled: bool | None = None
    better: ClassVar[Better | None] = "lower"
    meaning: ClassVar[str] = "how far the map's own prediction of a change is from what the score does"

    def __post_init__(self) -> None:
        require(self.perturbation in ("patches", "gaussian"), self, "perturbation", "'patches' or 'gaussian'")
        require(self.samples >= 1, self, "samples", "1 or more")
        require(self.patch is None or self.patch >= 1, self, "patch", "1 or more, or None for an eighth of the side")
        require(self.noise > 0, self, "noise", "a positive share of the input's range")

    def run(self, case: Case) -> Measured:
        x = case.x
        values = case.attribution.values.double()
        slopes = self.perturbation == "gaussian" if self.slopes is None else self.slopes
        predicted: list[Tensor] = []
        changed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        other = hiding(case, self.fill)(torch.ones_like(x, dtype=torch.bool), 0)
        patches = Filled(x, other)
        range_of = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, *[1] * (x.ndim - 1))

        def inputs() -> Iterator[Asked]:
            for sample in range(self.samples):
                if self.perturbation == "gaussian":
                    change = self.noise * range_of * case.rng.normal(f"change {sample}", x.shape[1:], x)
                    asked = Asked.drawn(("gaussian", self.noise, sample), x, partial(torch.sub, x, change))
                else:
                    hidden = self._patch(case, sample)
                    change = torch.where(hidden, x - other, torch.zeros_like(x))
                    asked = patches.asked(hidden.flatten(1), sample)
                changed.logical_or_((change != 0).flatten(1).any(1))
                if slopes:
                    weight = change
                elif self.perturbation == "patches":
                    weight = hidden.to(x.dtype)
                else:
                    weight = torch.where(x == other, torch.zeros_like(x), change / (x - other))
                weight = (
                    weight.expand_as(values) if weight.shape[1] <= values.shape[1] else weight.mean(1, keepdim=True)
                )
                predicted.append((weight.double() * values).flatten(1).sum(1))
                yield asked

        scores = case.scores(inputs()).double()
        fallen = case.attribution.score.double() - scores
        prediction = torch.stack(predicted)
        factor = torch.ones_like(prediction[0])
        notes: tuple[str, ...] = ()
        if self._scales(case):
            square = prediction.square().sum(0)
            best = ((prediction * fallen).sum(0) / square).clamp(min=0)  # a negative one would turn the map around
            factor = torch.where(square > 0, best, factor)
            notes = ("the map was first multiplied by the factor of 0 or more that fits best",)
        detail = {"factor": factor, "zero map": fallen.square().mean(0)}
        found = Measured((factor * prediction - fallen).square().mean(0), detail=detail, notes=notes)
        return found.unknown_where(~changed, UNCHANGED)

    def _scales(self, case: Case) -> bool:
        if self.scaled is not None:
            return self.scaled
        made_by = case.method or case.attribution.method  # a text for a finished map
        return isinstance(made_by, Method) and not case.attribution.complete

    def _patch(self, case: Case, sample: int) -> Tensor:
        """Mask a square of `patch` units at a random place, cut at the border: `(n, 1, *space)` or `(n, features)`."""
        x = case.x
        space = space_of(x)
        side = self.patch or max(1, min(space) // 8)
        at = case.rng.uniform(f"patch {sample}", (len(space),), x)
        hidden = torch.ones((len(x), *space), dtype=torch.bool, device=x.device)
        for axis, size in enumerate(space):
            start = (at[:, axis] * (size + side - 1)).long() - (side - 1)
            place = torch.arange(size, device=x.device)
            inside = (place >= start[:, None]) & (place < start[:, None] + side)
            hidden &= inside.view(len(x), *[size if a == axis else 1 for a in range(len(space))])
        return hidden[:, None] if x.ndim > 2 else hidden


@dataclass(frozen=True)
class FaithfulnessCorrelation(Faithfulness):
    r"""Correlation, over random subsets S of `size` units, of $\sum_{i \in S} A_i$ with $f(x) - f(x_{S \to b})$.

    For each example by itself. `size` None is an eighth of the units, at least one. Higher is better. [bhatt2020]
    """

    size: int | None = None
    samples: int = 64
    fill: Filling = 0.0
    meaning: ClassVar[str] = "whether regions with more relevance cost the score more when hidden"

    def __post_init__(self) -> None:
        require(self.samples >= 3, self, "samples", "3 or more")
        require(self.size is None or self.size >= 1, self, "size", "1 or more, or None for an eighth of the units")

    def run(self, case: Case) -> Measured:
        units = units_of(case.attribution.values)
        size = min(self.size or max(1, units.shape[1] // 8), units.shape[1])
        found = _subset_correlation(self, case, size, "subset")
        return Measured(found).unknown_where(found.isnan(), STILL)


@dataclass(frozen=True)
class SensitivityN(Faithfulness):
    r"""The correlation of FaithfulnessCorrelation, averaged over subset sizes; `detail` has it for each.

    `sizes` are shares of the units. Sizes where neither side varies are left out. [ancona2018]
    """

    sizes: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    samples: int = 24
    fill: Filling = 0.0
    meaning: ClassVar[str] = "whether regions of any size cost the score what the map gives them"

    def __post_init__(self) -> None:
        require(self.samples >= 3, self, "samples", "3 or more")
        require(all(0 < each < 1 for each in self.sizes) and len(self.sizes) > 0, self, "sizes", "shares within 0 to 1")

    def run(self, case: Case) -> Measured:
        count = units_of(case.attribution.values).shape[1]
        sizes = sorted({max(1, round(each * count)) for each in self.sizes})
        by_size = torch.stack([_subset_correlation(self, case, size, f"size {size}") for size in sizes], dim=1)
        mean = by_size.nanmean(1)
        return Measured(mean, detail={"by size": by_size}).unknown_where(mean.isnan(), STILL)


def _subset_correlation(check: FaithfulnessCorrelation | SensitivityN, case: Case, size: int, label: str) -> Tensor:
    """Compute Pearson's correlation `(n,)` over random subsets of `size` units that are hidden."""
    units = units_of(case.attribution.values).double()
    hide = hiding(case, check.fill)
    sums: list[Tensor] = []

    def inputs() -> Iterator[Asked]:
        for sample in range(check.samples):
            chosen = case.rng.permutation(f"{label} {sample}", units.shape[1])[:, :size].to(units.device)
            hidden = torch.zeros_like(units, dtype=torch.bool).scatter_(1, chosen, True)
            sums.append((units * hidden).sum(1))
            yield hide.asked(hidden, sample)

    fallen = case.attribution.score.double() - case.scores(inputs()).double()
    return pearson(torch.stack(sums), fallen, dim=0)
