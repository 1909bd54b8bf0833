"""A panel in one `.npz` file: arrays that NumPy alone reads, and all else as JSON. No code is run, nothing pickled."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DamagedFile
from .files import write_whole
from .records import FORMAT, decode, encode, require_format
from .seals import BLANK, require_digest, sealed
from .tensor_bytes import rows_of_bytes

RECORD = "limelight"  # the array that holds the JSON record
SHARED = ("inputs", "target", "score", "outputs")
"""Fields whose arrays are stored once, under their bare names, where all maps have the same."""
_MARK = b"limelight sha256 "  # before the digest, in the comment of the archive
_WRITE_AN_NPZ = "use a file that Panel.save wrote as .npz"


def write_panel(path: Path, maps: Mapping[str, Mapping[str, Any]], rows: Mapping[str, int]) -> Path:
    """Write the fields of maps by name to a `.npz` file.

    The arrays of a map are `NAME/values`, `NAME/stderr` and so on, next to those of `SHARED`. The array `limelight` is
    a text: JSON in which `{"$tensor": KEY}` stands for an array. Floats that NumPy lacks (bfloat16) become float32.
    """
    tensors: dict[str, Tensor] = {}
    encoded = {
        name: {field: encode(value, f"{name}/{field}", tensors) for field, value in fields.items()}
        for name, fields in maps.items()
    }
    for field in SHARED:
        keys = [f"{name}/{field}" for name in maps if f"{name}/{field}" in tensors]
        if len(keys) == len(maps) and all(_same(tensors[keys[0]], tensors[key]) for key in keys):
            tensors[field] = tensors[keys[0]]
            for name, key in zip(maps, keys, strict=True):
                del tensors[key]
                encoded[name][field] = {"$tensor": field}
    foreign = {key: str(each.dtype) for key, each in tensors.items() if each.dtype is torch.bfloat16}
    record = {"format": FORMAT, **rows, "maps": encoded, "dtypes": foreign}
    arrays = {key: (each.float() if key in foreign else each).numpy() for key, each in tensors.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{**arrays, RECORD: np.array(json.dumps(record))})
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = _MARK + BLANK.encode()
    content = buffer.getvalue()
    write_whole(path, sealed(content, len(content) - len(BLANK)))
    return path


def has_digest(path: Path) -> bool:
    """Whether a `.npz` file ends with a digest, as the comment of the archive; a file of an older version has none.

    Raises DamagedFile where the digest is not that of the file.
    """
    place = path.stat().st_size - len(BLANK)
    with path.open("rb") as file:
        file.seek(max(0, place - len(_MARK)))
        is_sealed = file.read(len(_MARK)) == _MARK
    if is_sealed:
        require_digest(path, place)
    return is_sealed


def read_panel(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Read the fields of maps by name, and the rows. Raises ValueError for other files, DamagedFile for damage."""
    if path.is_dir() or not (zipfile.is_zipfile(path) if path.exists() else True):
        kind = "a folder; load its files with Attribution.load" if path.is_dir() else f"no .npz file; {_WRITE_AN_NPZ}"
        raise ValueError(f"path: {str(path)!r} is {kind}")
    try:
        is_sealed = has_digest(path)
        with np.load(path, allow_pickle=False) as opened:
            arrays = dict(opened)
        record = json.loads(str(arrays.pop(RECORD)))
        require_format(path, record["format"], record["format"] == FORMAT, is_sealed)
        tensors = {key: torch.from_numpy(each) for key, each in arrays.items()}
        tensors |= {key: tensors[key].bfloat16() for key in record["dtypes"]}
        maps = {
            name: {field: decode(value, tensors) for field, value in fields.items()}
            for name, fields in record["maps"].items()
        }
        return maps, {name: record[name] for name in ("forward_rows", "backward_rows", "cached_rows")}
    except DamagedFile:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"path: {str(path)!r} holds no panel that can be read ({type(error).__name__}: {error}); {_WRITE_AN_NPZ}"
        ) from error


def verify(path: Path) -> bool:
    """Whether a file of `write_panel` has a digest. Raises ValueError for other files, DamagedFile for damaged ones."""
    read_panel(path)
    return has_digest(path)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, bit for bit, so that NaN equals NaN."""
    return a.dtype == b.dtype and a.shape == b.shape and _bits(a) == _bits(b)


def _bits(tensor: Tensor) -> bytes:
    return rows_of_bytes(tensor.flatten()).numpy().tobytes()
