"""A card of text as data: sections of lines with a mark, a name, a figure and words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One line of a card; `mark` "pass", "FAIL", "above" and "NOT ABOVE" have colours of their own."""

    mark: str
    name: str
    figure: str
    words: str


@dataclass(frozen=True)
class Section:
    title: str
    entries: tuple[Entry, ...]
