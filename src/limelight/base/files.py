"""Atomic writing of files."""

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
    """Write a file completely, or leave the old one: see `replacing`."""
    with replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`, which replaces `path` if the block raises nothing."""
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
    """Return indented JSON, with null for NaN and the infinities."""
    return json.dumps(finite(document), indent=2, allow_nan=False).encode()


def finite(value: Any) -> Any:
    """Return the document with None for NaN and the infinities, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value
