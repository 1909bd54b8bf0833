"""Values to files and back without running code: tensors in safetensors, all else as JSON inside and beside it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .files import write_whole

RECORD = "limelight"  # the metadata key of the JSON record


def write(path: Path, fields: Mapping[str, Any]) -> Path:
    """Write `fields` to `path` (`.safetensors`) and the readable part also to `.json` beside it; each appears whole."""
    whole, record = _encoded(fields)
    write_whole(path, whole)
    write_whole(path.with_suffix(".json"), (record + "\n").encode())
    return path


def file_stem(label: str) -> str:
    """A label as the name of a file, without its suffix: without what a path may not hold, and cut."""
    return re.sub(r"[^\w.,=()-]+", " ", label).strip()[:80].strip()


def as_bytes(fields: Mapping[str, Any]) -> bytes:
    """What `write` would put into the `.safetensors` file."""
    return _encoded(fields)[0]


def _encoded(fields: Mapping[str, Any]) -> tuple[bytes, str]:
    """The bytes of the file, and the record inside it."""
    tensors: dict[str, Tensor] = {}
    record = json.dumps({name: _encode(value, name, tensors) for name, value in fields.items()}, indent=1)
    return save(tensors, metadata={RECORD: record}), record


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote. Raises ValueError for any other file, or a damaged record."""
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  not a mapping
    except SafetensorError as error:
        raise ValueError(f"path: {str(path)!r} is not a whole safetensors file ({error})") from error
    if RECORD not in metadata:
        raise ValueError(f"path: {str(path)!r} holds no limelight record; it was not written by Attribution.save")
    try:
        return {name: _decode(value, tensors) for name, value in json.loads(metadata[RECORD]).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"path: {str(path)!r} holds a record that can't be read ({type(error).__name__}: {error}); "
            "use a file that Attribution.save wrote"
        ) from error


def _encode(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a value: plain ones as they are, tensors by key, our own dataclasses by name, the rest as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"$tensor": key}
    if isinstance(value, tuple | list):
        return {"$tuple": [_encode(each, f"{key}.{i}", tensors) for i, each in enumerate(value)]}
    if isinstance(value, Mapping):
        return {"$map": {str(name): _encode(each, f"{key}.{name}", tensors) for name, each in value.items()}}
    if dataclasses.is_dataclass(value) and _public(type(value).__name__) is type(value):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value) if each.init}
        return {
            "$class": type(value).__name__,
            "fields": {name: _encode(each, f"{key}.{name}", tensors) for name, each in fields.items()},
        }
    return {"$repr": repr(value)}


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(_decode(each, tensors) for each in value["$tuple"])
    if "$map" in value:
        return {name: _decode(each, tensors) for name, each in value["$map"].items()}
    if "$class" in value:
        kind = _public(value["$class"])
        if kind is None:
            raise ValueError(f"it has a {value['$class']!r}, which this version of limelight does not know")
        return kind(**{name: _decode(each, tensors) for name, each in value["fields"].items()})
    return value["$repr"]


def _public(name: str) -> type | None:
    """The public dataclass of that name; only these are ever built from a file."""
    import limelight

    found = getattr(limelight, name, None) if name in limelight.__all__ else None
    return found if isinstance(found, type) and dataclasses.is_dataclass(found) else None
