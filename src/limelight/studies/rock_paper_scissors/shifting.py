"""A constant shift of every channel: the maps before and after it, their similarity, and the published observations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...base.attribution import Attribution
from ...base.similarity import rank_correlation
from ...checks.localisation import mass_inside
from ...checks.maps import ssim, top_overlap
from ...evaluation.check import REFUSALS
from ...explain import explain
from ...methods import Method
from ...question.baselines import Baseline

BLACK, WHITE, RANDOM = (f"integrated-gradients, {each}" for each in ("black", "white", "random"))
INPUT_X_GRADIENT, GRAD_CAM = "input-x-gradient", "grad-cam"
STUDIED = (INPUT_X_GRADIENT, BLACK, WHITE, RANDOM, GRAD_CAM)
DRIFT = 0.05  # of the relevance; a smaller change does not count as a drift
CLAIMS = (
    "Gradient x Input changes most of the maps compared",
    "Of the baselines of Integrated Gradients, black is the most sensitive to the shift",
    "Of the baselines of Integrated Gradients, white is the most stable",
    "Grad-CAM drifts from the hand to the background",
)
TOP_SHARE = 0.05  # of the pixels: the bright part of a map
RESAMPLES = 2000
_SHARING = 8  # methods in a call, which share the passes at the picture and at the baseline


@dataclass(frozen=True, eq=False)
class Hands:
    """Photographs `x` (n, 3, H, W) in [0, 1] of classes `y` (n,), and `mask` (n, 1, H, W), the pixels of the hand."""

    x: Tensor
    y: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.x)


def hand_mask(x: Tensor) -> Tensor:
    """Mark the pixels `(n, 1, H, W)` with more red than green: skin and sleeve, on a green background."""
    return x[:, :1] > x[:, 1:2]


@dataclass(frozen=True)
class Shifted:
    """The effect of a shift by `level` on the maps of one method: means over the `n` pictures that kept their class.

    `spearman`, `ssim` and `top` (share of the brightest pixels that stay) compare each map with the unshifted one, 1 =
    the same. `missing` is |delta| / |f(x) - f(b)| of the unshifted maps, NaN where the method promises no sum.
    `on_hand` and `on_hand_shifted` are the shares of the maps' positive relevance on the hand. `each` and `drifts` are
    `spearman` and `drift` of these pictures one by one, in the same order for every method.
    """

    name: str
    level: float
    n: int
    spearman: float
    ssim: float
    top: float
    missing: float
    on_hand: float
    on_hand_shifted: float
    each: tuple[float, ...] = ()
    drifts: tuple[float, ...] = ()

    @property
    def drift(self) -> float:
        """Share of the relevance that left the hand; negative where the share on the hand grew."""
        return self.on_hand - self.on_hand_shifted


Maps = dict[float, Attribution]  # by level, 0 first


def maps_of(
    model: nn.Module, hands: Hands, methods: Sequence[Method], baseline: Baseline, levels: Sequence[float], seed: int
) -> list[Maps]:
    """Compute the maps of each method at each level and at 0, with one call of `explain` for each level.

    The input is shifted and never clipped; the baseline and the random numbers stay the same.
    """
    found: list[Maps] = [{} for _ in methods]
    for level in (0.0, *levels):
        x = hands.x + level
        panel = explain(model, x, list(methods), target=hands.y, baseline=baseline, seed=seed, draws_of=hands.x)
        for maps, attribution in zip(found, panel.values(), strict=True):
            maps[level] = attribution
    return found


def compared(name: str, maps: Mapping[float, Attribution], hands: Hands, kept: Mapping[float, Tensor]) -> list[Shifted]:
    """Compare the maps at each level above 0 with the unshifted maps: a line for each level.

    `kept` is, for each level, the pictures `(n,)` that kept their class. Figures of the unshifted maps alone are means
    over these pictures too, or over all where no picture kept its class.
    """
    own = maps[0.0]
    before = own.heatmap()
    rise = (own.score - own.baseline_score).abs().double()
    missing = own.delta.abs().double() / rise
    on_hand = hands.mask.flatten(1)
    lines = []
    for level, shifted in maps.items():
        if not level:
            continue
        same, after = kept[level], shifted.heatmap()
        same_or_all = same if bool(same.any()) else torch.ones_like(same)
        count = max(1, round(TOP_SHARE * before[0].numel()))
        alike = rank_correlation(before, after)
        inside, inside_shifted = (mass_inside(each.flatten(1), on_hand) for each in (before, after))
        lines.append(
            Shifted(
                name,
                level,
                int(same.sum()),
                _mean(alike, same),
                _mean(ssim(before, after), same),
                _mean(top_overlap(before.flatten(1), after.flatten(1), count), same),
                _mean(missing, same_or_all),
                _mean(inside, same_or_all),
                _mean(inside_shifted, same),
                tuple(alike[same].double().tolist()),
                tuple((inside - inside_shifted)[same].double().tolist()),
            )
        )
    return lines


def answers(model: nn.Module, hands: Hands, levels: Sequence[float]) -> dict[float, tuple[Tensor, Tensor]]:
    """Return for each level which pictures `(n,)` keep their class, and the probability `(n,)` of that class."""
    found = {}
    with torch.no_grad():
        for level in levels:
            outputs = model(hands.x + level)
            found[level] = outputs.argmax(1) == hands.y, outputs.softmax(1).gather(1, hands.y[:, None])[:, 0]
    return found


def _mean(values: Tensor, rows: Tensor) -> float:
    chosen = values[rows]
    known = chosen[~chosen.isnan()]
    return float(known.double().mean()) if len(known) else math.nan


def every_method(
    model: nn.Module,
    hands: Hands,
    methods: Sequence[Method],
    baseline: Baseline,
    level: float,
    kept: Mapping[float, Tensor],
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[list[Shifted], dict[str, Attribution], dict[str, str]]:
    """Return a line for each method, the unshifted maps by name, and the reasons of methods that refuse the model."""
    lines: list[Shifted] = []
    maps: dict[str, Attribution] = {}
    refused: dict[str, str] = {}
    for start in range(0, len(methods), _SHARING):
        some = methods[start : start + _SHARING]
        if progress:
            progress(f"{some[0].kebab()} to {some[-1].kebab()}")
        for name, found in _maps_or_reasons(model, hands, some, baseline, level, seed).items():
            if isinstance(found, str):
                refused[name] = found
            else:
                lines += compared(name, found, hands, kept)
                maps[name] = found[0.0]
    return lines, maps, refused


def _maps_or_reasons(
    model: nn.Module, hands: Hands, methods: Sequence[Method], baseline: Baseline, level: float, seed: int
) -> dict[str, Maps | str]:
    """Compute the maps of each method, or the reason why it refuses; after a refusal each method runs alone."""
    names = [each.kebab() for each in methods]
    try:
        return dict(zip(names, maps_of(model, hands, methods, baseline, (level,), seed), strict=True))
    except REFUSALS as error:
        if len(methods) == 1:
            return {names[0]: str(error)}
    singles = (_maps_or_reasons(model, hands, [each], baseline, level, seed) for each in methods)
    return {name: maps for single in singles for name, maps in single.items()}


@dataclass(frozen=True)
class Observation:
    """A published claim at one shift, and the figures that decide it.

    `margin` is by how much the claim is true, a mean over `n` pictures, with the bootstrap's 95% interval from `low` to
    `high`. It `holds` where the whole interval is above 0, does not where all of it is below, and else, or without a
    figure, that is None.
    """

    claim: str
    level: float
    n: int
    margin: float
    low: float
    high: float
    figures: str

    @property
    def holds(self) -> bool | None:
        return True if self.low > 0 else False if self.high < 0 else None

    @property
    def verdict(self) -> str:
        return {True: "holds", False: "does not hold", None: "cannot be said"}[self.holds]


def observe(lines: Sequence[Shifted], seed: int = 0) -> list[Observation]:
    """Check the published observations at each shift where any picture kept its class, the smallest first.

    `lines` holds the figures of STUDIED at each level.
    """
    return [
        seen for level in sorted({line.level for line in lines if line.n}) for seen in _observed(lines, level, seed)
    ]


def _observed(lines: Sequence[Shifted], level: float, seed: int) -> list[Observation]:
    at = {line.name: line for line in lines if line.level == level}
    n = at[BLACK].n
    alike = {name: torch.tensor(at[name].each, dtype=torch.float64) for name in STUDIED}
    paths = {name: alike[name] for name in (BLACK, WHITE, RANDOM)}
    of_all, of_paths = (
        "rank correlation with the unshifted map: "
        + ", ".join(f"{k} {float(v.nanmean()):.3f}" for k, v in each.items())
        for each in (alike, paths)
    )
    cam = at[GRAD_CAM]
    drifts = torch.tensor(cam.drifts, dtype=torch.float64)
    on_hand = f"Grad-CAM's relevance on the hand: {cam.on_hand:.1%} before, {cam.on_hand_shifted:.1%} after"
    found = (
        (_below(INPUT_X_GRADIENT, alike), of_all),
        (_below(BLACK, paths), of_paths),
        (_below(WHITE, {name: -each for name, each in paths.items()}), of_paths),
        (lambda rows: drifts[rows].nanmean(-1) - DRIFT, f"{on_hand}; a drift is more than {DRIFT:.0%}"),
    )
    return [
        Observation(claim, level, n, *_with_interval(margin, n, seed), figures)
        for claim, (margin, figures) in zip(CLAIMS, found, strict=True)
    ]


def _below(name: str, of: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the margin by which the mean of one lies below the least of the others, over pictures `(..., n)`."""

    def margin(rows: Tensor) -> Tensor:
        means = {each: values[rows].nanmean(-1) for each, values in of.items()}
        return torch.stack([value for each, value in means.items() if each != name]).amin(0) - means[name]

    return margin


def _with_interval(margin: Callable[[Tensor], Tensor], n: int, seed: int) -> tuple[float, float, float]:
    """Return a margin over n pictures and its interval: pictures are drawn anew, the same ones for every method."""
    own = float(margin(torch.arange(n)))
    if n < 2:
        return own, math.nan, math.nan
    found = margin(torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(seed)))
    low, high = found.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return own, low, high
