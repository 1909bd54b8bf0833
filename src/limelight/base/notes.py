"""Notes: what to know about a map, each with its kind and the example that it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, get_args

Kind = Literal["fact", "caution", "not-converged", "incomplete", "plain-gradient", "zero-map", "no-sum"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Place = int | tuple[int, int]  # an example, or with several targets for each example (example, target)


class Note(str):
    """A sentence about a map. As a string it reads `"example 3: the map is identically zero"`.

    `kind`: "fact" and "no-sum" inform; every other kind is a caution, to be read before the map is believed. `text`:
    the sentence alone. `example`: the example it is about, `(example, target)` where examples have several targets,
    None for the whole batch. Raises ValueError for an unknown kind.
    """

    kind: Kind
    text: str
    example: Place | None

    def __new__(cls, kind: Kind, text: str, example: Place | None = None) -> Note:
        if kind not in KINDS:
            raise ValueError(f"kind: {kind!r}; use {', '.join(map(repr, KINDS))}")
        match example:
            case None:
                place = ""
            case (first, target):
                place = f"example {first}, target {target}: "
            case _:
                place = f"example {example}: "
        note = super().__new__(cls, place + text)
        note.kind, note.text, note.example = kind, text, example
        return note

    @staticmethod
    def of(text: str) -> Note:
        """The note itself; plain text is a fact about the whole batch."""
        return text if isinstance(text, Note) else Note("fact", text)

    @property
    def is_caution(self) -> bool:
        return self.kind not in ("fact", "no-sum")

    def about(self, example: Place | None) -> Note:
        """The same note about another example."""
        return Note(self.kind, self.text, example)

    def after(self, prefix: str) -> Note:
        """The same note with words before its text."""
        return Note(self.kind, prefix + self.text, self.example)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Note):
            return (self.kind, self.text, self.example) == (other.kind, other.text, other.example)
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other  # a string's own would compare the sentences alone

    __hash__ = str.__hash__

    def __repr__(self) -> str:
        return f"Note({self.kind!r}, {self.text!r}" + (")" if self.example is None else f", {self.example!r})")

    def __getnewargs__(self) -> tuple[Kind, str, Place | None]:  # type: ignore[override]
        return self.kind, self.text, self.example


def notes_of(texts: Iterable[str]) -> tuple[Note, ...]:
    """Notes, each once; plain texts as facts."""
    return tuple(dict.fromkeys(map(Note.of, texts)))


def renumbered(notes: Iterable[Note], place: Callable[[int], Place | None]) -> tuple[Note, ...]:
    """Notes with every example's number replaced by `place` of it."""
    return tuple(each.about(place(each.example)) if isinstance(each.example, int) else each for each in notes)


def about_example(notes: Iterable[Note], example: Place) -> tuple[Note, ...]:
    """The notes that hold for one example, its own and the whole batch's, without its number."""
    return tuple(each.about(None) for each in notes if each.example in (None, example))
