"""The viewer's files, which reports carry inside and the page asks for by name."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

MODULES = ("numbers.js", "colours.js", "elements.js", "cell.js", "viewer.js")
"""The viewer's modules, each after those it imports."""


@cache
def asset(name: str) -> str:
    """The text of a file of the viewer."""
    return (files(__package__) / "viewer" / name).read_text(encoding="utf-8")


@cache
def viewer_script() -> str:
    """All modules as one, which turns every waiting element of its page into a viewer.

    A page opened from disk may not import modules from beside itself, so they stand one after another without their
    imports of each other.
    """
    parts = [re.sub(r"^import \{[^}]*\} from \"\./[a-z]+\.js\";\n", "", asset(name), flags=re.M) for name in MODULES]
    return "\n".join([*parts, "mountAll();\n"])


def script_hash(script: str) -> str:
    """A script as a Content-Security-Policy names it; nothing else on its page may run."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
