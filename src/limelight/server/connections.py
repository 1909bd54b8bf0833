"""Connections that nobody can hold: a request's head must come in time, and an answer must be read.

uvicorn limits how long it waits between requests, but not for the rest of a request's head, nor for a client that
reads nothing of its answer; `guard.read_body` limits bodies.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # from the connection's begin, or the answer before, to the end of a request's head
READING_SECONDS = 30.0  # in which a client reads nothing of an answer that waits for it
CONNECTIONS = 200  # beyond them requests are answered with 503, and beyond twice as many connections are closed


class TimedConnection(H11Protocol):
    """A connection that is closed when a head or the reading of an answer takes too long."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > 2 * CONNECTIONS:
            transport.abort()
        else:
            self._time_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._time_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(READING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _stop(self._reading)
        self._reading = None

    def connection_lost(self, exc: Exception | None) -> None:
        _stop(self._head)
        _stop(self._reading)
        super().connection_lost(exc)

    def _time_head(self) -> None:
        """Time the head that is awaited, from where its time began; none is during a request."""
        if self.cycle is not None and not self.cycle.response_complete:
            _stop(self._head)
            self._head = None
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def configured(app: FastAPI, **options: Any) -> uvicorn.Config:
    """Return the settings of a server for the app; `options` are uvicorn's own."""
    settings: dict[str, Any] = {
        "http": TimedConnection,
        "ws": "none",
        "log_level": "warning",
        "server_header": False,
        "proxy_headers": False,  # nothing here depends on the client's address
        "timeout_keep_alive": 5,
        "timeout_graceful_shutdown": 3,
        "limit_concurrency": CONNECTIONS,
    }
    return uvicorn.Config(app, **settings | options)
