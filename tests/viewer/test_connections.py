"""Clients that hold connections: half of a head, half of a body, an answer that nobody reads. Real sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from .conftest import Server, png

pytest.importorskip("fastapi", reason="the page's extra 'app' is not installed")
from limelight.server import connections, guard

HALF = b"GET /api/form HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture
def impatient(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that waits a second for heads, bodies and readers."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(connections, "READING_SECONDS", 1.0)
    monkeypatch.setattr(guard, "BODY_SECONDS", 1.0)
    return serve()


@contextlib.contextmanager
def line_to(server: Server, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(sent)
        yield line


def closed(line: socket.socket) -> bool:
    """Read until the server closes the connection; False if it doesn't within the socket's timeout."""
    try:
        while line.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass  # reset
    return True


def test_half_open_heads_do_not_hold_the_page(impatient: Server) -> None:
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(line_to(impatient, HALF)) for _ in range(230)]
        assert all(map(closed, lines))
    assert impatient.ask("GET", "/api/form")[0] == 200


@pytest.mark.parametrize("head", [b"", HALF, b"GET /api/form HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + HALF])
def test_a_head_that_dribbles_in_is_not_waited_for(impatient: Server, head: bytes) -> None:
    """Each byte begins no new time; nor does an answer before it give the next head more than its own."""
    with line_to(impatient, head) as line:
        began = time.monotonic()
        with pytest.raises(OSError):
            while True:
                assert time.monotonic() - began < 20, "the connection is held"
                line.sendall(b"x")
                time.sleep(0.05)


@pytest.mark.parametrize("path", ["/api/pictures", "/api/explain", "/api/demo"])
def test_a_body_that_dribbles_in_is_not_waited_for(impatient: Server, path: str) -> None:
    kind = "image/png" if path == "/api/pictures" else "application/json"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 60000\r\n\r\n"
    with line_to(impatient, head.encode()) as line:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 20:
                line.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - began < 20, "the connection is held"
    impatient.upload(png())


def test_an_answer_that_nobody_reads_is_given_up(impatient: Server) -> None:
    impatient.app.state.service.model.labels = tuple("x" * 1_000_000 for _ in range(6))  # 6 MB, more than is buffered
    ask = b"GET /api/form HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with line_to(impatient, ask) as line:
        time.sleep(3)
        assert closed(line)
        read = 0
    with line_to(impatient, ask.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as line:
        while piece := line.recv(1_000_000):
            read += len(piece)
    assert read > 6_000_000


def test_a_connection_stays_for_several_requests(impatient: Server) -> None:
    ask = b"GET /viewer/page.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with line_to(impatient) as line:
        for _ in range(4):
            line.sendall(ask)
            time.sleep(0.5)
            assert line.recv(100).startswith(b"HTTP/1.1 200")
            line.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while line.recv(65536):
                    pass
            line.setblocking(True)
