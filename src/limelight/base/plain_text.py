"""Sentences of docstrings as plain text, and lists of texts in one."""

from __future__ import annotations

import re

_KEYS = r"\s*\[[a-z]+\d{4}[a-z]*\]"
_FORMULA = r"\$[^$]*(?:=|\\)[^$]*\$"  # more than a symbol


def plain_sentence(text: str) -> str:
    r"""Return the first sentence of a docstring without LaTeX, backquotes and keys of the bibliography.

    A formula after a comma or colon ends the sentence; elsewhere it is left out, and a symbol stays.

    >>> plain_sentence(r"The mean of $n$ maps, $A = \frac1n \sum_j M_j$. [smilkov2017]")
    'The mean of n maps.'
    """
    paragraph = " ".join(re.split(r"\n\s*\n|\$\$", text)[0].split())
    sentence = re.split(r"(?<=[.!?])\s+(?=[^a-z])", re.sub(_KEYS, "", paragraph))[0]
    sentence = re.split(rf"[,:]\s*{_FORMULA}", sentence)[0]
    sentence = re.sub(rf"\s*{_FORMULA}", "", sentence).replace("$", "").replace("`", "")
    return sentence.strip().rstrip(" ,:;.") + "."


def split_texts(text: str) -> list[str]:
    """Split at commas outside brackets and quotes: `"gradient, lrp('epsilon')"` gives two texts."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
