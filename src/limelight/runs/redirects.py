"""Redirects of https to other hosts, which a table or a server could use to reach what only this machine can."""

from __future__ import annotations

from typing import Any

from .tables import need


class RedirectElsewhere(ValueError):
    """A URL redirects to another protocol, host or port."""


def refusing() -> Any:
    """Return an `aiohttp.TraceConfig` that raises RedirectElsewhere before a redirect to another site is followed."""
    aiohttp = need("aiohttp", "cloud", "a URL of https")
    yarl = need("yarl", "cloud", "a URL of https")

    async def check(session: Any, context: Any, redirect: Any) -> None:
        headers = redirect.response.headers
        place = headers.get("Location") or headers.get("URI") or ""
        to = redirect.url.join(yarl.URL(place))
        if to.origin() != redirect.url.origin():
            redirect.response.close()
            raise RedirectElsewhere(
                f"{str(redirect.url)!r} redirects to {str(to.origin())!r}; a run whose sources you trust may follow it "
                "with --elsewhere (elsewhere=True)"
            )

    config = aiohttp.TraceConfig()
    config.on_request_redirect.append(check)
    return config
