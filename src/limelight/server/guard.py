"""The checks of every request, and the headers of every answer: only this machine's own page may use the server."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
BODY_SECONDS = 30.0

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """An ASGI layer that refuses other pages: by Host where their name resolves to 127.0.0.1 (DNS rebinding), and by
    Origin where they post to this server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = _refusal(Headers(scope=scope))
        if refusal:
            await PlainTextResponse(refusal, 403)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


def _refusal(headers: Headers) -> str:
    """Say why a request is refused; empty for one that is allowed."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or re.sub(r":\d+$", "", hosts[0].lower()) not in OWN_NAMES:
        return f"Host {', '.join(hosts)[:100]!r} is not this machine; open http://127.0.0.1"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{hosts[0]}":
        return f"Origin {origin[:100]!r} is another page"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "requested by another page"
    return ""


async def read_body(request: Request, most: int) -> bytes:
    """Read the body of a request. Raises HTTPException 413 as soon as it has more than `most` bytes, 408 if slow."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > most:
        raise HTTPException(413, f"a body of {declared[:20]} bytes; the most is {most:,}")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise HTTPException(413, f"a body of more than {most:,} bytes, which is the most")
    except TimeoutError as error:
        raise HTTPException(408, f"the body took longer than {BODY_SECONDS:.0f} seconds") from error
    return bytes(body)
