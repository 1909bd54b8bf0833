"""The viewer's files, which reports contain and the live page loads by name."""

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
    """Read a file of the viewer."""
    return (files(__package__) / "viewer" / name).read_text(encoding="utf-8")


@cache
def viewer_script() -> str:
    """Join all modules to one script, which turns every waiting element of its page into a viewer.

    A page opened from disk may not import modules from other files, so the imports between them are left out.
    """
    parts = [re.sub(r"^import \{[^}]*\} from \"\./[a-z]+\.js\";\n", "", asset(name), flags=re.M) for name in MODULES]
    return "\n".join([*parts, "mountAll();\n"])


def script_hash(script: str) -> str:
    """Hash a script as a Content-Security-Policy names it, so that no other script on its page may run."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
