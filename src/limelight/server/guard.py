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
    Origin where they post to this server. `public` is the page's origin behind a reverse proxy, if it has one."""

    def __init__(self, app: ASGIApp, public: str = "") -> None:
        self._app = app
        self._public = public

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

        refusal = _refusal(Headers(scope=scope), self._public)
        if refusal:
            await PlainTextResponse(refusal, 403)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


def require_origin(text: str) -> str:
    """Return the origin of a public page as browsers write it. Raises ValueError for anything else than an origin."""
    found = re.fullmatch(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?", text.lower())
    if found is None:
        raise ValueError(
            f"--public {text!r}: use the page's address without a path, such as https://limelight.example.org"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + (f":{port}" if port and port != {"http": "80", "https": "443"}[scheme] else "")


def _refusal(headers: Headers, public: str) -> str:
    """Say why a request is refused; empty for one that is allowed."""
    hosts = headers.getlist("host")
    host = hosts[0].lower() if len(hosts) == 1 else ""
    if host and public.partition("://")[2] == host:
        own = public
    elif re.sub(r":\d+$", "", host) in OWN_NAMES:
        own = f"http://{hosts[0]}"
    else:
        use = f"open {public or 'http://127.0.0.1'}"
        return f"Host {', '.join(hosts)[:100]!r} is not this machine" + (" or its proxy" if public else "") + f"; {use}"
    origin = headers.get("origin")
    if origin is not None and origin != own:
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
