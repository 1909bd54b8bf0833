"""What one request may cost: work between the model's passes, settings by what they cost, pixels decoded at once."""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import limelight as ll

from .conftest import Server, png
from .test_server import GRADIENT, PNG, names

pytest.importorskip("fastapi", reason="the page's extra 'app' is not installed")
from limelight.server import app as server_app, costs, jobs
from limelight.server.forms import PHOTOGRAPH, Refused, method_forms, read_baseline, read_method

ROOT = Path(__file__).parents[2]
EXPLAIN = "limelight.server.work.explain_question"


class TestBetweenPasses:
    """Work that comes to no pass of the model: an endless loop, and one long operation."""

    @pytest.fixture
    def short(self, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Server:
        monkeypatch.setattr(jobs, "GRACE", 0.5)
        return serve(workers=1, waiting=0, seconds=3)

    def test_a_loop_is_interrupted_and_its_place_is_free(self, short: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        picture, ended = short.upload(png()), threading.Event()

        def loop(*given: Any, **options: Any) -> None:
            try:
                while True:
                    sum(range(100))
            finally:
                ended.set()

        with monkeypatch.context() as patched:
            patched.setattr(EXPLAIN, loop)
            events = short.explain(pictures=[picture], methods=GRADIENT)
            assert events[-1] == ("stopped", {"message": "stopped after 3 seconds"})
        assert ended.is_set()
        assert names(short.explain(pictures=[picture], methods=GRADIENT, tests=False))[-1] == "done"

    def test_an_import_is_not_cut_off(self, short: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A module that is half imported is broken for all who come after."""
        text = "import time\nend = time.monotonic() + 5\nwhile time.monotonic() < end:\n    pass\nwhole = True\n"
        (tmp_path / "imported_slowly.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        picture = short.upload(png())

        def importing(*given: Any, **options: Any) -> None:
            importlib.import_module("imported_slowly")
            while True:
                sum(range(100))

        with monkeypatch.context() as patched:
            patched.setattr(EXPLAIN, importing)
            assert short.explain(pictures=[picture], methods=GRADIENT)[-1][0] == "stopped"
        for _ in range(200):  # the client is told before the import ends
            if hasattr(sys.modules["imported_slowly"], "whole"):
                break
            time.sleep(0.1)
        assert sys.modules.pop("imported_slowly").whole

    def test_a_loop_of_a_client_that_left_is_interrupted(
        self, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "GRACE", 0.5)
        server = serve(workers=1, waiting=0, seconds=60)
        picture, began, ended = server.upload(png()), threading.Event(), threading.Event()

        def loop(*given: Any, **options: Any) -> None:
            began.set()
            try:
                while True:
                    sum(range(100))
            finally:
                ended.set()

        with monkeypatch.context() as patched:
            patched.setattr(EXPLAIN, loop)
            body = json.dumps({"pictures": [picture], "methods": GRADIENT})
            head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
                line.sendall(f"POST /api/explain HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}{body}".encode())
                assert began.wait(30)
            assert ended.wait(30)
        for _ in range(100):  # until the place is free
            events = server.explain(pictures=[picture], methods=GRADIENT)
            if events[0][0] != "refused":
                break
            time.sleep(0.1)
        assert names(events)[-1] == "done"

    def test_a_client_does_not_wait_for_one_long_operation(
        self, short: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        picture, leave = short.upload(png()), threading.Event()

        def long(*given: Any, **options: Any) -> None:
            leave.wait(60)

        with monkeypatch.context() as patched:
            patched.setattr(EXPLAIN, long)
            events = short.explain(pictures=[picture], methods=GRADIENT)
            assert events[-1] == ("stopped", {"message": "stopped after 3 seconds; its last step still ends"})
            assert short.explain(pictures=[picture], methods=GRADIENT)[0][1]["status"] == 429
            leave.set()
            for _ in range(100):  # until the place is free
                if short.explain(pictures=[picture], methods=GRADIENT)[0][0] != "refused":
                    break
                time.sleep(0.1)
        assert names(short.explain(pictures=[picture], methods=GRADIENT, tests=False))[-1] == "done"


class TestCosts:
    def test_a_setting_that_nobody_knows_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever it is called, also inside another method and among several."""

        @dataclass(frozen=True)
        class BrandNew(ll.Gradient):
            """A method of tomorrow."""

            anything: int | tuple[float, ...] = 3

        kinds = (BrandNew, ll.SmoothGrad)
        monkeypatch.setattr("limelight.server.forms.METHODS", kinds)
        method_forms.cache_clear()
        monkeypatch.setattr("limelight.base.named._REGISTRIES", [kinds])
        assert read_method("brand-new", {"anything": "59"}) == BrandNew(59)
        for setting in ("60", "-100", "1e300", "(1, 2, 60)"):  # 60**2 * 3 * 224 * 224 > 2**29
            with pytest.raises(Refused, match=r"brand-new\.anything: .* makes .* numbers at once, and a page may ask"):
                read_method("brand-new", {"anything": setting})
        with pytest.raises(Refused, match="use 59 or less"):
            read_method("brand-new", {"anything": "5000"})
        with pytest.raises(Refused, match=r"brand-new\.anything"):
            read_method("smooth-grad", {"inner": "BrandNew(5000)"})
        method_forms.cache_clear()

    @pytest.mark.parametrize("kind", [*ll.METHODS, *ll.QUADRATURES, *ll.BASELINES, *ll.TARGETS], ids=str)
    def test_defaults_are_far_from_the_bound(self, kind: type[Any]) -> None:
        if kind.has_defaults():
            assert costs.work_of(kind(), PHOTOGRAPH) < costs.MOST_WORK / 4

    def test_what_is_paid_in_rows_is_left_to_the_rows(self) -> None:
        for name, fields in (
            ("smooth-grad", {"samples": "15000"}),
            ("rise", {"masks": "20000"}),
            ("integrated-gradients", {"quadrature": "GaussLegendre(4500)"}),
            ("occlusion", {"window": "40", "stride": "4"}),
        ):
            assert costs.over_budget(read_method(name, fields), PHOTOGRAPH) is None

    def test_the_same_setting_costs_less_for_smaller_inputs(self) -> None:
        assert read_baseline("blur(800)", torch.Size((3, 32, 32))) == ll.Blur(800)
        with pytest.raises(Refused, match=r"blur\.sigma: 800 makes"):
            read_baseline("blur(800)", PHOTOGRAPH)

    @pytest.mark.parametrize("number", ["1e308", "1e-308", str(2**62), "-1e300"])
    def test_no_number_breaks_the_estimate(self, number: str) -> None:
        for form in method_forms():
            for field in form["fields"]:
                with contextlib.suppress(Refused):
                    read_method(form["name"], {field["name"]: number})


class TestPixels:
    def test_pictures_wait_for_those_before_them(
        self, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_app, "PATIENCE", 0.3)
        server, leave = serve(), threading.Event()
        service = server.app.state.service
        service._decoder.submit(leave.wait, 60)
        with ThreadPoolExecutor(1) as people:
            assert server.ask("POST", "/api/pictures", png(), PNG)[0] == 429
            monkeypatch.setattr(server_app, "PATIENCE", 60)
            waiting = people.submit(lambda: server.ask("POST", "/api/pictures", png(), PNG)[0])
            time.sleep(0.3)
            assert not waiting.done()
            leave.set()
            assert waiting.result() == 200
        assert len(service.pictures) == 1  # the one that was refused is not decoded later

    @pytest.mark.long
    def test_eight_large_pictures_at_once_take_the_memory_of_one(self) -> None:
        """Of the process: what a thread freed stays with that thread, and is not seen by Python."""
        done = subprocess.run([sys.executable, "-c", _LARGE], capture_output=True, text=True, cwd=ROOT, check=True)
        one, eight = map(float, done.stdout.split())
        assert one > 100 and eight < one + 60, done.stdout  # MB; a picture has 72 MB


_LARGE = """
import io, threading
from pathlib import Path
from PIL import Image
from limelight.server.app import Limits, Service
from tests.viewer.conftest import small_model

def megabytes(name):
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(name)]
    return int(line.split()[1]) / 1024

service, file = Service(small_model(), Limits()), io.BytesIO()
Image.effect_noise((4900, 4900), 90).convert("RGB").save(file, "JPEG", quality=50)
before = megabytes("VmRSS")
service.decode(file.getvalue())
print(megabytes("VmHWM") - before)
people = [threading.Thread(target=service.decode, args=(file.getvalue(),)) for _ in range(8)]
[each.start() for each in people], [each.join() for each in people]
print(megabytes("VmHWM") - before)
"""

_TRACED = """
import asyncio, sys
from limelight.server.jobs import Queue

async def one():
    queue = Queue(1, 1, 10, 5.0)
    job, _ = queue.start(lambda job: None)
    while await job.events.get() is not None:
        pass
    queue.close()

asyncio.run(one())
sys.setprofile(lambda *event: None)
print(sum(len(str(each)) for each in range(10)), (lambda: "traced")())
"""


@pytest.mark.long
def test_a_job_leaves_nothing_behind_that_hangs_traced_code() -> None:
    """An interruption that is taken back with none sent makes Python 3.11 look for it for ever."""
    done = subprocess.run([sys.executable, "-c", _TRACED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "traced" in done.stdout, done.stderr
