"""Notes on maps, each with its kind and its example."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, get_args

Kind = Literal["fact", "caution", "not-converged", "incomplete", "plain-gradient", "zero-map", "no-sum"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Place = int | tuple[int, int]  # an example, or (example, target)


class Note(str):
    """A sentence about a map. As a string it reads `"example 3: the map is identically zero"`.

    `kind`: "fact" and "no-sum" inform; every other kind is a caution, which limits the trust in the map. `text`: the
    sentence without the example. `example`: its index, `(example, target)` if examples have several targets, None for
    the whole batch. Raises ValueError for an unknown kind.
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
        """Return a note unchanged, and plain text as a fact about the whole batch."""
        return text if isinstance(text, Note) else Note("fact", text)

    @property
    def is_caution(self) -> bool:
        return self.kind not in ("fact", "no-sum")

    def about(self, example: Place | None) -> Note:
        """Return the note for another example."""
        return Note(self.kind, self.text, example)

    def after(self, prefix: str) -> Note:
        """Return the note with a prefix before its text."""
        return Note(self.kind, prefix + self.text, self.example)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Note):
            return (self.kind, self.text, self.example) == (other.kind, other.text, other.example)
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other  # str.__ne__ would compare the sentences alone

    __hash__ = str.__hash__

    def __repr__(self) -> str:
        return f"Note({self.kind!r}, {self.text!r}" + (")" if self.example is None else f", {self.example!r})")

    def __getnewargs__(self) -> tuple[Kind, str, Place | None]:  # type: ignore[override]
        return self.kind, self.text, self.example


def notes_of(texts: Iterable[str]) -> tuple[Note, ...]:
    """Return each note once, with plain texts as facts."""
    return tuple(dict.fromkeys(map(Note.of, texts)))


def renumbered(notes: Iterable[Note], place: Callable[[int], Place | None]) -> tuple[Note, ...]:
    """Return the notes with each example i replaced by `place(i)`."""
    return tuple(each.about(place(each.example)) if isinstance(each.example, int) else each for each in notes)


def about_example(notes: Iterable[Note], example: Place) -> tuple[Note, ...]:
    """Return the notes on one example and on the whole batch, without the example's index."""
    return tuple(each.about(None) for each in notes if each.example in (None, example))
