"""The maps of a shard, read one by one from a safetensors file that stays open.

Of a file here and of an object in a bucket alike, only the bytes of a map are read (in a bucket a request for a range),
after the header. A file that ends early or whose header does not fit is damaged; a map's checksum is the index's.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .storage import OpenFile

_FIRST = 1 << 14  # bytes of the first read, which has the whole header of most shards
_PREFIX = 8  # bytes of the header's length
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class _Place(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


class ShardFile:
    """An open safetensors file. Raises ValueError for one that is damaged."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        first = file.read(0, _FIRST)
        length = int.from_bytes(first[:_PREFIX], "little")
        if len(first) < _PREFIX or _PREFIX + length > file.size:
            raise ValueError("it ends within its header")
        header = first[_PREFIX : _PREFIX + length]
        header += file.read(_PREFIX + len(header), length - len(header)) if len(header) < length else b""
        found = json.loads(header)
        if not isinstance(found, dict):
            raise ValueError("its header is no JSON object")
        data = _PREFIX + length
        self._places = {name: _place(each, data, file.size) for name, each in found.items() if name != "__metadata__"}

    def count(self, method: str) -> int:
        """Count the maps of a method. Raises ValueError where the file lacks them."""
        shape = self._place(method).shape
        return shape[0] if shape else 0

    def all(self, method: str) -> Tensor:
        """Read all maps of a method. Raises ValueError where the file lacks them."""
        place = self._place(method)
        return self._read(place, 0, math.prod(place.shape), place.shape)

    def one(self, method: str, i: int) -> Tensor:
        """Read map i of a method, along the first axis. Raises ValueError where the file lacks it."""
        place = self._place(method)
        if not place.shape or not 0 <= i < place.shape[0]:
            raise ValueError(f"it has no map {i} by {method}")
        size = math.prod(place.shape[1:])
        return self._read(place, i * size, size, place.shape[1:])

    def _place(self, method: str) -> _Place:
        if method not in self._places:
            raise ValueError(f"it has no maps by {method}")
        return self._places[method]

    def _read(self, place: _Place, start: int, count: int, shape: tuple[int, ...]) -> Tensor:
        size = place.dtype.itemsize
        content = bytearray(self._file.read(place.start + start * size, count * size))
        if len(content) != count * size:
            raise ValueError("it ends within a map")
        return torch.frombuffer(content, dtype=place.dtype).reshape(shape) if content else torch.empty(shape)


def _place(found: Any, data: int, size: int) -> _Place:
    """Read a tensor's line of the header. Raises ValueError where it does not fit the file."""
    try:
        dtype, shape = _DTYPES[found["dtype"]], tuple(map(int, found["shape"]))
        start, end = map(int, found["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its header is damaged: {type(error).__name__}: {error}") from error
    if min((0, *shape)) < 0 or start < 0 or end - start != math.prod(shape) * dtype.itemsize or data + end > size:
        raise ValueError("its header does not fit its size")
    return _Place(dtype, shape, data + start)
