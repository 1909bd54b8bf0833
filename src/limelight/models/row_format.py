"""How a function that is no module wants its rows, and how its answers are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Layout = Literal["NCHW", "NHWC", "flat", "flat-channels-last", "channels-first", "channels-last"]
"""Where the channels of a row are; the last two are older names of the first two."""

LAYOUTS = {"channels-first": "NCHW", "channels-last": "NHWC"} | {
    name: name for name in ("NCHW", "NHWC", "flat", "flat-channels-last")
}
"""Every spelling of a layout, and its present name."""

_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}  # of the types that pictures are kept in
_REAL = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # of other libraries than NumPy, which calls them void


@dataclass(frozen=True)
class RowFormat:
    """The arrays that a function takes: their `layout`, `dtype` and `range`, as `BlackBox` describes them."""

    layout: str
    dtype: str | None
    range: tuple[float, float] | None

    def array(self, rows: Tensor) -> np.ndarray:
        """Return rows `(rows, channels, *space)` as a new array. Raises ValueError for what the dtype does not hold."""
        given = rows.detach().cpu()
        array = np.array((given.float() if given.dtype == torch.bfloat16 else given).numpy())
        if self.layout in ("NHWC", "flat-channels-last"):
            array = np.moveaxis(array, 1, -1)
        if self.layout.startswith("flat"):
            array = array.reshape(len(array), -1)
        return np.ascontiguousarray(self._typed(array))

    def _typed(self, array: np.ndarray) -> np.ndarray:
        dtype = array.dtype if self.dtype is None else np.dtype(self.dtype)
        low, high = self.range or _RANGES.get(dtype.name, (0.0, 1.0))
        scaled = array if (low, high) == (0.0, 1.0) else low + (high - low) * array.astype(np.float64)
        if dtype.kind == "f":
            return scaled.astype(dtype, copy=False)
        whole, most = np.rint(scaled), np.iinfo(dtype)
        if whole.size and (whole.min() < most.min or whole.max() > most.max):
            raise ValueError(
                f"model: rows reach from {array.min():.4g} to {array.max():.4g}; BlackBox.dtype={dtype.name!r} holds "
                f"{most.min} to {most.max}, with {low:g} for 0 and {high:g} for 1; undo a normalisation of the rows, "
                "or give range=(low, high), what rows of 0 and 1 are to become: (0, 1) leaves them as they are"
            )
        return whole.astype(dtype)


def as_numbers(outputs: Any, rows: int) -> np.ndarray:
    """Return what a function gave for so many rows as a new float64 array `(rows, outputs)`, `(rows, ...)` if it is so.

    Takes tensors on any device and in any precision, with or without a graph, whatever has `__array__` or `__dlpack__`,
    and lists of numbers or of these. Raises TypeError for what holds no numbers, and for whole numbers, which are
    labels as a rule; ValueError where the first axis is not the rows.
    """
    array = _array(outputs)
    if array.dtype.kind in "iub":
        raise TypeError(
            f"model: the black box returned {array.dtype} {array.shape}: whole numbers are labels as a rule, and a "
            "label says nothing of how near the next one is; return scores, such as probabilities, or .astype(float) "
            "where the numbers are scores"
        )
    if array.dtype.kind != "f" and array.dtype.name not in _REAL:
        kind = type(outputs).__name__
        raise TypeError(f"model: the black box returned {kind} ({array.dtype}), not numbers of shape (rows, outputs)")
    found = np.array(array, dtype=np.float64)  # a copy: the function may reuse its memory
    if rows == 1 and (found.ndim == 0 or (found.ndim == 1 and len(found) != 1)):
        found = found[None]  # a single row, squeezed
    if found.ndim == 0 or len(found) != rows:
        raise ValueError(
            f"model: returned outputs of shape {found.shape} for {rows} rows; the first axis of the outputs must be "
            "the rows"
        )
    return found[:, None] if found.ndim == 1 else found


def _array(outputs: Any) -> np.ndarray:
    if isinstance(outputs, Tensor):
        plain = outputs.detach().resolve_conj().resolve_neg().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    if isinstance(outputs, Sequence) and any(map(_is_foreign, outputs)):
        return np.stack([_array(each) for each in outputs])
    # Arrays on a device have __array__ too, and refuse it.
    if hasattr(outputs, "__dlpack__") and not isinstance(outputs, np.ndarray) and not _is_on_cpu(outputs):
        return _array(torch.utils.dlpack.from_dlpack(outputs))
    return np.asarray(outputs)


def _is_foreign(value: Any) -> bool:
    """Whether this is an array or holds some, so that NumPy might not stack it by itself."""
    if isinstance(value, list | tuple):
        return any(map(_is_foreign, value))
    return hasattr(value, "__dlpack__") or (hasattr(value, "__array__") and not isinstance(value, np.generic))


def _is_on_cpu(array: Any) -> bool:
    """Whether NumPy can read this array's memory through `__array__`."""
    if not hasattr(array, "__array__"):
        return False
    return not hasattr(array, "__dlpack_device__") or array.__dlpack_device__()[0] == 1  # kDLCPU
