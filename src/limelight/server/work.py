"""The work behind one request of the page: maps of pictures and classes, each sent when it is made."""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..answer import answer as explain_question
from ..base.attribution import Attribution
from ..base.errors import EXPECTED, reason
from ..base.labels import target_text
from ..engine.input_pass import outputs_at
from ..evaluation.budget import price, quick_findings
from ..methods import Method
from ..models.catalogue import AnyImageModel
from ..question.question import Options, question_of
from ..question.targets import Logit, Target
from ..show import map_payload, picture_of, picture_payload, section_payload
from ..show.explained import Ranked, card_sections, ranked
from .jobs import Job, Stopped

T = TypeVar("T")

TEST_ROWS = 64
"""Model rows that the quick tests of a map may always cost; beyond them as many as the map itself."""


class Store(Generic[T]):
    """The last `most` things, each under a random name that cannot be guessed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: OrderedDict[str, T] = OrderedDict()
        self._lock = Lock()

    def put(self, thing: T) -> str:
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._things[key] = thing
            while len(self._things) > self._most:
                self._things.popitem(last=False)
        return key

    def get(self, key: str) -> T | None:
        with self._lock:
            if key in self._things:
                self._things.move_to_end(key)
            return self._things.get(key)

    def __len__(self) -> int:
        return len(self._things)


@dataclass(frozen=True)
class PageRequest:
    """A request of the page: `pixels` `(1, 3, H, W)` in [0, 1] for each picture, each method, and each target.

    `targets` empty is each picture's first class; `shift` is added to every pixel; `tests` also runs the quick tests
    of each map; `options` are those of `explain`.
    """

    pixels: tuple[Tensor, ...]
    methods: tuple[Method, ...]
    targets: tuple[Target, ...]
    options: Options
    shift: float
    tests: bool

    @property
    def questions(self) -> int:
        """Return the rows of the grid: pictures times classes."""
        return len(self.pixels) * max(len(self.targets), 1)

    @property
    def maps(self) -> int:
        return self.questions * len(self.methods)

    def rows(self, shape: torch.Size) -> int:
        """Return the least number of model rows for inputs of this shape, as far as it is known before the run."""
        return self.questions * sum(method.rows_at_least(shape) for method in self.methods)


def answer(model: AnyImageModel, asked: PageRequest, maps: Store[Attribution], job: Job) -> None:
    """Send `prediction`, then `map`, `card` or `failed` for every picture, class and method.

    The rows of the grid are pictures, and within them classes."""
    row = 0
    for place, plain in enumerate(asked.pixels):
        # The class stays that of the picture as it is, however it is brightened: its map is compared with itself.
        ranking = _predict(model, plain)
        if not ranking:
            raise Stopped(f"{model.name} returns no row of classes for each picture, and the page explains classes")
        pixels = plain + asked.shift
        now = _predict(model, pixels) if asked.shift else ranking
        picture = picture_of(pixels.clamp(0, 1)[0])
        job.send(
            "prediction",
            picture=place,
            shown=picture_payload(picture),
            top=[_class(each) for each in now[:5]],
            plain=[_class(each) for each in ranking[:5]] if asked.shift else None,
        )
        for target in asked.targets or tuple(Logit(each.index) for each in ranking[:1]):
            label = _described(target, now)
            for column, method in enumerate(asked.methods):
                job.send("begun", picture=place, row=row, column=column, target=label, method=method.kebab())
                for event, data in _map(model, asked, plain, target, method, picture, maps, job):
                    job.send(event, row=row, column=column, **data)
            row += 1


def _map(
    model: AnyImageModel,
    asked: PageRequest,
    plain: Tensor,
    target: Target,
    method: Method,
    picture: Image.Image,
    maps: Store[Attribution],
    job: Job,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield one map and its card, or the reason why there is none."""
    options: Options = {**asked.options, "target": target, "draws_of": plain, "progress": job.progress}
    try:
        with question_of(model, plain + asked.shift, options) as question:
            found = explain_question(question, [method])[0]
            (tile,) = found.tiles()
    except EXPECTED as error:
        yield "failed", {"method": method.kebab(), "message": reason(error)}
        return
    tile = replace(tile, lines=(*tile.lines, *found.cautions))
    yield "map", {"map": map_payload(picture, tile) | {"url": f"/api/maps/{maps.put(found)}.safetensors"}}
    if asked.tests:
        with question_of(model, found.inputs, {"progress": job.progress}) as question:
            budget = max(price(found), TEST_ROWS)
            tests = quick_findings(question, {tile.title: found}, budget)[tile.title]
        yield "card", {"sections": [section_payload(section) for section in card_sections(found, tests)]}


def _described(target: Target, ranking: Sequence[Ranked]) -> str:
    """Describe a class as the model ranks it, or another target by name."""
    if type(target) is not Logit or not isinstance(target.index, int):
        return target_text(target)
    return next((each.described() for each in ranking if each.index == target.index), f"class {target.index}")


def _predict(model: AnyImageModel, pixels: Tensor) -> Sequence[Ranked]:
    outputs, reading = outputs_at(model, pixels, model.outputs)
    return ranked(model, outputs, reading.kinds if reading else ())


def _class(each: Ranked) -> dict[str, Any]:
    known = not math.isnan(each.probability)
    return {"class": each.index, "label": each.named, "probability": each.probability if known else None}
