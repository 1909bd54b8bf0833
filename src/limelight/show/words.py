"""Words from elsewhere (labels, names of files) as a page may hold them."""

from __future__ import annotations

import re
from html import escape

# Control characters, and those that turn the direction of what follows them; the viewer's elements.js has the same.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def words(text: str) -> str:
    """The text for a page's body or an attribute in double quotes: no markup, nothing that moves its neighbours."""
    return escape(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text))
