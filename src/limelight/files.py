"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import uuid
from pathlib import Path
from typing import Any


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


def json_bytes(document: Any) -> bytes:
    """JSON in lines; NaN and the infinities, which JSON does not have, become null."""
    return json.dumps(_finite(document), indent=2, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return value
