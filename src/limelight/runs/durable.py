"""Files that exist whole or not at all, also after a power failure: written, synced, renamed, folder synced."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

STEPS = ("begun", "written", "synced", "renamed", "lasting")
"""The write points of each file, in order; `reached` receives each as in `"done synced"`."""


def reached(point: str) -> None:
    """Do nothing; called at every write point, so that tests can kill the process there."""


def write_durably(path: Path, content: bytes, what: str) -> None:
    """Write `content` to `path` as `writing_durably` does."""
    with writing_durably(path, what) as file:
        file.write(content)


@contextmanager
def writing_durably(path: Path, what: str) -> Iterator[IO[bytes]]:
    """Open a hidden file beside `path` to write, then sync it, rename it to `path`, and sync the folder.

    The lease allows one writer of a path at a time, so leftovers of a killed one are deleted. Raises OSError.
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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # so that the new name outlasts a power failure
    finally:
        os.close(folder)
    reached(f"{what} lasting")
