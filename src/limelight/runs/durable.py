"""Files that are there whole or not at all, also after the machine lost its power: written, synced, renamed, synced."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

STEPS = ("begun", "written", "synced", "renamed", "lasting")
"""What `reached` is told of each file, in this order, as `"done synced"`."""


def reached(point: str) -> None:
    """Called at every named write point. Does nothing: tests put a kill in its place."""


def write_durably(path: Path, content: bytes, what: str) -> None:
    """Write `content` to `path`, see `writing_durably`."""
    with writing_durably(path, what) as file:
        file.write(content)


@contextmanager
def writing_durably(path: Path, what: str) -> Iterator[IO[bytes]]:
    """A hidden neighbour to write, that is then synced, renamed to `path`, and its folder synced.

    One writer a path at a time (the lease sees to it): leftovers of a killed one are cleared away. Raises OSError.
    """
    for left in path.parent.glob(f".{path.name}.*.part"):
        left.unlink(missing_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            reached(f"{what} begun")
            yield file
            file.flush()
            reached(f"{what} written")
            os.fsync(file.fileno())
        reached(f"{what} synced")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    reached(f"{what} renamed")
    sync_folder(path.parent)
    reached(f"{what} lasting")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
