"""Tables of a run are built from buffers; they must be those that pyarrow itself would build."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest

from limelight.runs.tables import Kind, table_of

COLUMNS: dict[str, Kind] = {"id": "int64", "share": "float64", "right": "bool_", "text": "string"}
LINES: list[dict[str, Any]] = [
    {"id": 2**62, "share": 0.1, "right": True, "text": "hand"},
    {"id": None, "share": float("inf"), "right": None, "text": None},
    {"id": -1, "share": None, "right": False, "text": ""},
    {"text": "Schere, 剪刀"},
    *({"id": i, "share": i / 7, "right": i % 3 == 0, "text": "é" * i} for i in range(20)),
]


@pytest.mark.parametrize("lines", [LINES, LINES[:1], [{}], []], ids=["many", "one", "nulls", "none"])
def test_equal_to_what_pyarrow_builds(lines: list[dict[str, Any]]) -> None:
    schema = pa.schema({name: getattr(pa, kind)() for name, kind in COLUMNS.items()})
    expected = pa.Table.from_pylist([{name: line.get(name) for name in COLUMNS} for line in lines], schema)
    found = table_of(lines, COLUMNS)
    found.validate(full=True)
    assert found.schema == expected.schema
    assert found.to_pylist() == expected.to_pylist()
    assert [each.null_count for each in found.columns] == [each.null_count for each in expected.columns]


@pytest.mark.parametrize(
    "line",
    [
        {"id": "one"},
        {"id": "1"},
        {"id": 1.5},
        {"share": "much"},
        {"share": "1"},
        {"text": 3},
        {"id": 2**63},
        {"right": 1},
    ],
)
def test_refuses_what_a_column_cannot_hold(line: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        table_of([line], COLUMNS)


def test_pandas_stays_out() -> None:
    pytest.importorskip("pandas")
    code = (
        "import sys; from limelight.runs.tables import table_of; import pyarrow.parquet as p, io;"
        "p.write_table(table_of([{'a': 'x', 'b': 1}], {'a': 'string', 'b': 'int64'}), io.BytesIO());"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
