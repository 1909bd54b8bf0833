"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file completely or not at all: into a neighbour that then takes its place."""
    with replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A neighbour of `path` to write, a piece at a time, that takes its place if nothing is raised."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: {str(path)!r} is to be written, but its folder does not exist")
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def json_bytes(document: Any) -> bytes:
    """JSON in lines; NaN and the infinities, which JSON does not have, become null."""
    return json.dumps(finite(document), indent=2, allow_nan=False).encode()


def finite(value: Any) -> Any:
    """The document with None for what JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value
