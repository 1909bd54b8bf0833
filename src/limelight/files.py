"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file completely or not at all: into a neighbour that then takes its place."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: {str(path)!r} is to be written, but its folder does not exist")
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
