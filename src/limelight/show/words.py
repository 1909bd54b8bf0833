"""Texts from elsewhere (labels, names of files), made safe for a page."""

from __future__ import annotations

import re
from html import escape

# Control characters, and those that change the direction of the text after them; the viewer's elements.js has the same.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def words(text: str) -> str:
    """Escape text for a page's body or a double-quoted attribute; characters that reorder others are replaced."""
    return escape(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text))
