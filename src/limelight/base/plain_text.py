"""Sentences of docstrings as plain text."""

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
