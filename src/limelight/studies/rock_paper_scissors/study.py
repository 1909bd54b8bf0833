"""The whole study: train, explain held-out hands, brighten them, compare the maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...checks import QUICK, BiasShift, Check
from ...evaluation.budget import price, quick_checks
from ...evaluation.compare_baselines import DEFAULT_BASELINES, BaselineStudy, compare_baselines, labelled_baselines
from ...evaluation.findings import Findings
from ...methods import GradCAM, InputXGradient, IntegratedGradients, Method
from ...methods.backward import estimate_patterns
from ...methods.quadrature import GaussLegendre
from ...models.catalogue import HANDS, HANDS_PREPROCESSING, ImageModel
from ...models.rock_paper_scissors import CLASSES
from ...question.baselines import Baseline, Black, Mean, Minimum, Noise, White
from ..ground_truth.each import one_of_each
from .data import Part, read_parts
from .shifting import (
    BLACK,
    GRAD_CAM,
    INPUT_X_GRADIENT,
    RANDOM,
    WHITE,
    Hands,
    Maps,
    Observation,
    Shifted,
    answers,
    compared,
    every_method,
    hand_mask,
    maps_of,
    observe,
)
from .training import Epoch, Progress, Trained, confusion, predict, train

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4)
PICTURES = 60
TESTS: tuple[Check, ...] = tuple(check for check in QUICK if not isinstance(check, BiasShift))
"""The quick checks of every method, without the shift of brightness, which is the study itself."""
ENOUGH_TO_TEST = 16  # rows for each map; with fewer, maps are mostly noise, and their quick checks may cost
PART_TESTED = 0.25  # of the maps' rows
_SAMPLE = 256  # training photographs, evenly over the classes, for the mean baseline
_FOR_PATTERNS = 32  # of the sample, or fewer for few rows: each has 22,500 positions to learn a direction from


@dataclass(frozen=True, eq=False)
class Accuracy:
    """The model's accuracy on a part: counts `(3, 3)`, row = true class, column = predicted class."""

    part: str
    counts: Tensor

    @property
    def share(self) -> float:
        return float(self.counts.diagonal().sum()) / float(self.counts.sum())


@dataclass(frozen=True, eq=False)
class Study:
    """The results of the study; `page.py` writes them to files.

    `maps`: the published study's maps of `hands`, by name and level. `kept`: which hands kept their class, by level;
    `confidence`: the probability of that class, by level, 0 included. `lines`, `observations`: the figures of these
    maps. `every`: a line for each method at the largest level, over the first `explained` hands; `tests`: its quick
    checks; `refused`: the reasons of methods that could not explain the model; `seconds`: all after the training.
    """

    model: ImageModel
    trained: Trained
    accuracies: tuple[Accuracy, ...]
    hands: Hands
    files: tuple[Path, ...]
    levels: tuple[float, ...]
    rows: int
    seed: int
    kept: dict[float, Tensor]
    confidence: dict[float, Tensor]
    maps: dict[str, Maps]
    lines: list[Shifted]
    observations: list[Observation]
    baselines: BaselineStudy
    explained: int
    every: list[Shifted]
    tests: dict[str, Findings]
    refused: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Listeners:
    """Callables for the progress: after each batch and epoch of training, and at the start of each stage."""

    batch: Progress | None = None
    epoch: Callable[[Epoch], None] | None = None
    stage: Callable[[str], None] = lambda _: None


def run_study(
    data: str | Path,
    out: Path,
    *,
    model: str = "published",
    epochs: int | None = None,
    levels: Sequence[float] = LEVELS,
    pictures: int | None = None,
    rows: int | None = None,
    seed: int = 0,
    listeners: Listeners = Listeners(),
) -> Study:
    """Train `model` on the photographs below `data`, or resume the training in `out`/MODEL, and study its maps.

    `pictures`: hands of the test part to explain; None is 60, or all where there are fewer. `rows`: model rows for each
    picture, for methods with a choice; None is an eighth of the test part, 4 to 32.

    Raises DataError for unusable data, ValueError for wrong options.
    """
    if not levels or not all(level > 0 for level in levels):
        raise ValueError(f"levels: {tuple(levels)}; use shifts above 0, in shares of full brightness")
    listeners.stage("reading the photographs")
    parts = read_parts(data)
    test = parts["test"]
    pictures = min(pictures or PICTURES, len(test))
    rows = rows or min(32, max(4, len(test) // 8))
    trained = train(
        model,
        parts["training"],
        parts["validation"],
        out / model,
        epochs=epochs,
        seed=seed,
        progress=listeners.batch,
        on_epoch=listeners.epoch,
    )
    started = time.monotonic()
    listeners.stage("accuracy")
    predicted = {name: predict(trained.network, part) for name, part in parts.items()}
    accuracies = tuple(Accuracy(name, confusion(predicted[name], part.y)) for name, part in parts.items())
    # A tenth faster forward and backward, while training is slower with it. The stub of `to` lacks the argument.
    explainable = trained.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = ImageModel(explainable, HANDS_PREPROCESSING, CLASSES, f"{HANDS} ({model})").eval()
    chosen = _chosen(test, predicted["test"], pictures)
    x = test.pixels(chosen)
    hands = Hands(x, predicted["test"][chosen], hand_mask(x))
    listeners.stage("the published study's maps")
    answered = answers(network, hands, (0.0, *levels))
    kept = {level: answered[level][0] for level in levels}
    maps = {
        name: maps_of(network, hands, [method], baseline, levels, seed)[0]
        for name, (method, baseline) in _studied(rows).items()
    }
    lines = [line for name, found in maps.items() for line in compared(name, found, hands, kept)]
    listeners.stage("baselines")
    sample = parts["training"].pixels(slice(None, None, max(1, len(parts["training"]) // _SAMPLE)))
    compared_baselines = labelled_baselines([*DEFAULT_BASELINES, Minimum(), Mean(sample)])
    path = IntegratedGradients(GaussLegendre(rows))
    baselines = compare_baselines(network, x, path, compared_baselines, target=hands.y, seed=seed)
    # This stage costs most, so it has fewer hands: at most one for each class.
    explained = min(pictures, len(CLASSES))
    few = Hands(hands.x[:explained], hands.y[:explained], hands.mask[:explained])
    for_patterns = min(_FOR_PATTERNS, rows)
    patterns = estimate_patterns(network, sample[:: max(1, len(sample) // for_patterns)].split(16))
    every, every_map, refused = every_method(
        network,
        few,
        one_of_each(patterns, x.shape[-1], rows),
        Black(),
        max(levels),
        {level: same[:explained] for level, same in kept.items()},
        seed=seed,
        progress=lambda names: listeners.stage(f"every method: {names}"),
    )
    listeners.stage("quick checks")
    share = sum(check.maps() for check in TESTS) if rows >= ENOUGH_TO_TEST else PART_TESTED
    tests = quick_checks(network, every_map, round(share * sum(map(price, every_map.values()))), TESTS)
    return Study(
        network,
        trained,
        accuracies,
        hands,
        tuple(test.paths[i] for i in chosen.tolist()),
        tuple(levels),
        rows,
        seed,
        kept,
        {level: confidence for level, (_, confidence) in answered.items()},
        maps,
        lines,
        observe(lines, seed),
        baselines,
        explained,
        every,
        tests,
        refused,
        time.monotonic() - started,
    )


def _studied(rows: int) -> dict[str, tuple[Method, Baseline]]:
    """Make the methods and baselines that the published study compared."""
    path = IntegratedGradients(GaussLegendre(rows))
    return {
        INPUT_X_GRADIENT: (InputXGradient(), Black()),
        BLACK: (path, Black()),
        WHITE: (path, White()),
        RANDOM: (path, Noise()),
        GRAD_CAM: (GradCAM(), Black()),
    }


def _chosen(test: Part, predicted: Tensor, pictures: int) -> Tensor:
    """Choose test hands by place: each class in turn, correctly classified hands first, in order of file."""
    wrong = (predicted != test.y).tolist()
    labels = test.y.tolist()
    queues = [
        sorted((i for i, label in enumerate(labels) if label == wanted), key=wrong.__getitem__)
        for wanted in range(len(CLASSES))
    ]
    places = [queue[turn] for turn in range(len(test)) for queue in queues if turn < len(queue)]
    return torch.tensor(places[:pictures])
