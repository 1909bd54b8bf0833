"""A server in a thread, a small model whose labels attack the page, and Chromium where there is one."""

from __future__ import annotations

import http.client
import io
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from limelight.models.catalogue import ImageModel
from limelight.models.pictures import Preprocessing
from limelight.models.text import TextModel

HOSTILE = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> \" ' & https://elsewhere.example/a.png"
SIDE = 32
CLASSES = 6

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


UNNAMED = """[...document.querySelectorAll('input, select, button, progress, canvas:not(.bar, [aria-hidden])')]
    .filter((each) => !each.labels?.length && !each.ariaLabel && !each.textContent.trim())
    .map((each) => each.outerHTML)"""
"""Controls that a screen reader could only call by their kind."""


class Small(nn.Module):
    """A convolutional network that counts its rows and can be made slow."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(8, CLASSES)
        self.head.weight.data.mul_(4)

    def forward(self, pixels: Tensor) -> Tensor:
        # Not an attribute: what the network holds is put back after a call, and a gate would close again.
        WORK.rows += len(pixels)
        time.sleep(WORK.pause)
        if len(pixels) >= WORK.held:
            WORK.gate.wait(60)
        return self.head(self.layers(pixels))


@dataclass
class Work:
    """What networks and their copies are to do, and what they did."""

    rows: int = 0
    pause: float = 0.0
    held: float = math.inf
    gate: threading.Event = field(default_factory=threading.Event)
    """Passes of at least `held` rows wait until the gate is set."""


WORK = Work()


def rows_at_rest() -> int:
    """Wait until half a second passes without a row; return how many there were. A busy machine may be late."""
    rows = -1
    while rows != WORK.rows:
        rows = WORK.rows
        time.sleep(0.5)
    return rows


def small_model() -> ImageModel:
    labels = (HOSTILE, *(f"class number {k}" for k in range(1, CLASSES)))
    return ImageModel(Small(), Preprocessing(size=SIDE, crop_fraction=1.0), labels, "small").eval()


@dataclass(frozen=True)
class Server:
    """Where a server listens, and the service behind it."""

    port: int
    app: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def upload(self, picture: bytes, kind: str = "image/png") -> str:
        status, _, body = self.ask("POST", "/api/pictures", picture, {"content-type": kind})
        assert status == 200, body
        return str(json.loads(body)["id"])

    def explain(self, _path: str = "/api/explain", **question: Any) -> list[tuple[str, dict[str, Any]]]:
        """Every event of a question's answer; one that is refused has the single event `refused`."""
        text = json.dumps(question)
        status, _, body = self.ask("POST", _path, text, {"content-type": "application/json"}, 120)
        if status != 200:
            return [("refused", {"status": status, **json.loads(body)})]
        parts = [each.split("\n") for each in body.decode().split("\n\n") if each.startswith("event")]
        return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers of the small model, with limits given by name."""
    uvicorn = pytest.importorskip("uvicorn", reason="the page's extra 'app' is not installed")
    from limelight.server.app import Limits, create_app
    from limelight.server.connections import configured
    from limelight.server.text_page import create_text_app

    running: list[tuple[Any, threading.Thread]] = []

    def start(model: ImageModel | TextModel | None = None, public: str = "", **limits: Any) -> Server:
        bounds = Limits(**limits)
        of_texts = isinstance(model, TextModel)
        app = create_text_app(model, bounds, public) if of_texts else create_app(model or small_model(), bounds, public)
        config = configured(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
        socket = config.bind_socket()
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        running.append((server, thread))
        return Server(socket.getsockname()[1], app)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def server(serve: Callable[..., Server]) -> Server:
    return serve(rows=4000, seconds=60, waiting=4)


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    yield
    WORK.pause, WORK.held = 0.0, math.inf
    WORK.gate.set()


def png(seed: int = 0, size: tuple[int, int] = (48, 40)) -> bytes:
    noise = torch.rand(size[1] // 4, size[0] // 4, 3, generator=torch.Generator().manual_seed(seed))
    image = Image.fromarray((255 * noise).byte().numpy()).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; skips where there is none, unless LIMELIGHT_NEEDS_BROWSER says that there must be."""
    missing = ""
    if CHROMIUM is None:
        missing = "no chromium on this machine: apt-get install chromium"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright is not installed: pip install limelight[dev]"
    if missing:
        if os.environ.get("LIMELIGHT_NEEDS_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as driver:
        # Without its sandbox, which containers and root don't allow; it opens nothing but what the tests wrote.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page and everything it did that it shouldn't have."""

    page: Any
    requests: list[str]
    complaints: list[str]


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Watched]]:
    """Opens pages; afterwards none may have logged an error, opened a dialog or asked another host for anything."""
    opened: list[tuple[Any, Watched]] = []

    def start(url: str, width: int = 1200, height: int = 900, **options: Any) -> Watched:
        context = chromium.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
        page = context.new_page()
        watched = Watched(page, [], [])

        def dialog(found: Any) -> None:
            watched.complaints.append(f"dialog: {found.message}")
            found.dismiss()

        page.on("dialog", dialog)
        page.on("pageerror", lambda error: watched.complaints.append(f"error: {error}"))
        page.on("console", lambda said: said.type == "error" and watched.complaints.append(f"console: {said.text}"))
        page.on("request", lambda asked: watched.requests.append(asked.url))
        page.goto(url)
        opened.append((context, watched))
        return watched

    yield start
    for context, watched in opened:
        context.close()
        assert not watched.complaints
        local = ("http://127.0.0.1:", "file://", "data:", "blob:")
        assert not [url for url in watched.requests if not url.startswith(local)]


def until(page: Any, check: Callable[[], bool], seconds: float = 20) -> None:
    """Wait from here: the page's own policy forbids the evaluation that Playwright's `wait_for_function` needs."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"the page says {page.inner_text('body')[-300:]!r}"
        page.wait_for_timeout(20)


def as_url(path: Path) -> str:
    return path.resolve().as_uri()
