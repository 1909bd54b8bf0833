"""The study from end to end: train, explain held-out hands, brighten, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...base.attribution import Attribution
from ...checks import QUICK, BiasShift, Check
from ...evaluation.budget import price, quick_checks
from ...evaluation.compare_baselines import DEFAULT_BASELINES, BaselineStudy, compare_baselines, labelled_baselines
from ...evaluation.findings import Findings
from ...methods import GradCAM, InputXGradient, IntegratedGradients
from ...methods.pattern_estimation import estimate_patterns
from ...methods.quadrature import GaussLegendre
from ...models.catalogue import HANDS, HANDS_PREPROCESSING, ImageModel
from ...models.rock_paper_scissors import CLASSES
from ...question.baselines import Baseline, Black, Mean, Minimum, Noise, White
from ..ground_truth.each import one_of_each
from .data import Part, read_parts
from .observations import BLACK, GRAD_CAM, INPUT_X_GRADIENT, RANDOM, WHITE, Observation, observe
from .shifting import Asked, Hands, Maps, Shifted, answers, compared, every_method, hand_mask, maps_of
from .training import Epoch, Progress, Trained, confusion, predict, train

LEVELS = (0.1, 0.2, 0.4)
TESTS: tuple[Check, ...] = tuple(check for check in QUICK if not isinstance(check, BiasShift))
"""The quick checks beside the study's own, which is a shift of brightness, of every method."""
ENOUGH_TO_TEST = 16  # rows for each map: with fewer, maps are mostly noise, and their quick checks may cost
PART_TESTED = 0.25  # of the maps' rows
_SAMPLE = 256  # training photographs, evenly over the classes, for the mean baseline
_FOR_PATTERNS = 32  # of those, or fewer for few rows: each has 22,500 positions to learn a direction from


@dataclass(frozen=True, eq=False)
class Accuracy:
    """The share of a part that the model names right, and the counts `(3, 3)`, row = true class."""

    part: str
    counts: Tensor

    @property
    def share(self) -> float:
        return float(self.counts.diagonal().sum()) / float(self.counts.sum())


@dataclass(frozen=True, eq=False)
class Study:
    """All that the study found; `page.py` writes it down.

    `maps` are those of the published study by name and level, of `hands`; `kept` which hands kept their class at each
    level and `confidence` the probability of that class, level 0 included; `lines` and `observations` their figures.
    `every` has a line for each method at the largest of the levels, of the first `explained` hands, `tests` its quick
    checks and `refused` who could not explain the model.
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
    lines: tuple[Shifted, ...]
    observations: tuple[Observation, ...]
    baselines: BaselineStudy
    explained: int
    every: tuple[Shifted, ...]
    every_map: dict[str, Attribution]
    tests: dict[str, Findings]
    refused: dict[str, str]


@dataclass(frozen=True)
class Told:
    """Who hears of the progress: of training by batch and epoch, and of the stages after it."""

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
    told: Told = Told(),
) -> Study:
    """Train `model` on the photographs below `data`, or take up the training in `out`/MODEL, and study its maps.

    `pictures` hands of the test part are explained, and `rows` is about what a method that can choose spends on each.
    None lets the size of the test part say: a fortieth of it and an eighth, within 1 to 6 pictures and 4 to 32 rows.

    Raises DataError for data that does not fit, ValueError for options that do not.
    """
    if not levels or not all(level > 0 for level in levels):
        raise ValueError(f"levels: {tuple(levels)}; use shifts above 0, in shares of full brightness")
    told.stage("reading the photographs")
    parts = read_parts(data)
    test = parts["test"]
    pictures = pictures or min(6, max(1, len(test) // 40))
    rows = rows or min(32, max(4, len(test) // 8))
    trained = train(
        model,
        parts["training"],
        parts["validation"],
        out / model,
        epochs=epochs,
        seed=seed,
        progress=told.batch,
        told=told.epoch,
    )
    told.stage("accuracy")
    predicted = {name: predict(trained.network, part) for name, part in parts.items()}
    accuracies = tuple(Accuracy(name, confusion(predicted[name], part.y)) for name, part in parts.items())
    # A tenth faster forward and backward, while training is slower with it. The stub of `to` lacks the argument.
    explainable = trained.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = ImageModel(explainable, HANDS_PREPROCESSING, CLASSES, f"{HANDS} ({model})").eval()
    chosen = _chosen(test, predicted["test"], pictures)
    x = test.pixels(chosen)
    hands = Hands(x, predicted["test"][chosen], hand_mask(x))
    told.stage("the published study's maps")
    answered = answers(network, hands, (0.0, *levels))
    kept = {level: answered[level][0] for level in levels}
    maps = {each.name: maps_of(network, hands, each, levels, seed=seed) for each in _studied(rows)}
    lines = [line for name, found in maps.items() for line in compared(name, found, hands, kept)]
    told.stage("baselines")
    sample = parts["training"].pixels(slice(None, None, max(1, len(parts["training"]) // _SAMPLE)))
    baselines = compare_baselines(network, x, _path(rows), _baselines(sample), target=hands.y, seed=seed)
    # Every method costs most, so on fewer hands: one a class where there are so many.
    explained = min(pictures, len(CLASSES))
    few = Hands(hands.x[:explained], hands.y[:explained], hands.mask[:explained])
    for_patterns = min(_FOR_PATTERNS, rows)
    patterns = estimate_patterns(network, sample[:: max(1, len(sample) // for_patterns)].split(16))
    asked = one_of_each(patterns, x.shape[-1], rows)
    few_kept = {level: same[:explained] for level, same in kept.items()}
    largest = max(levels)
    every, every_map, refused = every_method(
        network,
        few,
        asked,
        Black(),
        largest,
        few_kept,
        seed=seed,
        progress=lambda names: told.stage(f"every method: {names}"),
    )
    told.stage("quick checks")
    again = sum(check.maps() for check in TESTS) if rows >= ENOUGH_TO_TEST else PART_TESTED
    tests = quick_checks(network, every_map, round(again * sum(map(price, every_map.values()))), TESTS)
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
        tuple(lines),
        tuple(observe(lines)),
        baselines,
        explained,
        tuple(every),
        every_map,
        tests,
        refused,
    )


def _path(rows: int) -> IntegratedGradients:
    return IntegratedGradients(GaussLegendre(rows))


def _studied(rows: int) -> tuple[Asked, ...]:
    """What the published study compared."""
    return (
        Asked(INPUT_X_GRADIENT, InputXGradient(), Black()),
        Asked(BLACK, _path(rows), Black()),
        Asked(WHITE, _path(rows), White()),
        Asked(RANDOM, _path(rows), Noise()),
        Asked(GRAD_CAM, GradCAM(), Black()),
    )


def _baselines(sample: Tensor) -> dict[str, Baseline]:
    return labelled_baselines([*DEFAULT_BASELINES, Minimum(), Mean(sample)])


def _chosen(test: Part, predicted: Tensor, pictures: int) -> Tensor:
    """Places of test hands: each class in turn, those that the model names right first, in order of file."""
    queues = []
    for label in range(len(CLASSES)):
        of_class = (test.y == label).nonzero().flatten().tolist()
        queues.append(sorted(of_class, key=lambda i: int(predicted[i] != label)))
    places = [queue[turn] for turn in range(len(test)) for queue in queues if turn < len(queue)]
    return torch.tensor(places[:pictures])
