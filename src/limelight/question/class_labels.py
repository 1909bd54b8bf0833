"""Classes by their labels, as a user types them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_MOST_CANDIDATES = 12


def class_of(text: str, labels: Sequence[str]) -> int:
    """A class by its number, or by words that fit one label: the whole of it, else a word in it, else a part of it."""
    words = text.strip().casefold()
    if re.fullmatch(r"[-+]?\d+", words):
        index = int(words)
        if index < 0 or (labels and index >= len(labels)):
            most = f"0 to {len(labels) - 1}" if labels else "0 or more"
            raise ValueError(f"target: {index} is not a class of the model; use {most}, or a label")
        return index
    if not labels:
        raise ValueError(
            f"target: {text!r}: this model has no labels; use the number of a class, or a target such as 'margin(281)'"
        )
    if not words:
        raise ValueError("target: an empty label; use the number of a class or its label")
    folded = [label.casefold() for label in labels]
    whole_word = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)")
    for found in (
        [i for i, label in enumerate(folded) if words in (label, *(part.strip() for part in label.split(",")))],
        [i for i, label in enumerate(folded) if whole_word.search(label)],
        [i for i, label in enumerate(folded) if words in label],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(f"{i} {labels[i]}" for i in found[:_MOST_CANDIDATES])
            more = f" and {len(found) - _MOST_CANDIDATES} more" if len(found) > _MOST_CANDIDATES else ""
            raise ValueError(f"target: {text!r} fits {len(found)} classes; use a number: {shown}{more}")
    near = difflib.get_close_matches(words, folded, n=4, cutoff=0.5)
    hint = "; nearest: " + ", ".join(f"{folded.index(each)} {labels[folded.index(each)]}" for each in near)
    raise ValueError(f"target: no class is called {text!r}{hint if near else ''}")
