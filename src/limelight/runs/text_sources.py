"""The texts of a column of a table: CSV, JSON lines or Parquet, here or at a URL that fsspec opens."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .manifest import Entry
from .opening import is_remote, open_binary, require_url
from .sources import LABEL_COLUMNS, label_of, lines_of
from .tables import arrow

ID_COLUMN = "id"
JSON_LINES = (".jsonl", ".ndjson")


def find_texts(table: str, column: str) -> Iterator[Entry]:
    """Yield an entry for each row of a table, with the text of `column`, in the order of the rows.

    An entry is called by the row's `id`, where there is such a column, else by its number from 1. A row without a text
    is listed too, and fails later. Raises ValueError for a table that is damaged, has no rows or not the column,
    FileNotFoundError for a wrong path.
    """
    require_url(table)
    if not is_remote(table) and not Path(table).exists():
        raise FileNotFoundError(f"images: {table!r} does not exist")
    found = False
    for number, row in enumerate(_rows(table, column), 1):
        found = True
        plain = {name.strip().lower(): name for name in reversed([each for each in row if isinstance(each, str)])}
        label = next((plain[each] for each in LABEL_COLUMNS if each in plain), None)
        named = row.get(plain[ID_COLUMN]) if ID_COLUMN in plain else None
        text = _text(row.get(column))
        yield Entry(
            f"row {number}" if named in (None, "") else str(named),
            label_of(row[label]) if label else "",
            table,
            text=text,
        )
    if not found:
        raise ValueError(f"images: {table!r} has no rows")


def _text(value: Any) -> str | None:
    """Return a text; None for another value, and for one that no UTF-8 can hold."""
    try:
        return value if isinstance(value, str) and value.encode() is not None else None
    except UnicodeEncodeError:
        return None


def _rows(table: str, column: str) -> Iterator[Mapping[str, Any]]:
    suffix = table[table.rfind(".") :].lower()
    if suffix == ".csv":
        return _csv_rows(table, column)
    if suffix == ".parquet":
        return _parquet_rows(table, column)
    if suffix in JSON_LINES:
        return _json_rows(table, column)
    raise ValueError(f"images: {table!r}; with text_column use a .csv, a .parquet or JSON lines (.jsonl)")


def _csv_rows(table: str, column: str) -> Iterator[Mapping[str, Any]]:
    whole = 0  # lines up to the last complete row
    with open_binary(table) as file:
        rows = csv.DictReader(lines_of(table, file), strict=True)
        try:
            _require_column(table, column, list(rows.fieldnames or ()))
            whole = rows.line_num
            for row in rows:
                whole = rows.line_num
                yield row
        except csv.Error as error:
            raise ValueError(
                f"images: {table!r}, from line {whole + 1}: {error}; close each quote, and double those inside a field"
            ) from error


def _json_rows(table: str, column: str) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of lines; a line that holds none is a row without a text."""
    known = False
    with open_binary(table) as file:
        for line in lines_of(table, file):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            found = row if isinstance(row, dict) else {}
            known |= column in found
            yield found
    if not known:
        raise ValueError(f"text_column: {column!r} is in no line of {table!r}")


def _parquet_rows(table: str, column: str) -> Iterator[Mapping[str, Any]]:
    with open_binary(table) as file:
        try:
            parquet = arrow("parquet").ParquetFile(file)
        except arrow().ArrowInvalid as error:
            raise ValueError(f"images: {table!r}: {error}") from error
        names = list(parquet.schema_arrow.names)
        _require_column(table, column, names)
        wanted = [each for each in names if each == column or each.strip().lower() in (ID_COLUMN, *LABEL_COLUMNS)]
        for batch in parquet.iter_batches(columns=wanted):
            yield from batch.to_pylist()


def _require_column(table: str, column: str, names: list[str]) -> None:
    if column not in names:
        raise ValueError(f"text_column: {column!r}; the columns of {table!r} are {', '.join(names) or 'none'}")
