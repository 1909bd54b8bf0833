"""What the settings of a request cost beside the model's passes, which alone are counted and stopped.

The work of a value is the numbers that it computes or holds between two chances to stop it, for one input. `KNOWN` has
the work of classes and the settings that it accounts for: those that it grows with, and those that cost model rows or
nothing. Any other number, such as a setting that was added since, is taken for the side of a square of inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from ..base.named import Named
from ..base.requirements import shown
from ..base.view import View
from ..methods import (
    RISE,
    SSCAM,
    XRAI,
    AtLayer,
    BlurIntegratedGradients,
    Conductance,
    ExpectedGradients,
    ExtremalPerturbation,
    FinerCAM,
    GaussLegendre,
    GuidedIntegratedGradients,
    IntegratedGradients,
    KernelShap,
    Lime,
    MeaningfulPerturbation,
    Occlusion,
    PartitionShap,
    ScoreCAM,
    ShapleyInteractions,
    TaylorDecomposition,
)
from ..methods.backward import LRP, DeepTaylor
from ..methods.coalitions import GameMethod
from ..methods.layer_path import LayerPath
from ..methods.quadrature import Quadrature
from ..methods.shapley import _Orders
from ..methods.windows import Circle
from ..methods.wrap import Smoothing
from ..question.baselines import Blur, Constant, Noise
from ..question.detectors import Box, Detection
from ..question.output_targets import Neuron, Region
from ..question.players import Felzenszwalb, Grid, Players, Slic
from ..question.sequence_baselines import Frequencies, Shuffle
from ..question.targets import ClassTarget, Margin
from ..question.text_targets import Continuation

MOST_WORK = 2.0**29
"""Numbers between two chances to stop: about a second, and at most some gigabytes."""

Work = Callable[[Any, torch.Size], float]


def work_of(value: Any, features: torch.Size) -> float:
    """Return the work of a value for an input of the shape `features`, without that of the values inside it."""
    work, accounted = _known(type(value))
    rest = (each for name, each in _numbers(value) if name not in accounted)
    return work(value, features) + sum(float(each) * float(each) for each in rest) * features.numel()


def over_budget(value: Any, features: torch.Size) -> str | None:
    """Say which setting of a value, or of a value inside it, makes more work than a page may ask for; None if none."""
    for _, each in _settings(value):
        if isinstance(each, Named) and (found := over_budget(each, features)):
            return found
    if not isinstance(value, Named) or work_of(value, features) <= MOST_WORK:
        return None
    too_much = f"makes {work_of(value, features):.0e} numbers at once, and a page may ask for {MOST_WORK:.0e}"
    numbers = sorted(_numbers_beside_defaults(value), key=lambda each: -_relief(value, each[0], each[2], features))
    if not numbers:
        return f"{value!r} {too_much}; use fewer players"
    name, given, default = numbers[0]
    return f"{value.kebab()}.{name}: {shown(given)} {too_much}; use {_nearest(value, name, given, default, features)}"


def _numbers_beside_defaults(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each setting that holds numbers, the setting and its default; 1 for numbers without one."""
    for each in dataclasses.fields(value):
        given = getattr(value, each.name)
        if any(name == each.name for name, _ in _numbers(value)):
            default = each.default if isinstance(each.default, int | float | tuple) else 1
            yield each.name, given, default


def _relief(value: Any, name: str, default: Any, features: torch.Size) -> float:
    """Return how much less work there is with the default of a setting."""
    return work_of(value, features) - _with(value, name, default, features)


def _with(value: Any, name: str, setting: Any, features: torch.Size) -> float:
    """Return the work with another setting; infinite if the class refuses it."""
    try:
        return work_of(dataclasses.replace(value, **{name: setting}), features)
    except ValueError:
        return math.inf


def _nearest(value: Any, name: str, given: Any, default: Any, features: torch.Size) -> str:
    """Return in words the setting nearest to what was given, on the way to the default, that a page may ask for."""
    numbers = isinstance(given, int | float) and isinstance(default, int | float)
    if not numbers or _with(value, name, default, features) > MOST_WORK:
        return f"smaller settings than {value!r}"
    fits, fails = float(default), float(given)
    whole = isinstance(given, int)
    while abs(fails - fits) > (1 if whole else abs(fits) / 100):
        middle = float(round((fits + fails) / 2)) if whole else (fits + fails) / 2
        if middle in (fits, fails):
            break
        setting = int(middle) if whole else middle
        fits, fails = (middle, fails) if _with(value, name, setting, features) <= MOST_WORK else (fits, middle)
    return f"{fits:g} or {'less' if given > default else 'more'}"


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a value with their names, and each entry of those that are several."""
    for each in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        found = getattr(value, each.name)
        for one in found if isinstance(found, tuple) else (found,):
            yield each.name, one


def _numbers(value: Any) -> Iterator[tuple[str, int | float]]:
    for name, each in _settings(value):
        if isinstance(each, int | float) and not isinstance(each, bool):
            yield name, each


def _known(kind: type) -> tuple[Work, frozenset[str]]:
    """Return the work that is known of a class, and the settings that it accounts for, also those of its bases."""
    bases = [each for each in kind.__mro__ if each in KNOWN]
    accounted = frozenset(name for each in bases for name in KNOWN[each][1].split())
    return (KNOWN[bases[0]][0] if bases else _one_input), accounted


def _one_input(value: Any, features: torch.Size) -> float:
    return float(features.numel())


def _generated(value: Any, features: torch.Size) -> float:
    """Return the work of a continuation of which 40 tokens may be asked for: each is a pass that is not counted."""
    return MOST_WORK / 40 * float(value.tokens)


def _blurred(sigma: float, features: torch.Size) -> float:
    """Return the work of a Gaussian blur: its kernel reaches four standard deviations to both sides, on each axis."""
    return (8.0 * sigma + 1) * features.numel() * len(features[1:])


def _quadrature(value: Quadrature, features: torch.Size) -> float:
    return float(value.n)


def _gauss_legendre(value: GaussLegendre, features: torch.Size) -> float:
    return 8.0 * value.n**2  # Newton's steps for all nodes


def _game(value: GameMethod, features: torch.Size) -> float:
    return features.numel() + 8.0 * _players(value, features) ** 2


def _players(value: GameMethod, features: torch.Size) -> float:
    """Return the number of players, or the most that a segmentation of the input may find."""
    count = value.count(features)
    if count is not None:
        return count
    pixels = features[1:].numel()
    players = value.players
    most = players.number if isinstance(players, Slic) else pixels / max(getattr(players, "min_size", 1), 1)
    return min(most, pixels)


def _kernel_shap(value: KernelShap, features: torch.Size) -> float:
    """Return the work of the covariances of all pairs, their factors, and 32 nodes for each pair and player."""
    pairs, players = value.samples / 2, _players(value, features)
    return _game(value, features) + pairs**3 / 40 + 6 * pairs**2 + 64 * pairs * players


def _lime(value: Lime, features: torch.Size) -> float:
    return _game(value, features) + value.samples * _players(value, features) ** 2 / 10


def _rise(value: RISE, features: torch.Size) -> float:
    """Return the work of the masks of a pass: about 32 grids, and what they are enlarged to."""
    cells = value.cells if isinstance(value.cells, int) else 1
    return 32.0 * math.prod(cells + 1 + size + size / cells for size in features[1:])


def _extremal(value: ExtremalPerturbation, features: torch.Size) -> float:
    """Return the work of the blurred levels for each area, and of the bumps around each point of the grid."""
    areas = len(value.areas)
    radius = float(math.ceil(value.sigma / value.step) + 1)
    points = math.prod(math.ceil((size - 1) / value.step) + 1 + 2 * radius for size in features[1:])
    bumps = 8.0 * (2 * radius + 1) * (2 * radius + 1) * points * areas
    return max(bumps, 2.0 * value.levels * features.numel() * areas, _blurred(value.blur, features))


def _blur_path(value: BlurIntegratedGradients, features: torch.Size) -> float:
    return _blurred(value.max_sigma, features)


def _xrai(value: XRAI, features: torch.Size) -> float:
    """Return the work of about 32 segments at each scale, dilated a row of the disk at a time."""
    pixels, reach = features[1:].numel(), min(value.dilation, max(features[1:], default=1))
    if isinstance(value.segments, Players):
        return float(pixels) * (value.segments.count(features) or pixels / 50)
    return 32.0 * pixels * len(value.scales) * (2 * reach + 1)


def _circle(value: Circle, features: torch.Size) -> float:
    return math.prod(float(value.diameter) for _ in features[1:]) * 8


def _slic(value: Slic, features: torch.Size) -> float:
    """Return the work of ten rounds over all pixels, each near four centres, after a blur."""
    return 100.0 * features.numel() + 100.0 * value.number + _blurred(value.sigma, features)


def _felzenszwalb(value: Felzenszwalb, features: torch.Size) -> float:
    """Return the work of sorting the edges, and of the many regions that a small `min_size` leaves."""
    pixels = features[1:].numel()
    return 50.0 * features.numel() + _blurred(value.sigma, features) + pixels**2 / max(value.min_size, 1)


def _noise(value: Noise, features: torch.Size) -> float:
    return float(value.samples) * features.numel()


def _shuffled(value: Shuffle, features: torch.Size) -> float:
    return float(value.samples) * features.numel()


def _blur(value: Blur, features: torch.Size) -> float:
    return _blurred(value.sigma, features)


KNOWN: Mapping[type, tuple[Work, str]] = {
    IntegratedGradients: (_one_input, "tolerance most_nodes"),
    ExpectedGradients: (_one_input, "samples noise"),
    BlurIntegratedGradients: (_blur_path, "steps max_sigma tolerance most_nodes"),
    GuidedIntegratedGradients: (_one_input, "steps fraction max_dist"),
    Conductance: (_one_input, "steps"),
    AtLayer: (_one_input, "layer"),
    LayerPath: (_one_input, "layer"),
    TaylorDecomposition: (_one_input, "most_evaluations"),
    Smoothing: (_one_input, "samples noise tolerance steadiness"),
    LRP: (_one_input, "low high"),
    DeepTaylor: (_one_input, "low high"),
    FinerCAM: (_one_input, "alpha classes"),
    ScoreCAM: (_one_input, "most_channels"),
    SSCAM: (_one_input, "samples sigma"),
    Occlusion: (_one_input, "window stride"),
    RISE: (_rise, "masks cells probability tolerance steadiness"),
    MeaningfulPerturbation: (_one_input, "steps size l1 variation beta learning_rate jitter"),
    ExtremalPerturbation: (_extremal, "areas steps step sigma levels blur learning_rate weight growth"),
    XRAI: (_xrai, "scales dilation least"),
    GameMethod: (_game, ""),
    _Orders: (_game, "permutations tolerance steadiness"),
    KernelShap: (_kernel_shap, "samples tolerance steadiness"),
    PartitionShap: (_game, "evaluations"),
    ShapleyInteractions: (_game, "rounds"),
    Lime: (_lime, "samples kernel_width alpha steadiness"),
    Quadrature: (_quadrature, "n"),
    GaussLegendre: (_gauss_legendre, "n"),
    Circle: (_circle, "diameter"),
    Grid: (_one_input, "cells"),
    Slic: (_slic, "number compactness sigma"),
    Felzenszwalb: (_felzenszwalb, "scale sigma min_size"),
    Constant: (_one_input, "value"),
    Noise: (_noise, "seed samples low high"),
    Blur: (_blur, "sigma"),
    Frequencies: (_one_input, "p axis"),
    Shuffle: (_shuffled, "samples axis k"),
    ClassTarget: (_one_input, "index"),
    Margin: (_one_input, "other"),
    Detection: (_one_input, "label"),
    Box: (_one_input, "label size"),
    Region: (_one_input, "label"),
    Neuron: (_one_input, "at index channel"),
    Continuation: (_generated, "tokens place"),
    View: (_one_input, "smooth blocks percentile bands"),
}
