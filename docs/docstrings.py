"""How docstrings become Markdown: examples become code blocks, keys of papers become links."""

from __future__ import annotations

import re
from typing import Any

import griffe

KEYS = re.compile(r"(?<![\w`\]])\[(\w+\d{4}\w*(?:, \w+\d{4}\w*)*)\](?![\[(])")


def with_code_blocks(text: str) -> str:
    """Return the docstring with each example, from `>>>` to the next empty line, as a block of Python's console."""
    lines, inside = [], False
    for line in text.splitlines():
        if line.lstrip().startswith(">>>") and not inside:
            lines += ["", "```pycon"]
            inside = True
        elif inside and not line.strip():
            lines += ["```"]
            inside = False
        lines.append(line.strip() if inside else line)
    return "\n".join([*lines, "```"] if inside else lines)


def with_links(text: str, bibliography: str) -> str:
    """Return the text with each `[key2020]` as a link to the page of papers, whose relative URL is given."""

    def linked(found: re.Match[str]) -> str:
        return ", ".join(f"[{key}]({bibliography}#{key})" for key in found[1].split(", "))

    return KEYS.sub(linked, text)


class Docstrings(griffe.Extension):
    """Prepares every docstring of the package."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = with_links(with_code_blocks(obj.docstring.value), "papers.md")
