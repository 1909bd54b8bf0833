"""The running server against everything that viewer.md's list of dangers names."""

from __future__ import annotations

import io
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from PIL import Image

import limelight as ll

from .conftest import CLASSES, HOSTILE, SIDE, WORK, Server, png, rows_at_rest, small_model

pytest.importorskip("fastapi", reason="the page's extra 'app' is not installed")
from limelight.evaluation import quick_checks
from limelight.server.forms import Refused, method_forms, read_method

JSON = {"content-type": "application/json"}
PNG = {"content-type": "image/png"}
GRADIENT = [{"name": "gradient"}]


def alive(server: Server) -> None:
    assert server.ask("GET", "/api/form")[0] == 200


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def names(events: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [name for name, _ in events if name != "progress"]


class TestAnswers:
    def test_a_question_is_answered_map_by_map(self, server: Server) -> None:
        picture = server.upload(png())
        events = server.explain(pictures=[picture], methods=[*GRADIENT, {"name": "grad-cam"}], classes=[2])
        each = ["begun", "map", "card"]
        assert names(events) == ["queued", "prediction", *each, *each, "summary", "done"]
        shown = next(data["map"] for name, data in events if name == "map")
        status, headers, body = server.ask("GET", shown["url"])
        assert status == 200 and headers["content-disposition"] == "attachment"
        from safetensors.torch import load

        x = small_model().preprocess(ll.open_image(png()))
        expected = ll.explain(small_model(), x, ll.Gradient(), target=2)
        torch.testing.assert_close(load(body)["values"], expected.values, rtol=1e-5, atol=1e-8)
        limit = dict((p, v) for p, v, _ in shown["limits"])[99.5]
        assert limit == pytest.approx(ll.show.scale_of(expected.viewed()[0]).limit, rel=1e-5)

    def test_the_tests_of_a_map_on_demand(self, server: Server) -> None:
        """They are those of the library on the same map, and the row is summed up with them."""
        picture = server.upload(png())
        methods = [{"name": "integrated-gradients"}, {"name": "grad-cam"}]
        events = server.explain(pictures=[picture], methods=methods, classes=[2], tests=False)
        cards = [data for name, data in events if name == "card"]
        assert [(each["more"], each["card"]["sections"]) for each in cards] == [(True, []), (True, [])]
        (first,) = (data["summary"] for name, data in events if name == "summary")
        assert first["held"] == [] and "class number 2 (2)" in first["said"] + first["explained"]
        ids = [data["map"]["id"] for name, data in events if name == "map"]
        again = server.explain(_path="/api/tests", map=ids[0], row=ids)
        (card,) = (data for name, data in again if name == "card")
        x = small_model().preprocess(ll.open_image(png()))
        panel = ll.explain(small_model(), x, [ll.IntegratedGradients(), ll.GradCAM()], target=2)
        expected = quick_checks(small_model(), panel, budget=4000)["integrated-gradients"]
        entries = [entry for section in card["card"]["sections"] for entry in section["entries"] if entry[1]]
        assert {entry[1] for entry in entries} == {each.name for each in expected} and not card["more"]
        assert {entry[1]: entry[0] for entry in entries if entry[0] != "-"} == {
            each.name: each.verdict for each in expected if each.passed is not None
        }
        (summary,) = (data["summary"] for name, data in again if name == "summary")
        assert sum(len(titles) for _, titles in summary["held"]) == 2
        assert server.explain(_path="/api/tests", map="gone", row=[])[0][1]["status"] == 404
        assert server.explain(_path="/api/tests", map=ids[0], row=["x"] * 17)[0][1]["status"] == 422

    def test_every_method_is_on_the_page_with_its_fields(self) -> None:
        forms = method_forms()
        assert [each["name"] for each in forms] == [each.kebab() for each in ll.METHODS]
        for form, kind in zip(forms, ll.METHODS, strict=True):
            assert read_method(form["name"], {each["name"]: each["default"] for each in form["fields"]}) == kind()
        fields = {each["name"]: each for each in next(f for f in forms if f["name"] == "smooth-grad")["fields"]}
        assert fields["samples"] == {
            "name": "samples",
            "default": "32",
            "kind": "number",
            "whole": True,
            "optional": False,
        }
        assert fields["antithetic"]["kind"] == "switch"

    def test_a_new_method_needs_no_page_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class BrandNew(ll.Gradient):
            """A method of tomorrow."""

            width: int = 3

        monkeypatch.setattr("limelight.server.forms.METHODS", (BrandNew,))
        method_forms.cache_clear()
        (form,) = method_forms()
        method_forms.cache_clear()
        assert (form["name"], form["summary"], form["fields"][0]["name"]) == (
            "brand-new",
            "A method of tomorrow",
            "width",
        )
        assert read_method("brand-new", {"width": "5"}) == BrandNew(5)

    def test_a_view_is_what_the_map_begins_with(self, server: Server) -> None:
        question = {"pictures": [server.upload(png())], "methods": GRADIENT, "tests": False}
        own, blocks = (
            next(data["map"] for name, data in server.explain(**question, view=view) if name == "map")
            for view in ("", "signed(blocks=4, percentile=90)")
        )
        assert own["view"] == {"reduce": "magnitude", "smooth": 0.015, "blocks": 1}
        assert blocks["view"] == {"reduce": "signed", "smooth": 0.0, "blocks": 4}
        assert own["values"] == blocks["values"] and own["limits"] != blocks["limits"]

    def test_brightness_keeps_the_class_and_shows_both_answers(self, server: Server) -> None:
        picture = server.upload(png())
        plain = server.explain(pictures=[picture], methods=GRADIENT, tests=False)
        bright = server.explain(pictures=[picture], methods=GRADIENT, tests=False, shift=0.3)
        first, second = (next(data for name, data in each if name == "prediction") for each in (plain, bright))
        assert first["plain"] is None and second["plain"] == first["top"] != second["top"]
        model, index = small_model(), first["top"][0]["class"]
        x = model.preprocess(ll.open_image(png()))
        shown = next(data["map"] for name, data in bright if name == "map")
        expected = ll.explain(model, x + 0.3, "gradient", target=index).viewed()[0]
        assert dict((p, v) for p, v, _ in shown["limits"])[100] == pytest.approx(float(expected.abs().max()), rel=1e-5)

    def test_a_method_that_fails_says_why_and_the_others_go_on(self, server: Server) -> None:
        methods = [{"name": "pattern-net"}, *GRADIENT]
        events = server.explain(pictures=[server.upload(png())], methods=methods, tests=False)
        assert names(events) == ["queued", "prediction", "begun", "failed", "begun", "map", "card", "summary", "done"]
        assert "patterns" in next(data["message"] for name, data in events if name == "failed")

    def test_pictures_are_turned_upright(self, server: Server) -> None:
        image = Image.open(io.BytesIO(png(3, (48, 48))))
        turned = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 270 degrees
        answers = []
        for data in (encoded(image, "PNG"), encoded(turned, "PNG", exif=exif)):
            status, _, body = server.ask("POST", "/api/pictures", data, PNG)
            assert status == 200
            answers.append(json.loads(body))
        assert answers[0]["picture"] == answers[1]["picture"]
        assert any("upright" in note for note in answers[1]["notes"])

    def test_the_part_of_a_picture_that_the_model_sees_is_told(self, server: Server) -> None:
        status, _, body = server.ask("POST", "/api/pictures", png(1, (1000, 800)), PNG)
        assert status == 200
        seen = f"the middle {SIDE} x {SIDE} of 1000 x 800 pixels resized to {SIDE * 1000 // 800} x {SIDE}"
        assert json.loads(body)["notes"][0] == seen

    def test_two_people_at_once_get_their_own_maps_from_one_model(self, serve: Callable[..., Server]) -> None:
        server = serve(workers=2, waiting=8, uploads=8)
        seeds = range(8)
        ids = [server.upload(png(seed)) for seed in seeds]
        model = small_model()

        def limit(place: int) -> float:
            question = {"pictures": [ids[place]], "methods": [{"name": "smooth-grad", "fields": {"samples": "8"}}]}
            events = server.explain(**question, classes=[place % CLASSES], tests=False)
            shown = next(data["map"] for name, data in events if name == "map")
            return float(dict((p, v) for p, v, _ in shown["limits"])[99.5])

        with ThreadPoolExecutor(8) as people:
            found = list(people.map(limit, seeds))
        for seed, each in zip(seeds, found, strict=True):
            x = model.preprocess(ll.open_image(png(seed)))
            own = ll.explain(model, x, ll.SmoothGrad(samples=8), target=seed % CLASSES).viewed()[0]
            assert each == pytest.approx(ll.show.scale_of(own).limit, rel=1e-4)
        assert len({round(each, 12) for each in found}) == len(found)

    def test_the_model_is_loaded_once(self, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
        loads = []
        monkeypatch.setattr("limelight.models.catalogue.load_model", lambda *args, **options: loads.append(args))
        server = serve()
        for seed in range(3):
            server.explain(pictures=[server.upload(png(seed))], methods=GRADIENT)
        assert loads == []


class TestBodies:
    def test_too_large_by_its_own_word(self, serve: Callable[..., Server]) -> None:
        server = serve(body=10_000)
        assert server.ask("POST", "/api/pictures", None, {**PNG, "content-length": "10001"})[0] == 413
        alive(server)

    def test_too_large_in_chunks_is_stopped_early(self, serve: Callable[..., Server]) -> None:
        server = serve(body=100_000)
        sent = 0
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
            line.sendall(
                b"POST /api/pictures HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            try:
                for _ in range(2000):  # 20 MB, if it were let
                    line.sendall(b"2710\r\n" + b"a" * 10_000 + b"\r\n")
                    sent += 10_000
            except OSError:
                pass
            answer = b""
            try:
                answer = line.recv(1000)
            except OSError:
                assert sent < 20_000_000  # reset while sending: it stopped listening
        assert answer == b"" or b" 413 " in answer
        assert answer or sent < 20_000_000
        alive(server)

    def test_a_question_too_long(self, server: Server) -> None:
        assert server.ask("POST", "/api/explain", b"[" * 70_000, JSON)[0] == 413

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[" * 60_000, b"null", b'{"pictures": 3}', b"\xff\xfe", b'{"a": 1e999}']
    )
    def test_no_question_at_all(self, server: Server, body: bytes) -> None:
        assert server.ask("POST", "/api/explain", body, JSON)[0] == 422
        alive(server)

    @pytest.mark.parametrize("kind", ["text/html", "multipart/form-data; boundary=x", "image/svg+xml", "image/gif", ""])
    def test_other_types_are_refused(self, server: Server, kind: str) -> None:
        assert server.ask("POST", "/api/pictures", png(), {"content-type": kind})[0] == 415

    def test_a_question_must_be_json(self, server: Server) -> None:
        """What a form on another page can send without asking first."""
        assert server.ask("POST", "/api/explain", b"{}", {"content-type": "text/plain"})[0] == 415


class TestPictures:
    @pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
    def test_other_formats_called_png(self, server: Server, kind: str) -> None:
        status, _, body = server.ask("POST", "/api/pictures", encoded(Image.new("RGB", (16, 16)), kind), PNG)
        assert status == 415 and b"PNG, JPEG, WEBP" in body

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_the_three_are_read(self, server: Server, kind: str) -> None:
        server.upload(encoded(Image.open(io.BytesIO(png())), kind), f"image/{kind.lower()}")

    @pytest.mark.parametrize(
        "body", [b"", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n", png()[:300], b"http://127.0.0.1/a.png"]
    )
    def test_no_picture_at_all(self, server: Server, body: bytes) -> None:
        assert server.ask("POST", "/api/pictures", body, PNG)[0] == 415
        alive(server)

    @pytest.mark.parametrize("side", [7_000, 12_000, 60_000])
    def test_a_bomb_is_seen_in_its_header(self, server: Server, side: int) -> None:
        """A few bytes that say they are 49, 144 and 3,600 megapixels; Pillow warns at 89 and refuses at 179."""

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
            + chunk(b"IEND", b"")
        )
        began = time.perf_counter()
        status, _, body = server.ask("POST", "/api/pictures", bomb, PNG)
        assert status == 415 and (b"megapixels" in body or b"pixels" in body)
        assert time.perf_counter() - began < 2

    def test_what_is_sent_back_is_encoded_anew(self, server: Server) -> None:
        from PIL.PngImagePlugin import PngInfo

        words = PngInfo()
        words.add_text("comment", "<script>alert(1)</script>")
        data = encoded(Image.open(io.BytesIO(png())), "PNG", pnginfo=words) + b"<script>trailing</script>"
        _, _, body = server.ask("POST", "/api/pictures", data, PNG)
        import base64

        back = base64.b64decode(json.loads(body)["picture"]["src"].split(",")[1])
        assert b"script" not in back and Image.open(io.BytesIO(back)).size == (SIDE, SIDE)


class TestNames:
    @pytest.mark.parametrize(
        "path",
        [
            "/viewer/../../../pyproject.toml",
            "/viewer/..%2f..%2fhtml.py",
            "/viewer/%2e%2e/html.py",
            "/viewer/....//html.py",
            "/viewer//etc/passwd",
            "/viewer/page.html%00.js",
            "/viewer/index.js/..",
            "/viewer/__init__.py",
            "/api/maps/..%2f..%2fetc%2fpasswd",
            "/api/maps/../form",
            "/api/maps/x.safetensors",
            "/docs",
            "/openapi.json",
        ],
    )
    def test_no_other_file_is_served(self, server: Server, path: str) -> None:
        assert server.ask("GET", path)[0] == 404

    def test_pictures_are_known_by_ids_alone(self, server: Server) -> None:
        for name in ("../../etc/passwd", "/etc/passwd", "http://127.0.0.1/", "0", "file:///etc/passwd"):
            ((event, data),) = server.explain(pictures=[name], methods=GRADIENT)
            assert event == "refused" and data["status"] in (404, 422)

    def test_ids_cannot_be_guessed(self, server: Server) -> None:
        first, second = server.upload(png(1)), server.upload(png(1))
        assert first != second and len(first) >= 20

    @pytest.mark.parametrize(
        ("name", "fields"),
        [
            ("pattern-net", {"patterns": "/etc/passwd"}),
            ("smooth-grad", {"inner": "PatternNet(patterns='/etc/passwd')"}),
            ("smooth-grad", {"inner": "__import__('os').system('true')"}),
            ("smooth-grad", {"samples": "10**9"}),
            ("smooth-grad", {"noise": "nan"}),
            ("smooth-grad", {"noise": "1e999"}),
            ("smooth-grad", {"inner": "SmoothGrad(" * 20 + ")" * 20}),
            ("integrated-gradients", {"quadrature": "GaussLegendre(1000000)"}),
            ("kernel-shap", {"players": "Pixels()"}),
            ("kernel-shap", {"players": "Grid(500)"}),
            ("kernel-shap", {"players": "Slic(sigma=900.0)"}),
            ("extremal-perturbation", {"levels": "1500", "steps": "2"}),
            ("extremal-perturbation", {"sigma": "900", "steps": "2"}),
            ("extremal-perturbation", {"step": "1", "steps": "2"}),
            ("extremal-perturbation", {"blur": "5000", "steps": "2"}),
            ("extremal-perturbation", {"areas": str((0.1,) * 40)}),
            ("xrai", {"dilation": "1000"}),
            ("kernel-shap", {"players": "Slic(5000)"}),
            ("kernel-shap", {"players": "Felzenszwalb(min_size=1)"}),
            ("blur-integrated-gradients", {"max_sigma": "5000"}),
            ("idgi", {"inner": "BlurIntegratedGradients(max_sigma=5000.0)"}),
            ("lrp", {"composite": "/etc/passwd"}),
            ("lrp", {"rules": "()"}),
            ("gradient", {"no": "1"}),
            ("../gradient", {}),
        ],
    )
    def test_no_file_no_code_no_giant_in_a_field(self, name: str, fields: dict[str, str]) -> None:
        with pytest.raises(Refused):
            read_method(name, fields)

    def test_a_refusal_names_the_field_and_what_would_have_worked(self) -> None:
        with pytest.raises(Refused, match=r"extremal-perturbation\.levels: 1500 makes 2e\+09 numbers at once"):
            read_method("extremal-perturbation", {"levels": "1500"})
        with pytest.raises(Refused, match="use 445 or less"):  # 2 * levels * 4 areas * 3 * 224 * 224 < 2**29
            read_method("extremal-perturbation", {"levels": "1500"})
        with pytest.raises(Refused, match=r"extremal-perturbation\.step: 1 makes .*; use 2 or more"):
            read_method("extremal-perturbation", {"step": "1"})
        with pytest.raises(Refused, match="areas: 9 values are more than a page may ask for; use up to 8"):
            read_method("extremal-perturbation", {"areas": str((0.1,) * 9)})
        widest = {"levels": "32", "sigma": "40", "step": "4", "blur": "100", "areas": str((0.1,) * 8)}
        expected = ll.ExtremalPerturbation((0.1,) * 8, step=4, sigma=40, levels=32, blur=100)
        assert read_method("extremal-perturbation", widest) == expected

    def test_labels_that_utf_8_cannot_write(self, serve: Callable[..., Server]) -> None:
        model = small_model()
        model.labels = ("\ud800 and \x00", *model.labels[1:])
        server = serve(model)
        assert json.loads(server.ask("GET", "/api/form")[2])["labels"][0] == "\ud800 and \x00"
        events = server.explain(pictures=[server.upload(png())], methods=GRADIENT, classes=[0])
        assert names(events)[-1] == "done"

    def test_labels_travel_as_data(self, server: Server) -> None:
        status, headers, body = server.ask("GET", "/api/form")
        assert status == 200 and headers["content-type"] == "application/json"
        assert json.loads(body)["labels"][0] == HOSTILE


class TestHosts:
    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::1]evil"]
    )
    def test_another_host_is_refused(self, server: Server, host: str) -> None:
        for method, path in (("GET", "/"), ("GET", "/api/form"), ("POST", "/api/demo")):
            assert server.ask(method, path, None, {"host": host})[0] == 403

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "LOCALHOST:80", "[::1]:80"])
    def test_this_machines_names_are_its_own(self, server: Server, host: str) -> None:
        assert server.ask("GET", "/", None, {"host": host})[0] == 200

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "https://127.0.0.1"])
    def test_another_origin_is_refused(self, server: Server, origin: str) -> None:
        assert server.ask("POST", "/api/pictures", png(), {**PNG, "origin": origin})[0] == 403

    def test_its_own_origin_is_not(self, server: Server) -> None:
        assert server.ask("POST", "/api/pictures", png(), {**PNG, "origin": server.url})[0] == 200

    def test_a_page_elsewhere_may_not_even_look(self, server: Server) -> None:
        assert server.ask("GET", "/api/form", None, {"sec-fetch-site": "cross-site"})[0] == 403

    def test_one_host_and_no_more(self, server: Server) -> None:
        for head in (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
                line.sendall(head)
                assert line.recv(1000).split()[1] in (b"400", b"403")

    @pytest.mark.parametrize("verb", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "POST"])
    def test_other_verbs_are_refused_and_nothing_is_allowed_to_others(self, server: Server, verb: str) -> None:
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        for path in ("/", "/api/form", "/api/maps/x.safetensors", "/viewer/page.js"):
            status, headers, _ = server.ask(verb, path, None, asks)
            assert status == 405 and headers["x-content-type-options"] == "nosniff"
            assert not [name for name in headers if name.startswith("access-control")]
        assert server.ask("GET", "/api/explain")[0] == server.ask("GET", "/api/pictures")[0] == 405

    def test_no_websockets(self, server: Server) -> None:
        upgrade = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
        upgrade["sec-websocket-key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        assert server.ask("GET", "/api/nothing", None, upgrade)[0] in (403, 404, 500)
        alive(server)

    def test_every_answer_forbids_what_the_page_does_not_need(self, server: Server) -> None:
        for path in ("/", "/viewer/page.js", "/api/form", "/nothing"):
            _, headers, _ = server.ask("GET", path)
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        _, headers, _ = server.ask("GET", "/", None, {"host": "evil.example"})
        assert headers["x-content-type-options"] == "nosniff"


class TestWork:
    def test_too_much_is_refused_before_it_begins(self, server: Server) -> None:
        picture = server.upload(png())
        asked = {"name": "smooth-grad", "fields": {"samples": "5000"}}
        before = WORK.rows
        ((event, data),) = server.explain(pictures=[picture], methods=[asked])
        assert event == "refused" and data["status"] == 422 and "4,000" in data["detail"]
        for question in (
            {"methods": [asked] * 17},
            {"methods": []},
            {"pictures": [picture] * 5},
            {"pictures": []},
            {"classes": list(range(9))},
            {"classes": [-1]},
            {"shift": 2},
            {"baseline": "nan"},
            {"baseline": "-1.5"},
            {"baseline": "2.5"},
            {"baseline": "noise(samples=5000000)"},
            {"baseline": "blur(50000)"},
            {"target": "mrgin(1)"},
            {"view": "signd"},
            {"view": "signed(bands=[4])"},
            {"arithmetic": "fast"},
            {"layer": "no.such.layer"},
            {"methods": [{"name": "occlusion", "fields": {"stride": "(1,)"}}]},
            {"methods": [{"name": "smooth-grad", "fields": {"inner": "Occlusion(window=(9, 9, 9))"}}]},
            {"model": "torchvision:resnet18"},
        ):
            ((event, data),) = server.explain(**{"pictures": [picture], "methods": GRADIENT, **question})
            assert event == "refused" and data["status"] == 422, question
        assert WORK.rows == before

    def test_targets_and_baselines_are_read_from_text(self, server: Server) -> None:
        picture = server.upload(png())
        for question in (
            {"baseline": "blur(2)"},
            {"baseline": "-1"},
            {"arithmetic": "plain"},
            {"target": "margin(1, other=0)"},
        ):
            events = server.explain(pictures=[picture], methods=GRADIENT, **question)
            assert names(events)[-1] == "done" and "map" in names(events), question
        begun = next(data for event, data in events if event == "begun")
        assert begun["target"] == f"class number 1 (1) rather than {HOSTILE} (0)"

    def test_work_of_unknown_size_stops_at_the_limit(self, serve: Callable[..., Server]) -> None:
        server = serve(rows=33)  # the first 32 nodes fit, but f(x) and f(baseline) come on top
        unknown = {"name": "integrated-gradients", "fields": {"tolerance": "1e-12", "most_nodes": "5000"}}
        events = server.explain(pictures=[server.upload(png())], methods=[unknown], tests=False)
        assert events[-1][0] == "stopped" and "33" in events[-1][1]["message"]
        assert names(server.explain(pictures=[server.upload(png())], methods=GRADIENT))[-1] == "done"

    def test_work_that_takes_too_long_stops(self, serve: Callable[..., Server]) -> None:
        server = serve(seconds=0.5)
        picture = server.upload(png())
        WORK.pause = 0.1
        began = time.perf_counter()
        events = server.explain(pictures=[picture], methods=[{"name": "smooth-grad", "fields": {"samples": "1000"}}])
        assert events[-1][0] == "stopped" and "seconds" in events[-1][1]["message"]
        assert time.perf_counter() - began < 5

    def test_fifty_uploads_at_once(self, serve: Callable[..., Server]) -> None:
        """A few are let in, the others are told to come back, and everybody gets in who does."""
        server = serve(uploads=4)
        data = png(size=(1200, 1000))
        gate = threading.Barrier(50)

        def upload(_: int) -> int:
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
                line.settimeout(30)
                head = (
                    "POST /api/pictures HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
                    f"Content-Length: {len(data)}\r\n\r\n"
                )
                gate.wait(20)
                try:
                    line.sendall(head.encode() + data[:1000])
                    time.sleep(0.5)  # all of them are on their way
                    line.sendall(data[1000:])
                except OSError:
                    pass  # turned away while still sending
                try:
                    return int(line.recv(100).split()[1])
                except (OSError, IndexError):
                    return 0  # reset behind the answer, because nobody read the body

        with ThreadPoolExecutor(50) as people:
            found = list(people.map(upload, range(50)))
        assert set(found) <= {200, 429, 0} and found.count(200) >= 4 and found.count(429) >= 1, found
        server.upload(data)

    def test_a_full_queue_turns_away(self, serve: Callable[..., Server]) -> None:
        server = serve(workers=1, waiting=2)
        picture = server.upload(png())
        WORK.pause = 0.05
        question = {
            "pictures": [picture],
            "methods": [{"name": "smooth-grad", "fields": {"samples": "64"}}],
            "tests": False,
        }
        with ThreadPoolExecutor(10) as people:
            found = list(people.map(lambda _: server.explain(**question), range(10)))
        last = [events[-1] for events in found]
        refused = [data["status"] for name, data in last if name == "refused"]
        assert refused == [429] * 7 and [name for name, _ in last].count("done") == 3

    def test_a_client_that_hangs_up_stops_its_work_and_frees_its_place(self, serve: Callable[..., Server]) -> None:
        server = serve(workers=1, waiting=0)
        picture = server.upload(png())
        WORK.pause, before = 0.05, WORK.rows
        question = {
            "pictures": [picture],
            "methods": [{"name": "smooth-grad", "fields": {"samples": "2000"}}],
            "tests": False,
        }
        body = json.dumps(question).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
            line.sendall(
                b"POST /api/explain HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            while b"event: progress" not in line.recv(100_000):
                pass
            assert server.explain(**question)[0][1]["status"] == 429
        assert rows_at_rest() - before < 2000, "the model ran on"
        WORK.pause = 0.0
        assert names(server.explain(pictures=[picture], methods=GRADIENT))[-1] == "done"

    def test_more_maps_than_are_kept_are_refused(self, serve: Callable[..., Server]) -> None:
        """Else the first would be gone before the last is made, and its download with it."""
        server = serve(maps=5)
        question = {"pictures": [server.upload(png())], "methods": [*GRADIENT, {"name": "grad-cam"}]}
        ((event, data),) = server.explain(**question, classes=[0, 1, 2])
        assert (event, data["status"]) == ("refused", 422) and "6 maps; the server keeps 5" in data["detail"]
        events = server.explain(**question, classes=[0, 1], tests=False)
        urls = [data["map"]["url"] for name, data in events if name == "map"]
        assert [server.ask("GET", url)[0] for url in urls] == [200] * 4

    def test_who_waits_too_long_is_told(self, serve: Callable[..., Server]) -> None:
        """Two work for the whole of their time; the third leaves when it has waited as long as one may work."""
        server = serve(workers=1, waiting=2, seconds=1.5)
        picture = server.upload(png())
        WORK.pause = 0.05
        long = {"pictures": [picture], "methods": [{"name": "smooth-grad", "fields": {"samples": "2000"}}]}
        with ThreadPoolExecutor(3) as people:
            first = people.submit(lambda: server.explain(**long))
            time.sleep(0.2)
            second = people.submit(lambda: server.explain(**long))
            time.sleep(0.2)
            third = people.submit(lambda: server.explain(pictures=[picture], methods=GRADIENT, tests=False))
            assert [each.result()[-1][0] for each in (first, second)] == ["stopped"] * 2
            assert third.result() == [
                ("queued", {"before": 2}),
                ("stopped", {"message": "waited too long for its turn; try again"}),
            ]
        WORK.pause = 0.0
        assert names(server.explain(pictures=[picture], methods=GRADIENT))[-1] == "done"

    def test_a_fault_of_ours_is_told_and_frees_the_place(
        self, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[Any] = []
        monkeypatch.setattr("threading.excepthook", told.append)  # what prints the traceback
        server = serve(workers=1, waiting=0)
        picture = server.upload(png())

        def broken(*args: Any, **options: Any) -> None:
            raise KeyError("a fault")

        with monkeypatch.context() as patched:
            patched.setattr("limelight.server.work.explain_question", broken)
            assert server.explain(pictures=[picture], methods=GRADIENT)[-1] == (
                "stopped",
                {"message": "limelight failed; its server's standard error says how"},
            )
        assert [str(each.exc_value) for each in told] == ["'a fault'"]
        assert names(server.explain(pictures=[picture], methods=GRADIENT))[-1] == "done"

    def test_old_pictures_and_maps_make_room(self, serve: Callable[..., Server]) -> None:
        server = serve(pictures=3, maps=2)
        ids = [server.upload(png(seed)) for seed in range(4)]
        service = server.app.state.service
        assert len(service.pictures) == 3
        assert server.explain(pictures=[ids[0]], methods=GRADIENT)[0][1]["status"] == 404
        for each in ids[1:]:
            server.explain(pictures=[each], methods=GRADIENT, tests=False)
        assert len(service.maps) == 2


def test_the_command_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from typer.testing import CliRunner

    from limelight.cli.main import app

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 1 and "limelight[app]" in result.stderr


def serving(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "limelight", "serve", "--model", "tests.viewer.conftest:small_model", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e308", "0"])
def test_a_time_that_no_clock_counts_to_is_refused(seconds: str) -> None:
    from typer.testing import CliRunner

    from limelight.cli.main import app

    made = CliRunner().invoke(app, ["serve", "--seconds", seconds, "--model", "nowhere"])
    assert made.exit_code == 2 and "--seconds" in made.stderr


def test_a_port_that_is_taken_is_one_line(server: Server) -> None:
    with serving("--port", str(server.port)) as command:
        out, err = command.communicate(timeout=60)
    assert command.returncode == 1 and not out
    assert err.count("\n") == 1 and f"--port {server.port}: Address already in use" in err and "0 for a free one" in err


def test_an_interrupt_ends_the_command_at_once_in_the_middle_of_work() -> None:
    with serving("--port", "0") as command:
        assert command.stderr is not None
        line = command.stderr.readline()
        server = Server(int(line.split(":")[3].split()[0]), None)
        picture = server.upload(png())
        long = {"name": "smooth-grad", "fields": {"samples": "5000", "inner": "IntegratedGradients(Midpoint(3))"}}
        with ThreadPoolExecutor(1) as people:
            answer = people.submit(lambda: server.explain(pictures=[picture], methods=[long]))
            time.sleep(0.5)
            command.send_signal(signal.SIGINT)
            command.wait(20)
            last = answer.result()[-1]
        assert command.returncode == 130
        assert last == ("stopped", {"message": "cancelled"})  # in the middle, whatever else the machine was doing
