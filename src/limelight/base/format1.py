"""What saved files of format 1, before Note had a kind, hold of notes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .notes import Kind, Note, Place

# Format 1 kept sentences alone. These words of them say which kind they were.
_KINDS: Mapping[str, Kind] = {
    "NOT converged": "not-converged",
    "did not converge": "not-converged",
    "INCOMPLETE": "incomplete",
    "PLAIN GRADIENT": "plain-gradient",
    "identically zero": "zero-map",
    "never hidden": "caution",
    "INTERRUPTED": "caution",
    "stderr is NaN": "caution",
    "delta is NaN: ": "no-sum",
}


def from_format1(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an attribution of format 1, with its sentences as notes."""
    return {**fields, "notes": tuple(map(_note, fields["notes"]))} if "notes" in fields else dict(fields)


def _note(sentence: str) -> Note:
    kind: Kind = next((kind for words, kind in _KINDS.items() if words in sentence), "fact")
    place: Place | None = None
    found = re.match(r"example (\d+)(?:, target (\d+))?: ", sentence)
    if found:
        place = int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))
    return Note(kind, sentence[found.end() :] if found else sentence, place)
