"""Packages that only dataset runs need, and Arrow tables built from buffers.

`pyarrow.array()` imports pandas wherever it is installed, to see whether its argument is a series: more than half a
second for each worker of a run, and memory. Buffers need no pandas.
"""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["int64", "float64", "bool_", "string"]


def need(module: str, extra: str, why: str) -> Any:
    """Import a module. Raises ImportError that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        package = module.partition(".")[0]
        raise ImportError(f"{why} needs {package}: pip install 'limelight[{extra}]'", name=error.name) from error


def arrow(module: str = "") -> Any:
    """Import pyarrow, or a module inside it."""
    return need(f"pyarrow.{module}" if module else "pyarrow", "run", "a dataset run (its manifest and index)")


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
    data: list[Any]
    match kind:
        case "string":
            texts = [b"" if value is None else str.encode(value) for value in values]
            data = [np.cumsum([0, *map(len, texts)]).astype(np.int32), b"".join(texts)]
        case "bool_":
            if not all(isinstance(value, bool | None) for value in values):
                raise TypeError(f"a column of truth values holds {values!r}")
            data = [_bits(values)]
        case _:
            # array() refuses a fraction for a whole number, and text for either; NumPy would convert them.
            data = [array("q" if kind == "int64" else "d", [0 if value is None else value for value in values])]
    buffers = [pa.py_buffer(each) for each in (_bits([value is not None for value in values]), *data)]
    return pa.Array.from_buffers(getattr(pa, kind)(), len(values), buffers)


def _bits(flags: Sequence[bool | None]) -> NDArray[np.uint8]:
    return np.packbits(np.array(flags, dtype=bool), bitorder="little")
