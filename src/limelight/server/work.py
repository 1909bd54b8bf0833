"""The work behind one request of the page: maps of pictures and classes, each sent when it is made."""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image
from torch import Tensor

from ..answer import answer as explain_question
from ..base.attribution import Attribution, Panel
from ..base.errors import EXPECTED, reason
from ..base.notes import about_example
from ..base.view import View
from ..engine.input_pass import outputs_at
from ..evaluation.budget import price, quick_findings
from ..evaluation.findings import Findings
from ..methods import Method
from ..models.catalogue import AnyImageModel
from ..models.text import TextModel
from ..question.question import Options, question_of
from ..question.target_words import in_words
from ..question.targets import Logit, Target
from ..show import card_payload, drawing_of, map_payload, picture_payload, summary_of
from ..show.explained import Ranked, card_of, ranked
from ..show.summary import answer_in_words
from .jobs import Job, Stopped

T = TypeVar("T")

UNTESTED = "not tested: a test takes one target; explain one token, as with place=0"
"""What stands in the place of a card where a map has several targets."""

TEST_ROWS = 64
"""Model rows that the quick tests of a map may always cost; beyond them as many as the map itself."""


class Store(Generic[T]):
    """The last `most` things, each under a random name that cannot be guessed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: OrderedDict[str, T] = OrderedDict()
        self._lock = Lock()

    def put(self, thing: T, key: str | None = None) -> str:
        """Keep a thing under a new name, or in place of the one of a name, and return the name."""
        key = key or secrets.token_urlsafe(16)
        with self._lock:
            self._things[key] = thing
            self._things.move_to_end(key)
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
class Kept:
    """A map that the server keeps, what its tests found, and what the model gets beside the inputs."""

    attribution: Attribution
    findings: Findings = field(default_factory=Findings)
    given: Mapping[str, Any] | None = None

    @property
    def several(self) -> bool:
        """Whether the map has a row for each of several targets."""
        return self.attribution.score.ndim > 1


@dataclass(frozen=True)
class PageRequest:
    """A request of the page: `pixels` `(1, 3, H, W)` in [0, 1] for each picture, each method, and each target.

    `targets` empty is each picture's first class; `shift` is added to every pixel; `tests` also runs the quick tests
    of each map; `view` is how maps are drawn, None by their methods; `options` are those of `explain`.
    """

    pixels: tuple[Tensor, ...]
    methods: tuple[Method, ...]
    targets: tuple[Target, ...]
    options: Options
    shift: float
    tests: bool
    view: View | None = None

    @property
    def questions(self) -> int:
        """Return the rows of the grid: pictures times classes."""
        return len(self.pixels) * max(len(self.targets), 1)


def answer(model: AnyImageModel, asked: PageRequest, maps: Store[Kept], job: Job) -> None:
    """Send `prediction`, then `map`, `card` or `failed` for every picture, class and method, and each row's `summary`.

    The rows of the grid are pictures, and within them classes."""
    row = 0
    for place, plain in enumerate(asked.pixels):
        # The class stays that of the picture as it is, however it is brightened: its map is compared with itself.
        ranking = _predict(model, plain)
        if not ranking:
            raise Stopped(f"{model.name} returns no row of classes for each picture, and the page explains classes")
        pixels = plain + asked.shift
        now = _predict(model, pixels) if asked.shift else ranking
        bands = asked.view.bands if asked.view else None
        picture = drawing_of(pixels[0], bands=bands, clip=True)
        job.send(
            "prediction",
            picture=place,
            shown=picture_payload(picture),
            top=[class_payload(each) for each in now[:5]],
            plain=[class_payload(each) for each in ranking[:5]] if asked.shift else None,
        )
        for target in asked.targets or tuple(Logit(each.index) for each in ranking[:1]):
            explained = as_ranked(target, model.labels, now)
            keys: list[str] = []
            for column, method in enumerate(asked.methods):
                about = {"row": row, "column": column}
                label = explained.described()
                job.send("begun", picture=place, target=label, method=method.kebab(), **about)
                options: Options = {**asked.options, "target": target, "draws_of": plain}
                for event, data in made(model, pixels, method, options, asked, picture, maps, job):
                    job.send(event, **about, **data)
                    keys += [data["map"]["id"]] if event == "map" else []
            sum_up(row, keys, explained, now, maps, job)
            row += 1


def sum_up(
    row: int, keys: Sequence[str], explained: Ranked, ranking: Sequence[Ranked], maps: Store[Kept], job: Job
) -> None:
    """Send the `summary` of a row of maps by their names; of none nothing."""
    kept = [found for key in keys if (found := maps.get(key)) is not None]
    if kept:
        scores = kept[0].attribution.score[0]
        classes = [(each.named, each.probability) for each in ranking]
        said, about = answer_in_words(explained.named, float(scores.sum()), classes)
        if scores.ndim:  # one for each token of a continuation
            about += f" It is the sum of {len(scores)} scores, one for each row of a map."
        job.send("summary", row=row, summary=_summary(kept, (said, about), classes))


def test_again(
    model: AnyImageModel | TextModel, key: str, row: Sequence[str], maps: Store[Kept], most_rows: int, job: Job
) -> None:
    """Run all quick tests of a kept map, and send its `card` and the `summary` of its row as they are then.

    `row`: the names of the row's maps, in order; those that are no longer kept are left out.
    """
    kept = maps.get(key)
    if kept is None:
        raise Stopped("the map is no longer here; explain again")
    if kept.several:
        raise Stopped(UNTESTED)
    kept = replace(kept, findings=_tests(model, kept, most_rows, job))
    maps.put(kept, key)
    job.send("card", **_card(kept))
    others = [found for each in row if (found := maps.get(each)) is not None]
    job.send("summary", summary=_summary(others, ("", ""), ()))


class Drawn(Protocol):
    """A request, as far as it says how a map is drawn and whether it is tested."""

    @property
    def tests(self) -> bool: ...

    @property
    def view(self) -> View | None: ...


def made(
    model: AnyImageModel | TextModel,
    inputs: Tensor,
    method: Method,
    options: Options,
    asked: Drawn,
    picture: Image.Image,
    maps: Store[Kept],
    job: Job,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield one map and its card, or the reason why there is none."""
    try:
        with question_of(model, inputs, {**options, "progress": job.progress}) as question:
            found = explain_question(question, [method])[0]
            (tile,) = found.tiles(view=asked.view)
    except EXPECTED as error:
        yield "failed", {"method": method.kebab(), "message": reason(error)}
        return
    tile = replace(tile, lines=(*tile.lines, *about_example(found.cautions, 0)))
    given: Any = options.get("given")
    kept = Kept(found, given=given)
    key = maps.put(kept)
    yield "map", {"map": map_payload(picture, tile) | {"id": key, "url": f"/api/maps/{key}.safetensors"}}
    if asked.tests and not kept.several:
        kept = replace(kept, findings=_tests(model, kept, max(price(found), TEST_ROWS), job))
        maps.put(kept, key)
    yield "card", _card(kept)


def _tests(model: AnyImageModel | TextModel, kept: Kept, budget: int, job: Job) -> Findings:
    found, options = kept.attribution, Options(progress=job.progress, given=kept.given)
    with question_of(model, found.inputs, options) as question:
        return quick_findings(question, {found.name: found}, budget)[found.name]


def _card(kept: Kept) -> dict[str, Any]:
    """Return a map's card, and whether there are tests that were not run."""
    if not kept.findings:
        return {"card": card_payload(UNTESTED if kept.several else "", ()), "more": not kept.several}
    card = card_of(kept.attribution, kept.findings)
    more = any(each.left_out for each in kept.findings)
    return {"card": card_payload(card.line, card.sections()), "more": more}


def _summary(kept: Sequence[Kept], answer: tuple[str, str], classes: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Return what stands above a row of maps."""
    panel = Panel([each.attribution for each in kept], 0, 0)
    tests = {name: each.findings for name, each in zip(panel, kept, strict=True)}
    verdicts = {
        name: card_of(each.attribution, each.findings).verdict.word for name, each in zip(panel, kept, strict=True)
    }
    # Agreement is about one target; of a map with several rows each row has its own.
    compared = len(panel) > 1 and not any(each.several for each in kept)
    agreement = Panel.agreement(panel, tests) if compared else None
    return summary_of(answer, classes, agreement, verdicts if any(tests.values()) else {}).payload()


def as_ranked(target: Target, labels: Sequence[str], ranking: Sequence[Ranked]) -> Ranked:
    """Return a class as the model ranks it, or another target in words."""
    if type(target) is Logit and isinstance(target.index, int):
        found = next((each for each in ranking if each.index == target.index), None)
        if found is not None:
            return found
    return Ranked(None, in_words(target, labels), math.nan, math.nan)


def _predict(model: AnyImageModel, pixels: Tensor) -> Sequence[Ranked]:
    outputs, reading = outputs_at(model, pixels, model.outputs)
    return ranked(model, outputs, reading.kinds if reading else ())


def class_payload(each: Ranked) -> dict[str, Any]:
    """Return a class of a model's answer, as the page shows it."""
    known = not math.isnan(each.probability)
    return {"class": each.index, "label": each.named, "probability": each.probability if known else None}
