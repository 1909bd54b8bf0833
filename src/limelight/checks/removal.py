"""Faithfulness by removal: hide units in the order of the map and record the score.

Every check is a curve: an order of the units, an imputer for the hidden ones, and how many are hidden at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ..base.named import is_whole, require
from ..engine.score import Score
from ..question.baselines import Baseline
from ..question.players import Players
from .base import Better, Check, Kind, Measured, NotApplicable
from .case import Case, On
from .exhibits import Curve, Exhibit, exhibited, removal_of
from .imputers import Blurred, Fill, Hide, Imputer, Keeping, MeanColour, NoisyLinear, UniformNoise
from .maps import grid_labels, means_by_label, order_of, places_of, space_of, units_of

_ORDERS = {"morf": "most relevant first", "lerf": "least relevant first"}
Filling = float | Tensor | Baseline | Imputer


def as_imputer(filling: Filling) -> Imputer:
    """Return the imputer, or `Fill` of a number, tensor or Baseline."""
    return filling if isinstance(filling, Imputer) else Fill(filling)


def hiding(case: Case, filling: Filling) -> Hide:
    """Return the inputs of a case with hidden units filled; the special tokens of texts are never hidden."""
    hide = as_imputer(filling).hiding(case.x, case.rng.fork("imputer"))
    return hide if case.question.stays is None else Keeping(case.x, hide, case.question.stays)


def removal_curve(
    case: Case, score: Score, places: Tensor, counts: Sequence[int], imputer: Imputer, keep: bool = False
) -> Tensor:
    """Compute scores `(len(counts), n)` with the first `k` units of each order hidden, or with `keep` all but them."""
    hide, units = hiding(case, imputer), int(places.max()) + 1
    return case.scores((hide.first(places, k, units, keep) for k in counts), score)


def step_counts(units: int, row: int, steps: int | None) -> list[int]:
    """Count the hidden units after each step, from 0 to all: in `steps` equal steps, or `row` units at a time.

    There are no more steps than units: more would count some states of the curve more often than others.
    """
    if steps is None:
        return [*range(0, units, row), units]
    steps = min(steps, units)
    return [round(k * units / steps) for k in range(steps + 1)]


def area(curve: Tensor) -> Tensor:
    """Compute (sum - first/2 - last/2) / (n - 1) along the first axis."""
    curve = curve.double()
    return (curve.sum(0) - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1)


@dataclass(frozen=True)
class Faithfulness(Check):
    """Base of the checks that change the input and compare the score with one map, without gradients."""

    kind: ClassVar[Kind] = "faithfulness"
    better: ClassVar[Better | None] = "higher"


def _require_on(check: Deletion | Insertion | SRG | PixelFlipping | ROAD | IROF) -> None:
    require(check.on in ("probability", "score"), check, "on", "'probability' or 'score'")


def require_shares(check: Any) -> None:
    """Raise ValueError unless the check's `shares` of the pixels are between 0 and 1."""
    good = len(check.shares) > 0 and all(0 < share < 1 for share in check.shares)
    require(good, check, "shares", "shares between 0 and 1")


def _places(case: Case, sign: float = 1.0) -> Tensor:
    """Return the place `(n, units)` of each unit in the order of the map; with `sign` -1 the lowest are first."""
    return places_of(order_of(sign * units_of(case.attribution.values), case.rng))


@dataclass(frozen=True)
class Deletion(Faithfulness):
    r"""The area under the score while pixels are deleted, the most important first; lower is better. [petsiuk2018]

    All channels of a pixel go together, one row of pixels a step or `steps` equal steps, at most one for each pixel,
    replaced by `fill` (a number, a tensor, a Baseline or an Imputer). The curve is of the class's probability, or with
    `on="score"` of the score.
    """

    fill: Filling = 0.0
    steps: int | None = None
    on: On = "probability"
    better: ClassVar[Better | None] = "lower"
    meaning: ClassVar[str] = "how long the answer survives as its most important pixels go"

    def __post_init__(self) -> None:
        _require_curve(self)

    def run(self, case: Case) -> Measured:
        return _area_under_curve(self, case, as_imputer(self.fill))


@dataclass(frozen=True)
class Insertion(Faithfulness):
    r"""The area under the score while pixels are brought back, the most important first; higher is better.

    From `fill`: None is the picture blurred (11 pixels, sigma 5), or 0 where inputs are no pictures. [petsiuk2018]
    """

    fill: Filling | None = None
    steps: int | None = None
    on: On = "probability"
    meaning: ClassVar[str] = "how soon the answer returns as its most important pixels come back"

    def __post_init__(self) -> None:
        _require_curve(self)

    def run(self, case: Case) -> Measured:
        default = Blurred() if case.x.ndim > 3 else Fill(0.0)
        return _area_under_curve(self, case, default if self.fill is None else as_imputer(self.fill), keep=True)


def _require_curve(check: Deletion | Insertion) -> None:
    _require_on(check)
    require(check.steps is None or check.steps >= 1, check, "steps", "1 or more, or None for a row a step")


def _area_under_curve(check: Deletion | Insertion, case: Case, imputer: Imputer, keep: bool = False) -> Measured:
    score, notes = case.confidence(check.on)
    places, space = _places(case), space_of(case.x)
    counts = step_counts(places.shape[1], space[-1] if len(space) > 1 else 1, check.steps)
    curve = removal_curve(case, score, places, counts, imputer, keep)
    shown = exhibited(case, lambda: removal_of(case, curve, places, counts, imputer, keep))
    return Measured(area(curve), detail={"curve": curve.T}, notes=notes, exhibits=shown)


@dataclass(frozen=True)
class SRG(Faithfulness):
    r"""Symmetric relevance gain: the area while the least relevant go first minus while the most relevant do.

    The mean over imputers, by default mean colour, blur and noisy linear. A picture with removed pixels is unlike the
    training data, which alone can move the score; the difference cancels much of that. Higher is better. [blucher2024]
    """

    imputers: tuple[Imputer, ...] = (MeanColour(), Blurred(), NoisyLinear())
    steps: int = 32
    on: On = "probability"
    meaning: ClassVar[str] = "how much more the top pixels matter than the bottom ones"

    def __post_init__(self) -> None:
        _require_on(self)
        require(self.steps >= 1, self, "steps", "1 or more")
        require(len(self.imputers) > 0, self, "imputers", "at least one imputer")

    def run(self, case: Case) -> Measured:
        score, notes = case.confidence(self.on)
        imputers = self.imputers
        if case.x.ndim != 4:
            imputers = tuple(each for each in imputers if not isinstance(each, Blurred | NoisyLinear))
            if not imputers:
                raise NotApplicable(f"none of the imputers {self.imputers} works on inputs without a picture's axes")
            notes = (*notes, "inputs are no pictures: only imputers that need none were used")
        first, last = _places(case), _places(case, -1.0)
        counts = step_counts(first.shape[1], 1, self.steps)
        gains, detail, curves = [], {}, []
        for imputer in imputers:
            morf, lerf = (removal_curve(case, score, places, counts, imputer) for places in (first, last))
            curves.append((morf, lerf))
            gains.append(area(lerf) - area(morf))
            detail[type(imputer).__name__] = gains[-1]

        def both() -> list[Exhibit | Curve]:
            made = [
                removal_of(case, curve, places, counts, imputers[0], label=order, most=4)
                for curve, places, order in zip(curves[0], (first, last), _ORDERS.values(), strict=True)
            ]
            return [each for order in made for each in order]

        values = torch.stack(gains).mean(0)
        return Measured(values, detail=detail, notes=notes, exhibits=exhibited(case, both))


@dataclass(frozen=True)
class PixelFlipping(Faithfulness):
    r"""Area over the perturbation curve as regions are replaced, the most relevant first; higher is better.

    $$\mathrm{AOPC} = \frac{1}{L+1} \sum_{k=0}^{L} (f_0 - f_k)$$

    Regions are cells of `region` x `region` pixels ordered by the mean of the map; `steps` is L, at most all regions,
    None for all of them. `fill` None is uniform noise over the example's range. [bach2015] [samek2017]
    """

    region: int = 9
    steps: int | None = 100
    fill: Filling | None = None
    on: On = "score"
    meaning: ClassVar[str] = "how fast the score falls as the most relevant regions go"

    def __post_init__(self) -> None:
        _require_on(self)
        require(self.region >= 1, self, "region", "1 or more pixels")
        require(self.steps is None or self.steps >= 1, self, "steps", "1 or more, or None for all regions")

    def run(self, case: Case) -> Measured:
        score, notes = case.confidence(self.on)
        space = space_of(case.x)
        side = self.region if len(space) > 1 else 1
        labels = grid_labels(space, side, case.x.device).expand(len(case.x), -1)
        places, regions = _places_of_labels(case, labels)
        last = regions if self.steps is None else min(self.steps, regions)
        imputer = UniformNoise() if self.fill is None else as_imputer(self.fill)
        curve = removal_curve(case, score, places, range(last + 1), imputer).double()
        fallen = (curve[0] - curve).cumsum(0)
        upto = torch.arange(1, last + 2, device=curve.device, dtype=curve.dtype)[:, None]
        aopc = fallen / upto
        shown = exhibited(case, lambda: removal_of(case, curve, places, range(last + 1), imputer))
        return Measured(aopc[-1], detail={"curve": curve.T, "aopc": aopc.T}, notes=notes, exhibits=shown)


def _places_of_labels(case: Case, labels: Tensor) -> tuple[Tensor, int]:
    """Return the place `(n, units)` of each unit's region by the mean of the map, and the number of regions."""
    means = means_by_label(units_of(case.attribution.values).double(), labels)
    return places_of(order_of(means, case.rng)).gather(1, labels), means.shape[1]


@dataclass(frozen=True)
class ROAD(Faithfulness):
    r"""Remove and debias: hidden pixels are filled by a noisy linear interpolation, which leaks little of the mask.

    Value: the mean over `shares` of the confidence with the least relevant removed minus with the most relevant
    removed; `order` "morf" or "lerf" is one of the two alone. `detail` has the curves. Higher is better, lower for
    "morf". [rong2022]
    """

    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    order: Literal["both", "morf", "lerf"] = "both"
    noise: float = 0.01
    on: On = "probability"
    meaning: ClassVar[str] = "how much more the top pixels matter than the bottom ones, filled in smoothly"

    def __post_init__(self) -> None:
        _require_on(self)
        require(self.order in ("both", "morf", "lerf"), self, "order", "'both', 'morf' or 'lerf'")
        if self.order != "both":  # a single curve has its own direction and meaning
            means = {
                "morf": ("lower", "how long the answer survives as its top pixels go, filled in smoothly"),
                "lerf": ("higher", "how long the answer survives as its bottom pixels go, filled in smoothly"),
            }
            object.__setattr__(self, "better", means[self.order][0])
            object.__setattr__(self, "meaning", means[self.order][1])
        require_shares(self)

    def run(self, case: Case) -> Measured:
        if case.x.ndim != 4:
            raise NotApplicable("noisy linear imputation needs pictures (batch, channels, H, W)")
        score, notes = case.confidence(self.on)
        detail: dict[str, Tensor] = {}
        orders: list[tuple[str, Tensor]] = []
        for name, sign in (("morf", 1.0), ("lerf", -1.0)):
            if self.order in ("both", name):
                places = _places(case, sign)
                counts = [int(share * places.shape[1]) for share in self.shares]
                detail[name] = removal_curve(case, score, places, counts, NoisyLinear(self.noise)).T
                orders.append((name, places))
        means = {name: curve.double().mean(1) for name, curve in detail.items()}
        values = means["lerf"] - means["morf"] if self.order == "both" else means[self.order]

        def shown() -> list[Exhibit | Curve]:
            imputer = NoisyLinear(self.noise)
            made = [removal_of(case, detail[n].T, p, counts, imputer, label=_ORDERS[n], most=3) for n, p in orders]
            return [each for order in made for each in order]

        return Measured(values, detail=detail, notes=notes, exhibits=exhibited(case, shown))


@dataclass(frozen=True)
class IROF(Faithfulness):
    r"""Area over the curve of the relative score as whole segments go, the most relevant first; higher is better.

    $$\frac{1}{S} \sum_{k=1}^{S} \frac{f_0 - f_k}{\max(|f_0|,\ \max_j f_j - \min_j f_j)}$$

    In [-1, 1]. Where a score stays between 0 and $f_0$, as a probability whose evidence goes, this is the paper's
    $1 - f_k / f_0$, which is upside down for negative scores and has no bound near 0. An example whose score is 0 and
    stays so has no figure.

    `segments`: players such as `Slic(50)`, the paper's own; a label map `(H, W)` or `(n, H, W)`; or the side of square
    cells in pixels, None being a fourteenth of the shorter side. [rieger2020]
    """

    segments: int | Tensor | Players | None = None
    fill: Filling = field(default_factory=MeanColour)
    on: On = "probability"
    meaning: ClassVar[str] = "how fast the answer falls as the most relevant segments go"

    def __post_init__(self) -> None:
        _require_on(self)
        fits = self.segments is None or isinstance(self.segments, Players | Tensor) or is_whole(self.segments, 1)
        require(fits, self, "segments", "players such as Slic(50), a label map or a cell's side in pixels")

    def select(self, example: int, x: Tensor) -> Self:
        labels = self.segments
        if isinstance(labels, Tensor) and labels.shape == (len(x), *space_of(x)):
            return replace(super().select(example, x), segments=labels[example])
        return super().select(example, x)

    def run(self, case: Case) -> Measured:
        score, notes = case.confidence(self.on)
        labels = self._labels(case.x)
        places, regions = _places_of_labels(case, labels)
        curve = removal_curve(case, score, places, range(regions + 1), as_imputer(self.fill)).double()
        # The mean is over the example's own segments; other examples may have more.
        own = torch.tensor([len(each.unique()) for each in labels], device=curve.device)
        counted = torch.arange(regions, device=curve.device)[:, None] < own
        size = curve[0].abs().maximum(curve.amax(0) - curve.amin(0))
        values = (counted * (curve[0] - curve[1:]) / size).sum(0) / own
        imputer = as_imputer(self.fill)
        shown = exhibited(case, lambda: removal_of(case, curve, places, range(regions + 1), imputer))
        found = Measured(values, detail={"curve": curve.T}, notes=notes, exhibits=shown)
        return found.unknown_where(size == 0, "the score of the example is 0, whatever goes")

    def _labels(self, x: Tensor) -> Tensor:
        space = space_of(x)
        if isinstance(self.segments, Players):
            labels = self.segments.divide(x, torch.arange(len(x))).labels
            if labels[0].numel() != space.numel():
                raise ValueError(f"IROF.segments: {self.segments!r} divides channels; use players of whole pixels")
            return labels.flatten(1)
        if not isinstance(self.segments, Tensor):
            side = self.segments or max(1, min(space) // 14)
            return grid_labels(space, side if len(space) > 1 else 1, x.device).expand(len(x), -1)
        labels = self.segments.to(x.device).long()
        if bool((labels < 0).any()):
            raise ValueError(f"IROF.segments: label {int(labels.min())}; number segments from 0")
        if labels.shape not in (space, (len(x), *space)):
            raise ValueError(
                f"IROF.segments: shape {tuple(labels.shape)}; use a label map {tuple(space)} or {(len(x), *space)}"
            )
        return labels.expand(len(x), *space).flatten(1)
