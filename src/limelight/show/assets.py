"""Parts of pages: the viewer's files, and text made safe for HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from html import escape
from importlib.resources import files

MODULES = (
    "numbers.js",
    "colours.js",
    "elements.js",
    "view.js",
    "layouts.js",
    "text.js",
    "card.js",
    "cell.js",
    "lead.js",
    "large.js",
    "viewer.js",
)
"""The viewer's modules; each follows the modules that it imports."""

# Control characters, and characters that change the direction of text. The viewer's elements.js has the same list.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@cache
def asset(name: str) -> str:
    """Read a file of the viewer."""
    return (files(__package__) / "viewer" / name).read_text(encoding="utf-8")


@cache
def viewer_script() -> str:
    """Join all modules into one script, which turns every waiting element of its page into a viewer.

    The imports between modules are removed, because a page opened from disk can't import other files.
    """
    parts = [re.sub(r"^import \{[^}]*\} from \"\./[a-z]+\.js\";\n", "", asset(name), flags=re.M) for name in MODULES]
    return "\n".join([*parts, "mountAll();\n"])


def script_hash(script: str) -> str:
    """Return the hash of a script for a Content-Security-Policy, which blocks all other scripts of the page."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def words(text: str) -> str:
    """Escape text for a page's body or a double-quoted attribute; replace characters that reorder text."""
    return escape(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text))
