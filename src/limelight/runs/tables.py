"""Arrow tables from lists of values, built from buffers.

`pyarrow.array()` imports pandas wherever it is installed, to see whether its argument is a series: more than half a
second for each worker of a run, and memory. Buffers need no pandas.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .extras import arrow

Kind = Literal["int64", "float64", "bool_", "string"]


def table_of(lines: Sequence[Mapping[str, Any]], columns: Mapping[str, Kind]) -> Any:
    """Build a `pyarrow.Table` with a row for each line; a value that is None or missing is null.

    Raises TypeError, ValueError or OverflowError for a value that its column cannot hold.
    """
    pa = arrow()
    arrays = [_array([line.get(name) for line in lines], kind) for name, kind in columns.items()]
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in columns.items()])
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(values: Sequence[Any], kind: Kind) -> Any:
    pa = arrow()
    known = np.array([value is not None for value in values], dtype=bool)
    match kind:
        case "string":
            texts = [b"" if value is None else str.encode(value) for value in values]
            ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
            data = [ends, np.frombuffer(b"".join(texts), dtype=np.uint8)]
        case "bool_":
            if not all(isinstance(value, bool) for value in values if value is not None):
                raise TypeError(f"a column of truth values holds {values!r}")
            data = [_bits(np.array([bool(value) for value in values], dtype=bool))]
        case _:
            # array() refuses a fraction for a whole number, and text for either; NumPy would convert them.
            code = "q" if kind == "int64" else "d"
            data = [np.array(array(code, [0 if value is None else value for value in values]), dtype=kind)]
    buffers = [pa.py_buffer(each) for each in (_bits(known), *data)]
    return pa.Array.from_buffers(getattr(pa, kind)(), len(values), buffers)


def _bits(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(flags, bitorder="little")
