"""The work of `limelight explain` on one picture: maps, classes and probabilities."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from ..answer import answer
from ..base.attribution import Attribution, Panel
from ..base.notes import about_example
from ..base.similarity import relative_size
from ..base.types import Progress
from ..base.view import View
from ..evaluation.agreement import Agreement
from ..evaluation.budget import quick_findings
from ..evaluation.card import TrustCard
from ..evaluation.compare_baselines import BaselineStudy, labelled_baselines
from ..evaluation.findings import Findings
from ..methods import (
    RISE,
    AttnLRP,
    GradCAM,
    Gradient,
    IntegratedGradients,
    KernelShap,
    Method,
    Occlusion,
    SmoothGrad,
)
from ..models.catalogue import AnyImageModel
from ..models.pictures import Geometry, Picture
from ..question.baselines import Baseline
from ..question.output_targets import Similarity
from ..question.question import Options, Question, question_of
from ..question.readings import confidences
from ..question.target_words import in_words
from ..question.targets import Logit
from . import Tile
from .exhibits import pictures_behind
from .summary import Summary, answer_in_words, summary_of

# The raw gradient, two methods with less noise, and two coarse maps for comparison.
DEFAULT_METHODS: tuple[Method, ...] = (Gradient(), SmoothGrad(), IntegratedGradients(), GradCAM(), Occlusion())


BLACK_BOX_METHODS: tuple[Method, ...] = (Occlusion(), RISE())
TEXT_METHODS: tuple[Method, ...] = (AttnLRP(), KernelShap(), Occlusion(), IntegratedGradients())
MOST_SHOWN = 5
"""Classes that are named of a model's answer."""


def fitting(model: AnyImageModel, methods: tuple[Method, ...], say: Callable[[str], None]) -> tuple[Method, ...]:
    """Return those of the default methods that the model can be asked, and say which are left out.

    Black boxes have neither gradients nor layers and get BLACK_BOX_METHODS; programs have no layers.
    """
    if not isinstance(model, nn.Module):
        names = ", ".join(method.kebab() for method in BLACK_BOX_METHODS)
        say(f"{model.name} is a black box: {names} in place of methods that need gradients or layers")
        return BLACK_BOX_METHODS
    if not isinstance(model.network, torch.jit.ScriptModule | torch.fx.GraphModule):
        return methods
    kept = tuple(method for method in methods if not method.needs.layer)
    left_out = ", ".join(method.kebab() for method in methods if method.needs.layer)
    if left_out:
        say(f"{model.name} is a program without layers: {left_out} left out")
    return kept


@dataclass(frozen=True)
class Request:
    """The request for every picture: model, methods, options of `explain`, and the number of classes (`top`)."""

    model: AnyImageModel
    methods: tuple[Method, ...]
    options: Options
    top: int = 1
    more_baselines: tuple[Baseline, ...] = ()
    check_rows: int | None = 0
    """Most model rows for the quick tests of a class's maps; None is as many as the maps took, 0 runs no test."""
    view: View | None = None
    """How the maps are read and drawn; None is the view of each method."""

    def rows(self) -> int | None:
        """Estimate the model rows of one picture; None if a method stops by a tolerance."""
        each = [method.rows(self.model.preprocessing.shape) for method in self.methods]
        if None in each:
            return None
        again = [rows for rows, method in zip(each, self.methods, strict=True) if method.needs.baseline]
        return self.top * (2 + sum(filter(None, each)) + len(self.more_baselines) * (2 + sum(filter(None, again))))


@dataclass(frozen=True)
class Ranked:
    """The class or other target that a map explains; `index` is None for other targets.

    `probability` is NaN if the model doesn't return scores of several classes.
    """

    index: int | None
    label: str
    output: float
    probability: float

    @property
    def named(self) -> str:
        return (
            self.label if self.index is None or self.label == f"class {self.index}" else f"{self.label} ({self.index})"
        )

    def __str__(self) -> str:
        return self.named if math.isnan(self.probability) else f"{self.named} {self.probability:.1%}"

    def described(self) -> str:
        return str(self) if math.isnan(self.probability) else f"{self.named}, probability {self.probability:.1%}"


@dataclass(frozen=True)
class Explanation:
    """The maps of one class."""

    target: Ranked
    panel: Panel
    seconds: float
    tests: Mapping[str, Findings] = field(default_factory=dict)
    studies: Mapping[str, BaselineStudy] = field(default_factory=dict)
    view: View | None = None

    def tiles(self) -> list[Tile]:
        """Each map with its caption and the card of its tests."""
        return [
            tested(tile, attribution, self.tests.get(name, Findings()))
            for tile, (name, attribution) in zip(self.panel.tiles(view=self.view), self.panel.items(), strict=True)
        ]

    @cached_property
    def agreement(self) -> Agreement | None:
        """How far the maps agree, without those that failed a test; None for a single map."""
        return Panel.agreement(self.panel, self.tests) if len(self.panel) > 1 else None

    def verdicts(self) -> dict[str, str]:
        """Return the word of each map's verdict."""
        return {
            name: card_of(attribution, self.tests.get(name, Findings())).verdict.word
            for name, attribution in self.panel.items()
        }

    def cautions(self) -> set[str]:
        """Return the notes that limit the trust in a map, as `notes` has them."""
        return {note for attribution in self.panel.values() for note in about_example(attribution.cautions, 0)}

    def notes(self) -> list[tuple[str, str]]:
        """Return each note once, as (methods, note)."""
        about: dict[str, list[str]] = {}
        for name, attribution in self.panel.items():
            for note in about_example(attribution.notes, 0):
                about.setdefault(note, []).append(name)
        return [(", ".join(names) if len(names) < len(self.panel) else "all", note) for note, names in about.items()]


@dataclass(frozen=True)
class Explained:
    """One picture: its crop, its classes from the most probable down, and the maps of one or several."""

    name: str
    picture: Picture
    geometry: Geometry
    ranking: tuple[Ranked, ...]
    explanations: tuple[Explanation, ...]

    def summary(self, explanation: Explanation) -> Summary:
        """Return the first screen of one class."""
        classes = [(each.named, each.probability) for each in self.ranking]
        said = answer_in_words(explanation.target.named, explanation.target.output, classes)
        return summary_of(said, classes, explanation.agreement, explanation.verdicts() if explanation.tests else {})

    def what_was_seen(self) -> str:
        """Return a phrase about the crop that the model received."""
        return f"the model saw {part_seen(self.geometry)}"


def part_seen(geometry: Geometry) -> str:
    """Describe the crop; its size is in pixels of the resized picture."""
    left, top, right, bottom = geometry.crop
    size, resized = (f"{width} x {height}" for width, height in (geometry.original, geometry.resized))
    return f"the middle {right - left} x {bottom - top} of {size} pixels resized to {resized}"


def explain_picture(name: str, picture: Picture, request: Request, progress: Progress) -> Explained:
    """Explain a picture, class by class. Raises the errors of `ImageModel.prepare` and `explain`."""
    pixels, geometry, _ = request.model.prepare(picture)
    options: Options = {**request.options, "progress": progress}
    with question_of(request.model, pixels, options) as question:
        first = _explain_class(question, request)
        # The numbers of an embedding are no classes.
        is_embedding = isinstance(question.target, Similarity)
        at_input = first.panel[0]
        ranking = () if is_embedding else ranked(request.model, at_input.outputs, at_input.output_kinds)
        others = [Logit(each.index) for each in ranking[1 : request.top]]
        explanations = (first, *(_explain_class(replace(question, target=each), request) for each in others))
    return Explained(name, picture, geometry, ranking, explanations)


def _explain_class(question: Question, request: Request) -> Explanation:
    start = time.perf_counter()
    panel, studies = _panel(question, request)
    seconds = time.perf_counter() - start
    silent = replace(question, progress=None)
    tests = {} if request.check_rows == 0 else quick_findings(silent, panel, request.check_rows)
    return Explanation(explained_class(request.model, panel[0]), panel, seconds, tests, studies, request.view)


def _panel(question: Question, request: Request) -> tuple[Panel, dict[str, BaselineStudy]]:
    """Return the maps, and for several baselines a study of each method that uses a baseline."""
    first = answer(question, request.methods)
    compared = [method for method in request.methods if method.needs.baseline]
    if not request.more_baselines or not compared:
        return first, {}
    panels = [first, *(answer(question.with_baseline(each), compared) for each in request.more_baselines)]
    labels = list(labelled_baselines((question.baseline, *request.more_baselines)))
    maps: dict[str, Attribution] = {}
    studies: dict[str, BaselineStudy] = {}
    for name, attribution in first.items():
        if not attribution.method.needs.baseline:
            maps[name] = attribution
            continue
        place = compared.index(attribution.method)
        found = [attribution, *(panel[place] for panel in panels[1:])]
        studies[name] = BaselineStudy(dict(zip(labels, found, strict=True)))
        maps |= {f"{name}, {label}": each for label, each in studies[name].items()}
    forward, backward = (sum(rows) for rows in zip(*((p.forward_rows, p.backward_rows) for p in panels), strict=True))
    return Panel(list(maps.values()), forward, backward, list(maps)), studies


def tested(tile: Tile, attribution: Attribution, findings: Findings) -> Tile:
    """Return a map's tile with the trust card of its tests; unchanged if nothing was tested."""
    if not findings:
        return tile
    card = card_of(attribution, findings)
    return replace(tile, sections=(*card.sections(), *pictures_behind(findings)), verdict=card.line)


def card_of(attribution: Attribution, findings: Findings) -> TrustCard:
    """Return the trust card of quick tests, which are compared with no control."""
    return TrustCard(attribution, tuple(findings), {}, attribution.cautions)


class Labelled(Protocol):
    """A model whose outputs have names."""

    @property
    def labels(self) -> Sequence[str]: ...

    def label(self, index: int) -> str: ...


def explained_class(model: Labelled, attribution: Attribution) -> Ranked:
    """Return the class or target that the first map explains."""
    score, target = float(attribution.score[0]), attribution.target
    if not isinstance(target, Tensor):
        return Ranked(None, in_words(target, model.labels), score, math.nan)
    index = int(target[0])
    known = ranked(model, attribution.outputs, attribution.output_kinds, 0, beside=(index,))
    return known[0] if known else Ranked(index, model.label(index), score, math.nan)


def ranked(
    model: Labelled,
    outputs: Tensor | None,
    kinds: Sequence[str],
    most: int | None = None,
    beside: Sequence[int] = (),
) -> tuple[Ranked, ...]:
    """Rank the classes of the first row of `outputs` by output; empty if `outputs` isn't `(rows, classes)`.

    `kinds`: what each row's outputs are, see `Attribution.output_kinds`; without it probabilities are NaN. `most`: only
    the first so many, of a vocabulary say, and after them the classes `beside`.
    """
    if outputs is None or outputs.ndim != 2:
        return ()
    outputs = outputs[0].double()
    likely = confidences(outputs, kinds[0] if kinds else "score")
    first = outputs.argsort(descending=True, stable=True)[:most].tolist()
    others = (i for i in beside if i not in first and i < len(outputs))
    return tuple(Ranked(i, model.label(i), float(outputs[i]), float(likely[i])) for i in (*first, *others))


def share_of_change(attribution: Attribution) -> float:
    """Return |delta| / |f(x) - f(b)|; NaN if either is missing."""
    change = float(attribution.score[0] - attribution.baseline_score[0])
    return abs(float(attribution.delta[0]) / change) if change else math.nan


def steadiness(attribution: Attribution) -> float:
    """Return the correlation that two runs would have as drawn; NaN for a method that draws no samples."""
    return math.nan if attribution.steadiness is None else float(attribution.steadiness.flatten(0, -2)[0, 0])


def relative_stderr(attribution: Attribution) -> float:
    """Return |standard error| / |map| (L2); NaN for a method without standard error."""
    return math.nan if attribution.stderr is None else relative_size(attribution.stderr[0], attribution.values[0])


def classes_shown(ranking: Sequence[Ranked]) -> str:
    return ", ".join(map(str, ranking[:MOST_SHOWN]))
