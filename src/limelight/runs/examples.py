"""How an example of a run is opened, and which ones are explained at once: pictures, or texts of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..by_length import rows_of_texts
from ..models.catalogue import AnyImageModel
from ..models.pictures import open_image
from ..models.text import TextModel
from ..question.question import Options
from ..question.text_targets import Continuation
from .job import Job
from .manifest import Entry, content_hash


@dataclass(frozen=True)
class Opened:
    """An example that could be read, with the hash of its content in `entry`.

    `inputs`: `(1, *features)`. `notes`: on conversions of a picture. `continuation`: what a text is made to go on with,
    of so many `steps`.
    """

    entry: Entry
    inputs: Tensor
    notes: tuple[str, ...] = ()
    continuation: str | None = None
    steps: int = 0

    @property
    def text(self) -> str:
        """The text of an example of texts."""
        assert self.entry.text is not None
        return self.entry.text


class Reader(Protocol):
    """What opens examples, and puts those that fit together into one call.

    `in_threads`: examples can be read and opened in threads while the model runs.
    """

    in_threads: ClassVar[bool]

    def read(self, entry: Entry) -> tuple[Entry, bytes]:
        """Read what an example holds; return it with the entry that has its hash. Raises what reading raises."""

    def open(self, entry: Entry, content: bytes) -> Opened:
        """Open what was read. Raises what opening raises."""

    def apart(self, opened: Opened) -> tuple[int, ...]:
        """Return a key: examples of other keys are not explained at once."""

    def together(self, examples: Sequence[Opened], options: Options) -> tuple[Tensor, Options]:
        """Return the inputs `(n, *features)` of some examples, and the options of `explain` with what goes along."""


@dataclass(frozen=True)
class Pictures:
    """Pictures, from files and tars."""

    model: AnyImageModel
    white: float | None
    elsewhere: bool
    in_threads: ClassVar[bool] = True

    def read(self, entry: Entry) -> tuple[Entry, bytes]:
        content = entry.read(self.elsewhere)
        return replace(entry, content=content_hash(content)), content

    def open(self, entry: Entry, content: bytes) -> Opened:
        pixels, _, picture = self.model.prepare(open_image(content, name=entry.path, white=self.white))
        return Opened(entry, pixels, picture.notes)

    def apart(self, opened: Opened) -> tuple[int, ...]:
        return ()

    def together(self, examples: Sequence[Opened], options: Options) -> tuple[Tensor, Options]:
        return torch.cat([each.inputs for each in examples]), options


@dataclass(frozen=True)
class Texts:
    """Texts, from the manifest; those of one length at once, so that none is padded."""

    model: TextModel
    job: Job
    in_threads: ClassVar[bool] = False  # opening a text may run the model, and nothing is read

    def read(self, entry: Entry) -> tuple[Entry, bytes]:
        if entry.text is None:
            raise ValueError(f"the row has no text in the column {self.job.text_column!r}")
        content = entry.text.encode()
        return replace(entry, content=content_hash(content)), content

    def open(self, entry: Entry, content: bytes) -> Opened:
        text = content.decode()
        if not text.strip():
            raise ValueError(f"the text in the column {self.job.text_column!r} is empty")
        target = self.job.target
        wanted = Options(target=target) if isinstance(target, Continuation) else Options()
        rows, options = rows_of_texts(self.model, [text], wanted)
        read = options["target"]
        if not isinstance(read, Continuation) or read.ids is None:
            return Opened(entry, rows)
        assert isinstance(read.text, tuple)
        return Opened(entry, rows, (), read.text[0], read.ids.shape[1])

    def apart(self, opened: Opened) -> tuple[int, ...]:
        return (opened.inputs.shape[-1], opened.steps)

    def together(self, examples: Sequence[Opened], options: Options) -> tuple[Tensor, Options]:
        target = self.job.target
        if isinstance(target, Continuation):  # as it was read, so that nothing is generated again
            said = tuple(each.continuation or "" for each in examples)
            options = {**options, "target": replace(target, text=said)}
        return rows_of_texts(self.model, [each.text for each in examples], options)


def reader_of(job: Job, model: AnyImageModel | TextModel) -> Reader:
    """Return what opens a job's examples."""
    return Texts(model, job) if isinstance(model, TextModel) else Pictures(model, job.white, job.elsewhere)
