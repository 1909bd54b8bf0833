"""A constant added to every channel of a picture, the maps before and after, and how much of them stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...base.attribution import Attribution
from ...base.similarity import rank_correlation
from ...checks.localisation import mass_inside
from ...checks.similarity import ssim, top_overlap
from ...evaluation.check import REFUSALS
from ...explain import explain
from ...methods import Method
from ...question.baselines import Baseline

TOP_SHARE = 0.05  # of the pixels: what a viewer takes for "the bright part"
_SHARING = 8  # methods to a call, which share its passes at the picture and at the baseline


@dataclass(frozen=True, eq=False)
class Hands:
    """Photographs `x` (n, 3, H, W) in [0, 1] of classes `y` (n,), and which pixels are hand `mask` (n, 1, H, W)."""

    x: Tensor
    y: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.x)


def hand_mask(x: Tensor) -> Tensor:
    """The pixels `(n, 1, H, W)` with more red than green: skin and sleeve, where the ground is green."""
    return x[:, :1] > x[:, 1:2]


@dataclass(frozen=True)
class Asked:
    """A method with the baseline that it compares with, under a name to show."""

    name: str
    method: Method
    baseline: Baseline


@dataclass(frozen=True)
class Shifted:
    """What a shift of `level` did to the maps of one method: means over the `n` pictures that kept their class.

    `spearman`, `ssim` and `top` (share of the brightest pixels that stay) compare each map with its unshifted self, 1 =
    the same. `missing` is |delta| / |f(x) - f(b)| of the unshifted maps, NaN where no sum is promised. `on_hand` and
    `on_hand_shifted` are the shares of the maps' positive relevance that lie on the hand.
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

    @property
    def drift(self) -> float:
        """How much of the relevance left the hand; negative where it came."""
        return self.on_hand - self.on_hand_shifted


Maps = dict[float, Attribution]  # by level, 0 first


def maps_of(model: nn.Module, hands: Hands, asked: Asked, levels: Sequence[float], *, seed: int = 0) -> Maps:
    """The maps at each level and at 0. The input itself is shifted and never clipped; the baseline stays, and so do the
    random numbers."""
    return _asked_together(model, hands, [asked.method], asked.baseline, levels, seed)[0]


def _asked_together(
    model: nn.Module, hands: Hands, methods: Sequence[Method], baseline: Baseline, levels: Sequence[float], seed: int
) -> list[Maps]:
    """The maps of each method, one call a level for all."""
    found: list[Maps] = [{} for _ in methods]
    for level in (0.0, *levels):
        x = hands.x + level
        panel = explain(model, x, list(methods), target=hands.y, baseline=baseline, seed=seed, draws_of=hands.x)
        for maps, attribution in zip(found, panel.values(), strict=True):
            maps[level] = attribution
    return found


def compared(name: str, maps: Mapping[float, Attribution], hands: Hands, kept: Mapping[float, Tensor]) -> list[Shifted]:
    """A line for each level above 0. `kept` says for each level which pictures the model still takes for the same.

    What the unshifted maps alone say is of these pictures too, or of all where none is left.
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
        there = same if bool(same.any()) else torch.ones_like(same)
        count = max(1, round(TOP_SHARE * before[0].numel()))
        lines.append(
            Shifted(
                name,
                level,
                int(same.sum()),
                _mean(rank_correlation(before, after), same),
                _mean(ssim(before, after), same),
                _mean(top_overlap(before.flatten(1), after.flatten(1), count), same),
                _mean(missing, there),
                _mean(mass_inside(before.flatten(1), on_hand), there),
                _mean(mass_inside(after.flatten(1), on_hand), same),
            )
        )
    return lines


def answers(model: nn.Module, hands: Hands, levels: Sequence[float]) -> dict[float, tuple[Tensor, Tensor]]:
    """At each level: which pictures `(n,)` the model still gives their class, and that class's probability `(n,)`."""
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
    """A line and the unshifted maps of each method, and the reasons of those that cannot explain this model."""
    lines: list[Shifted] = []
    maps: dict[str, Attribution] = {}
    refused: dict[str, str] = {}
    for start in range(0, len(methods), _SHARING):
        some = methods[start : start + _SHARING]
        if progress:
            progress(f"{some[0].kebab()} to {some[-1].kebab()}")
        for name, found in _together(model, hands, some, baseline, level, seed).items():
            if isinstance(found, str):
                refused[name] = found
                continue
            lines += compared(name, found, hands, kept)
            maps[name] = found[0.0]
    return lines, maps, refused


def _together(
    model: nn.Module, hands: Hands, methods: Sequence[Method], baseline: Baseline, level: float, seed: int
) -> dict[str, Maps | str]:
    """The maps of each method, or why it refused, which sends the others back to be asked by themselves."""
    names = [each.kebab() for each in methods]
    try:
        return dict(zip(names, _asked_together(model, hands, methods, baseline, (level,), seed), strict=True))
    except REFUSALS as error:
        if len(methods) == 1:
            return {names[0]: str(error)}
    apart = (_together(model, hands, [each], baseline, level, seed) for each in methods)
    return {name: maps for one in apart for name, maps in one.items()}
