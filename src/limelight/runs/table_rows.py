"""The rows of a table of examples, .csv or .parquet, here or at a URL that fsspec opens."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from .opening import open_binary
from .tables import arrow

LABEL_COLUMNS = ("label", "class")
Row = Mapping[str, Any]
Roles = Callable[[list[str]], Mapping[str, str]]
"""Chooses columns: returns the name of a column for each role, the one that must be text first."""


def table_rows(table: str, roles: Roles, elsewhere: bool = False) -> Iterator[Row]:
    """Yield the values of each row of a table by their roles, None for those that are missing.

    Raises ValueError for a damaged table, for a column that is not as its role needs it or that is there twice, and
    what `roles` raises.
    """
    return (_csv_rows if table.lower().endswith(".csv") else _parquet_rows)(table, roles, elsewhere)


def column_called(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column of the first of the wanted names, in whatever letters and with blanks; None without any."""
    plain = {name.strip().lower(): name for name in reversed(names)}  # of several the first
    return next((plain[each] for each in wanted if each in plain), None)


def label_of(value: Any) -> str:
    """Write a label as text; a column of integers with missing values holds floats and NaN."""
    if isinstance(value, float) and (math.isnan(value) or value.is_integer()):
        return "" if math.isnan(value) else str(int(value))
    if isinstance(value, bytes):  # Parquet files of some writers do not say which bytes are text
        value = value.decode(errors="replace")
    return "" if value is None else str(value).strip()


def lines_of(table: str, file: IO[bytes]) -> Iterator[str]:
    """Yield the lines of a table. Raises ValueError with the number of the first one that is not UTF-8."""
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        for number, line in enumerate(text, 1):
            if not line.isascii() and re.search("[\udc80-\udcff]", line):
                raise ValueError(f"images: {table!r}, line {number}: {line.strip()[:80]!r} is no UTF-8; save it so")
            yield line


def _csv_rows(table: str, roles: Roles, elsewhere: bool) -> Iterator[Row]:
    whole = 0  # lines up to the last complete row
    with open_binary(table, elsewhere) as file:
        rows = csv.DictReader(lines_of(table, file), strict=True)
        try:
            names = list(rows.fieldnames or ())
            chosen = _chosen(table, names, roles)
            whole = rows.line_num
            for row in rows:
                if any(row.get(None, ())):  # fields beyond the columns
                    raise ValueError(
                        f"images: {table!r}, from line {whole + 1}: more fields than the {len(names)} columns; put "
                        "quotes around each field that holds a comma"
                    )
                whole = rows.line_num
                yield {role: row[name] for role, name in chosen.items()}
        except csv.Error as error:
            raise ValueError(
                f"images: {table!r}, from line {whole + 1}: {error}; close each quote, and double those inside a "
                "field, or use a .parquet for fields of this length"
            ) from error


def _parquet_rows(table: str, roles: Roles, elsewhere: bool) -> Iterator[Row]:
    with open_binary(table, elsewhere) as file:
        try:
            parquet = arrow("parquet").ParquetFile(file)
            chosen = _chosen(table, list(parquet.schema_arrow.names), roles)
            _require_text(table, *next(iter(chosen.items())), parquet.schema_arrow)
            for batch in parquet.iter_batches(columns=list(dict.fromkeys(chosen.values()))):
                for row in batch.to_pylist():
                    yield {role: row[name] for role, name in chosen.items()}
        except (arrow().ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"images: {table!r}: {error}") from error


def _chosen(table: str, names: list[str], roles: Roles) -> Mapping[str, str]:
    """Choose among the columns. Raises ValueError where a chosen one is there twice."""
    chosen = roles(names)
    for name in chosen.values():
        if names.count(name) > 1:
            raise ValueError(f"images: {table!r} has {names.count(name)} columns called {name!r}; rename the others")
    return chosen


def _require_text(table: str, role: str, column: str, schema: Any) -> None:
    kind = schema.field(column).type
    text = kind.value_type if arrow("types").is_dictionary(kind) else kind
    if str(text) not in ("string", "large_string", "string_view"):
        cure = ", the path of each picture, or put the pictures into a .tar" if role == "path" else ""
        raise ValueError(f"images: {table!r}: its column {column!r} is {kind}; make it text{cure}")
