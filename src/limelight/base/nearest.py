"""The names that an unknown one may stand for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType


def plain(name: str) -> str:
    """Return a name without what its spellings differ by: case, hyphens, underscores, spaces."""
    return re.sub(r"[-_\s]", "", name).lower()


def nearest_names(
    name: str, known: Sequence[str], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """Return at most three of `known`: what others call so, what has these initials, is spelled alike, or holds it.

    >>> nearest_names("ig", ["gradient", "integrated-gradients"])
    ('integrated-gradients',)
    """
    typed = name.strip().lower().replace("_", "-")
    called = [own for other, own in elsewhere.items() if plain(other) == plain(typed)]
    initials = [each for each in known if "-" in each and "".join(part[0] for part in each.split("-")) == typed]
    if called or initials:
        return tuple(dict.fromkeys(called + initials))[:3]
    alike = difflib.get_close_matches(typed, known, n=3, cutoff=0.6)
    holding = [each for each in known if len(typed) > 2 and plain(typed) in plain(each)]
    return tuple(dict.fromkeys(alike + holding))[:3]
