"""The page of a model of texts: a text in its box, highlighted texts out as they are made.

As the page of pictures, see `app`, but for what a question is: a text in place of pictures. Uploads are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from ..base.errors import EXPECTED, reason
from ..base.version import __version__
from ..base.view import VIEWS, View
from ..by_length import rows_of_texts
from ..engine.input_pass import outputs_at
from ..engine.layers import layer_names, modules_of
from ..methods import METHODS, AttnLRP, Gradient, KernelShap, Method, Occlusion
from ..methods.backward import PatternAttribution, PatternNet
from ..methods.families import FAMILIES
from ..models.text import TextModel
from ..models.text_models import MINILM
from ..question.given import Given
from ..question.output_targets import PredictiveEntropy, Similarity
from ..question.question import ARITHMETICS, Options
from ..question.registries import BASELINES, PLAYERS, TARGETS
from ..question.targets import Logit, Margin, Probability, Target
from ..question.text_baselines import OfVocabulary, WrongWords
from ..question.text_players import OfTexts
from ..question.text_targets import Continuation, NextToken
from ..show import picture_payload, viewer_payload
from ..show.explained import MOST_SHOWN, TEXT_METHODS, Ranked, ranked
from ..show.subject import text_drawing
from .app import Limits, MethodFields, app_of
from .forms import (
    Refused,
    chosen_methods,
    method_forms,
    read_arithmetic,
    read_baseline,
    read_method,
    read_target,
    read_view,
    typed_forms,
)
from .jobs import Job, Queue, Stopped
from .pages import Page, PageTests, parsed
from .presets import Preset
from .work import Kept, Store, as_ranked, class_payload, made, sum_up, test_again

LONGEST = 20_000
"""Characters of a text, before its tokens are counted."""
_NO_PICTURES = "this page explains texts and takes no files: write the text into its box"
_DEMO = "Mix butter, sugar and cocoa, then bake the dessert; unrelatedly, the stock market fell."
_DEMO_TARGET = "similarity('a quick recipe for chocolate cake')"
_PROMPT = "The quick brown fox jumps over the lazy"
_TARGETS = {each.kebab() for each in (Similarity, NextToken, Margin, Continuation, PredictiveEntropy, Probability)}
_UNFIT = tuple(kind for kind in METHODS if kind.pictures_only or kind in (PatternNet, PatternAttribution))

PRESETS = (
    Preset("Quick look", "Two maps of a few model evaluations.", (AttnLRP(), Gradient())),
    Preset("Careful", "The maps of 'limelight explain --text', from four kinds of method.", TEXT_METHODS),
    Preset("Black box", "Maps that need the model's answers alone.", (KernelShap(), Occlusion())),
)


class TextQuestion(BaseModel):
    """A question as the page sends it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    text: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    methods: Annotated[list[MethodFields], Field(min_length=1, max_length=16)]
    classes: Annotated[list[Annotated[int, Field(ge=0, lt=1_000_000)]], Field(max_length=8)] = []
    target: Annotated[str, Field(max_length=300)] = ""
    baseline: Annotated[str, Field(max_length=300)] = ""  # empty: the model's own
    layer: Annotated[str, Field(max_length=200)] = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    arithmetic: Annotated[str, Field(max_length=40)] = ""
    view: Annotated[str, Field(max_length=300)] = ""
    tests: bool = True


@dataclass(frozen=True)
class TextRequest:
    """A text, each method and each target; see `work.PageRequest`."""

    text: str
    methods: tuple[Method, ...]
    targets: tuple[Target, ...]
    options: Options
    tests: bool
    view: View | None


class TextService(Page):
    """The model, the maps in memory, and the queue."""

    asked = TextQuestion

    def __init__(self, model: TextModel, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.maps: Store[Kept] = Store(limits.maps)
        self.queue = Queue(limits.workers, limits.waiting, limits.rows, limits.seconds)
        self._shape = torch.Size((len(model.mean_vector()), 32))  # of a text of 32 tokens, for what methods cost

    def form(self) -> dict[str, Any]:
        model = self.model
        return {
            "version": __version__,
            "model": model.name,
            "labels": [] if model.predicts_tokens else list(model.labels),  # a vocabulary is too long to choose from
            "methods": text_forms(self._shape),
            "families": list(FAMILIES),
            "presets": [
                {"name": each.name, "sentence": each.sentence, "methods": chosen_methods(each.methods)}
                for each in PRESETS
            ],
            "layers": [],
            "layer": "",
            "targets": [each for each in typed_forms(TARGETS) if each["text"].removesuffix("(") in _TARGETS],
            "baselines": [
                form
                for form, kind in zip(typed_forms(BASELINES), BASELINES, strict=True)
                if issubclass(kind, OfVocabulary | WrongWords)
            ],
            "baseline": "",
            "views": [{"text": name, "usage": name} for name in VIEWS.names],
            "arithmetics": list(ARITHMETICS),
            "limits": asdict(self.limits),
            "viewer": viewer_payload([], "", "", []),
            "text": self._box(),
        }

    def _box(self) -> dict[str, Any]:
        """Return what stands in the box at first, what is asked of it, and whether the model has classes."""
        model = self.model
        if model.predicts_tokens:
            return {"first": _PROMPT, "target": "", "classes": True, "longest": LONGEST}
        if model.labels:
            return {"first": _DEMO, "target": "", "classes": True, "longest": LONGEST}
        target = _DEMO_TARGET if model.name == MINILM else "similarity('a recipe')"
        return {"first": _DEMO, "target": target, "classes": False, "longest": LONGEST}

    def work(self, body: bytes) -> Callable[[Job], None]:
        question = self.question(parsed(TextQuestion, body))
        return lambda job: answer(self.model, question, self.maps, job)

    def tested(self, asked: PageTests) -> Callable[[Job], None]:
        return lambda job: test_again(self.model, asked.map, asked.row, self.maps, self.limits.rows, job)

    def question(self, asked: TextQuestion) -> TextRequest:
        """Read the request. Raises Refused, before the model runs."""
        if not asked.text.strip():
            raise Refused("text: it is empty; write at least one word")
        try:
            rows, _ = self.model.tokens(asked.text)
        except EXPECTED as error:
            raise Refused(reason(error)) from error
        if rows.shape[-1] > self.limits.tokens:
            raise Refused(f"text: {rows.shape[-1]} tokens; the page explains up to {self.limits.tokens}: shorten it")
        shape = rows.shape[1:]
        targets: list[Target] = [Logit(index) for index in dict.fromkeys(asked.classes)]
        if asked.target:
            targets.append(self._target(asked.target, shape))
        if not targets and not self.model.labels:
            raise Refused(f"target: {self.model.name} embeds texts; say what it is compared with: similarity('a text')")
        if asked.layer:
            try:
                layer_names(modules_of(self.model), asked.layer)
            except ValueError as error:
                raise Refused(str(error)) from error
        options = Options(layer=asked.layer or None, seed=asked.seed, arithmetic=read_arithmetic(asked.arithmetic))
        if asked.baseline:
            options["baseline"] = read_baseline(asked.baseline, shape)
        methods = tuple(self._method(each, shape) for each in asked.methods)
        view = read_view(asked.view, 0)
        found = TextRequest(asked.text, methods, tuple(targets), options, asked.tests, view)
        of_tokens = [method.of_tokens() for method in methods]
        self.limits.require(max(len(found.targets), 1), of_tokens, shape, "classes or methods")
        return found

    def _method(self, asked: MethodFields, shape: torch.Size) -> Method:
        found = read_method(asked.name, asked.fields, shape)
        if isinstance(found, _UNFIT):
            others = ", ".join(each.kebab() for each in TEXT_METHODS)
            raise Refused(f"{asked.name}: it explains no texts; use {others}")
        return found

    def _target(self, text: str, shape: torch.Size) -> Target:
        found = read_target(text, self.model.labels, shape)
        if isinstance(found, Continuation) and found.each and self.model.translates:
            raise Refused("target: each=True gives several maps here; ask for one token by place=0")
        return found


def create_text_app(model: TextModel, limits: Limits, public: str = "") -> FastAPI:
    """Make the server of one loaded model of texts, which all requests share; `public` is its origin behind a proxy."""
    app = app_of(TextService(model, limits), public)

    @app.post("/api/pictures")
    @app.post("/api/demo")
    async def refuse() -> None:
        raise HTTPException(415, _NO_PICTURES)

    return app


def text_forms(features: torch.Size) -> list[dict[str, Any]]:
    """Return the forms of the methods that explain texts, without players that are parts of pictures."""
    unfit = {kind.kebab() for kind in _UNFIT}
    pictures = {kind.__name__ for kind in PLAYERS if not issubclass(kind, OfTexts)}

    def of_text(field: dict[str, Any]) -> dict[str, Any]:
        if field["kind"] != "named":
            return field
        return {**field, "options": [each for each in field["options"] if each["name"] not in pictures]}

    forms = (each for each in method_forms(features) if each["name"] not in unfit)
    return [{**each, "fields": [of_text(field) for field in each["fields"]]} for each in forms]


def answer(model: TextModel, asked: TextRequest, maps: Store[Kept], job: Job) -> None:
    """Send `prediction`, then `map`, `card` or `failed` for every target and method, and each target's `summary`."""
    for row, target in enumerate(asked.targets or (Logit(),)):
        try:
            rows, options = rows_of_texts(model, [asked.text], {**asked.options, "target": target})
        except EXPECTED as error:
            raise Stopped(reason(error)) from error
        read, (text,) = options["target"], options["given"].texts  # type: ignore[union-attr]
        several = isinstance(read, Continuation) and read.each and text.continued > 1
        first = len(text) - text.continued
        picture = text_drawing(text, tuple(range(first, len(text))) if several else ())
        ranking = _predict(model, asked.text, (read.index,) if isinstance(read, Logit) else ())
        top = [] if row else [class_payload(each) for each in ranking[:MOST_SHOWN]]
        job.send("prediction", picture=row, shown=picture_payload(picture), plain=None, top=top)
        if type(read) is Logit and read.index is None:
            read = Logit(ranking[0].index)
        explained = as_ranked(read, model.labels, ranking)
        keys: list[str] = []
        for column, method in enumerate(asked.methods):
            about = {"row": row, "column": column}
            job.send("begun", picture=row, target=explained.described(), method=method.kebab(), **about)
            own: Options = {**options, "target": read}
            for event, data in made(model, rows, method, own, asked, picture, maps, job):
                job.send(event, **about, **data)
                keys += [data["map"]["id"]] if event == "map" else []
        sum_up(row, keys, explained, ranking, maps, job)


def _predict(model: TextModel, text: str, beside: tuple[Any, ...]) -> tuple[Ranked, ...]:
    """Return the first classes of the model's answer, and those beside; nothing of a model that embeds texts."""
    if not model.labels:
        return ()
    rows, given = model.tokens(text)
    outputs, reading = outputs_at(model, rows, model.outputs, Given.of(given, 1))
    known = tuple(each for each in beside if isinstance(each, int))
    return ranked(model, outputs, reading.kinds if reading else (), MOST_SHOWN, known)
