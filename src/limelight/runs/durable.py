"""Files that exist whole or not at all, also after a power failure: written, synced, renamed, folder synced."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

STEPS = ("begun", "written", "synced", "renamed", "lasting")
"""The write points of each file, in order; `reached` gets each as in `"done synced"`."""


def reached(point: str) -> None:
    """Do nothing; called at every named write point, so that tests can put a kill there."""


def write_durably(path: Path, content: bytes, what: str) -> None:
    """Write `content` to `path`, see `writing_durably`."""
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
    sync_folder(path.parent)
    reached(f"{what} lasting")


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it outlast a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
