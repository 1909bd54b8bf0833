"""The local page's server: a picture in, maps out as they are made. Models come from the command line, never the page.

GET  /                              the page, its modules under /viewer/
GET  /api/form                      the form: methods with their fields, layers, targets, baselines, labels
POST /api/pictures                  a PNG, JPEG or WEBP as the body: its id and what the model sees of it
POST /api/demo                      the same for the demonstration picture
POST /api/tests                     the tests of a map that were left out: server-sent events
POST /api/explain                   a question as JSON: server-sent events; hanging up stops the work
GET  /api/maps/ID.safetensors       a map with its provenance
GET  /api/openapi.json              all of these, described for programs
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import uvicorn
from anyio import to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ..base.records import as_bytes
from ..base.requirements import shown
from ..base.version import __version__
from ..base.view import VIEWS
from ..engine.input_pass import layers_of
from ..engine.layers import layer_names, modules_of
from ..methods import Method
from ..methods.families import FAMILIES
from ..models.catalogue import TWO_CLASSES, AnyImageModel, ModelError, demo_image
from ..models.pictures import ImageError, Picture, open_image
from ..question.question import ARITHMETICS
from ..question.registries import BASELINES, TARGETS
from ..question.targets import Logit, Target
from ..show import drawing_of, picture_payload, viewer_payload
from ..show.assets import MODULES, asset
from ..show.explained import part_seen
from .description import describe
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
from .guard import Guard, read_body
from .jobs import Job, Queue
from .pages import JSON_BYTES, Page, PageTests, busy, parsed
from .presets import presets_for
from .work import Kept, PageRequest, Store, answer, test_again

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
_SCRIPTS = (*MODULES, "page.js", "form.js", "fields.js", "stream.js", "textbox.js")
_FILES = dict.fromkeys(_SCRIPTS, "text/javascript") | dict.fromkeys(("viewer.css", "page.css"), "text/css")
PATIENCE = 20.0  # seconds that a picture waits for those before it
BASELINE = "black"  # of a request that names none


@dataclass(frozen=True)
class Limits:
    """The limits of one server; counts are of things at once, `seconds` and `rows` of one request."""

    body: int = 20_000_000  # bytes of a picture's file
    pixels: int = 40_000_000  # of a picture, read from its header; one is decoded at a time
    uploads: int = 4
    workers: int = 1
    waiting: int = 8
    rows: int = 20_000
    seconds: float = 300.0
    pictures: int = 64  # kept; a request is about at most 4
    maps: int = 128  # kept, and made for one request
    tokens: int = 512  # of a text

    def require(self, questions: int, methods: Sequence[Method], shape: torch.Size, parts: str) -> None:
        """Raise Refused for a request of more model rows or maps; `parts` name what it should have fewer of.

        Each of the `questions` is asked of each method, for inputs of this shape. Raises Refused also for a setting
        that does not fit them.
        """
        try:
            rows = questions * sum(method.rows_at_least(shape) for method in methods)
        except (ValueError, TypeError) as error:
            raise Refused(str(error)) from error
        maps = questions * len(methods)
        if rows > self.rows:
            many = f"{rows:,}" if rows < 10**15 else shown(rows)
            raise Refused(f"{many} model evaluations; one request may use {self.rows:,}: fewer samples, steps or maps")
        if maps > self.maps:  # the first would be gone before the last is made
            raise Refused(f"{maps} maps; the server keeps {self.maps}: fewer {parts}")


class MethodFields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[str, Field(max_length=60)]
    fields: Annotated[dict[str, Annotated[str, Field(max_length=300)]], Field(max_length=20)] = {}


class PageQuestion(BaseModel):
    """A question as the page sends it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    pictures: Annotated[list[Annotated[str, Field(max_length=40)]], Field(min_length=1, max_length=4)]
    methods: Annotated[list[MethodFields], Field(min_length=1, max_length=16)]
    classes: Annotated[list[Annotated[int, Field(ge=0, lt=1_000_000)]], Field(max_length=8)] = []
    target: Annotated[str, Field(max_length=300)] = ""
    baseline: Annotated[str, Field(max_length=300)] = BASELINE
    layer: Annotated[str, Field(max_length=200)] = ""
    shift: Annotated[float, Field(ge=-1, le=1, strict=False)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    arithmetic: Annotated[str, Field(max_length=40)] = ""  # empty: the library decides
    view: Annotated[str, Field(max_length=300)] = ""  # empty: the view of each method
    tests: bool = True


class Service(Page):
    """The model, the pictures and maps in memory, and the queue."""

    asked = PageQuestion

    def __init__(self, model: AnyImageModel, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self.maps: Store[Kept] = Store(limits.maps)
        self.queue = Queue(limits.workers, limits.waiting, limits.rows, limits.seconds)
        self.pictures: Store[Tensor] = Store(limits.pictures)
        self.layers, self.layer = _layers(model)
        self.demo = _has_demo()
        self._uploading = 0
        # One thread, so that pictures take the memory of the largest: what a thread freed stays with it for its next.
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="limelight-decoder")

    def close(self) -> None:
        super().close()
        self._decoder.shutdown(cancel_futures=True)

    def form(self) -> dict[str, Any]:
        """Return the contents of the form."""
        return {
            "version": __version__,
            "model": self.model.name,
            "labels": list(self.model.labels),
            "methods": method_forms(self.model.preprocessing.shape),
            "families": list(FAMILIES),
            "presets": [
                {"name": each.name, "sentence": each.sentence, "methods": chosen_methods(each.methods)}
                for each in presets_for(self.model)
            ],
            "demo": self.demo,
            "layers": self.layers,
            "layer": self.layer,
            "targets": typed_forms(TARGETS),
            "baselines": typed_forms(BASELINES),
            "baseline": BASELINE,
            "views": [{"text": name, "usage": name} for name in VIEWS.names],
            "arithmetics": list(ARITHMETICS),
            "limits": asdict(self.limits),
            "viewer": viewer_payload([], "", "", []),
        }

    def keep(self, picture: Picture) -> dict[str, Any]:
        """Keep the model's view of a picture under an id, without the picture itself. Raises ImageError."""
        pixels, geometry, _ = self.model.prepare(picture)
        return {
            "id": self.pictures.put(pixels),
            "picture": picture_payload(drawing_of(pixels[0], clip=True)),
            "notes": [part_seen(geometry), *picture.notes],
        }

    def decode(self, body: bytes) -> dict[str, Any]:
        """Keep an uploaded picture, after those before it. Raises ImageError, TimeoutError if that takes too long."""
        decoding = self._decoder.submit(self._decoded, body)
        wait([decoding], PATIENCE)
        if decoding.cancel():  # which one that has begun refuses
            raise TimeoutError(f"other pictures were decoded for {PATIENCE:g} seconds")
        return decoding.result()

    def _decoded(self, body: bytes) -> dict[str, Any]:
        return self.keep(open_image(body, name="the picture", max_pixels=self.limits.pixels, formats=PICTURE_FORMATS))

    @asynccontextmanager
    async def uploading(self) -> AsyncIterator[None]:
        """Hold one of the places for uploads. Raises HTTPException 429 if all are taken."""
        if self._uploading >= self.limits.uploads:
            raise busy()
        self._uploading += 1
        try:
            yield
        finally:
            self._uploading -= 1

    def work(self, body: bytes) -> Callable[[Job], None]:
        question = self.question(parsed(PageQuestion, body))
        return lambda job: answer(self.model, question, self.maps, job)

    def tested(self, asked: PageTests) -> Callable[[Job], None]:
        return lambda job: test_again(self.model, asked.map, asked.row, self.maps, self.limits.rows, job)

    def question(self, asked: PageQuestion) -> PageRequest:
        """Read the request. Raises Refused, or HTTPException 404 for a picture that isn't there."""
        shape, pixels = self.model.preprocessing.shape, []
        for each in asked.pictures:
            found = self.pictures.get(each)
            if found is None:
                raise HTTPException(404, "the picture is no longer here; drop it again")
            pixels.append(found)
        if asked.layer:
            if not isinstance(self.model, nn.Module):
                raise Refused(f"layer: {self.model.name} is a black box and has no layers")
            try:
                layer_names(modules_of(self.model), asked.layer)
            except ValueError as error:
                raise Refused(str(error)) from error
        targets: list[Target] = [Logit(index) for index in dict.fromkeys(asked.classes)]
        if asked.target:
            targets.append(read_target(asked.target, self.model.labels, shape))
        baseline, layer = read_baseline(asked.baseline, shape), asked.layer or None
        question = PageRequest(
            tuple(pixels),
            tuple(read_method(each.name, each.fields, shape) for each in asked.methods),
            tuple(targets),
            {"baseline": baseline, "layer": layer, "seed": asked.seed, "arithmetic": read_arithmetic(asked.arithmetic)},
            asked.shift,
            asked.tests,
            read_view(asked.view, self.model.preprocessing.channels),
        )
        self.limits.require(question.questions, question.methods, shape, "pictures, classes or methods")
        return question


def create_app(model: AnyImageModel, limits: Limits = Limits(), public: str = "") -> FastAPI:
    """Make the server of one loaded model, which all requests share; `public` is its origin behind a proxy."""
    service = Service(model, limits)
    app = app_of(service, public)

    @app.post("/api/pictures")
    async def add_picture(request: Request) -> Response:
        _require_type(request, "image/png", "image/jpeg", "image/webp")
        async with service.uploading():
            body = await read_body(request, limits.body)
            try:
                return _json(await to_thread.run_sync(service.decode, body))
            except ImageError as error:
                raise HTTPException(415, str(error)) from error
            except TimeoutError as error:
                raise busy() from error

    @app.post("/api/demo")
    async def add_demo() -> Response:
        async with service.uploading():
            try:
                return _json(await to_thread.run_sync(lambda: service.keep(demo_image(TWO_CLASSES))))
            except ModelError as error:
                raise HTTPException(404, str(error)) from error

    return app


def app_of(service: Page, public: str = "") -> FastAPI:
    """Make the server of a page, without what it takes other than questions; `public` is its origin behind a proxy."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # No pages of documentation: they would ask other hosts for their scripts.
    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Guard, public=public)

    @app.get("/")
    async def page() -> Response:
        return Response(asset("page.html"), media_type="text/html")

    @app.get("/viewer/{name}")
    async def file(name: str) -> Response:
        if name not in _FILES:
            raise HTTPException(404)
        return Response(asset(name), media_type=_FILES[name])

    @app.get("/api/form")
    async def form() -> Response:
        return _json(service.form())

    @app.get("/api/openapi.json")
    async def own_description() -> Response:
        bodies = service.asked.model_json_schema(), PageTests.model_json_schema()
        return _json(describe(service.form(), _FILES, *bodies))

    @app.post("/api/explain")
    async def explain(request: Request) -> Response:
        _require_type(request, "application/json")
        try:
            work = service.work(await read_body(request, JSON_BYTES))
        except Refused as error:
            raise HTTPException(422, str(error)) from error
        return service.stream(work)

    @app.post("/api/tests")
    async def test(request: Request) -> Response:
        _require_type(request, "application/json")
        asked = parsed(PageTests, await read_body(request, JSON_BYTES))
        if service.maps.get(asked.map) is None:
            raise HTTPException(404, "the map is no longer here; explain again")
        return service.stream(service.tested(asked))

    @app.get("/api/maps/{name}")
    async def download(name: str) -> Response:
        found = service.maps.get(name.removesuffix(".safetensors"))
        if found is None:
            raise HTTPException(404, "the map is no longer here; explain again")
        body = await to_thread.run_sync(as_bytes, found.attribution.fields())
        return Response(body, media_type="application/octet-stream", headers={"content-disposition": "attachment"})

    return app


class Server(uvicorn.Server):
    """A server that stops its work before it waits for its clients."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._service: Page = app.state.service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.queue.cancel()
        await super().shutdown(sockets)


def _json(document: Mapping[str, Any]) -> Response:
    """Write JSON in ASCII, since a label may hold lone surrogates, which UTF-8 lacks."""
    return Response(json.dumps(document, allow_nan=False), media_type="application/json")


def _has_demo() -> bool:
    try:
        demo_image()
    except ModelError:
        return False
    return True


def _require_type(request: Request, *types: str) -> None:
    """Raise HTTPException for other types; a page of another site can't send these without permission."""
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found not in types:
        raise HTTPException(415, f"content-type {found[:60]!r}; use {', '.join(types)}")


def _layers(model: AnyImageModel) -> tuple[list[dict[str, str]], str]:
    """Return the layers to choose from and the default of `explain()`; none for a model that returns no classes."""
    if not isinstance(model, nn.Module):
        return [], ""
    try:
        found, chosen, _ = layers_of(model, torch.full((1, *model.preprocessing.shape), 0.5).to(model.mean))
    except ValueError:
        return [], ""
    return [{"name": each.name, "grid": each.grid} for each in found], chosen
