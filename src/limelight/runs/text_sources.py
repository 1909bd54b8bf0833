"""The texts of a column of a table: CSV, JSON lines or Parquet, here or at a URL that fsspec opens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from .manifest import Entry
from .opening import naming, open_binary
from .sources import require_place
from .table_rows import LABEL_COLUMNS, Row, column_called, label_of, lines_of, table_rows

ID_COLUMN = "id"
JSON_LINES = (".jsonl", ".ndjson")


def find_texts(table: str, column: str, elsewhere: bool = False) -> Iterator[Entry]:
    """Yield an entry for each row of a table, with the text of `column`, in the order of the rows.

    An entry is called by the row's `id`, where there is such a column, else by its number from 1. A row without a text
    is listed too, and fails later. `elsewhere`: follow a redirect of the table to another host.

    Raises ValueError for a table that is damaged, has no rows or not the column, FileNotFoundError for a wrong path.
    """
    require_place(table)
    found = False
    with naming(table):
        for number, row in enumerate(_rows(table, column, elsewhere), 1):
            found, name = True, label_of(row.get("id")) or f"row {number}"
            yield Entry(name, label_of(row.get("label")), table, text=_text(row.get("text")))
    if not found:
        raise ValueError(f"images: {table!r} has no rows")


def _text(value: Any) -> str | None:
    """Return a text; None for another value, and for one that no UTF-8 can hold."""
    try:
        return value if isinstance(value, str) and value.encode() is not None else None
    except UnicodeEncodeError:
        return None


def _rows(table: str, column: str, elsewhere: bool) -> Iterator[Row]:
    suffix = table[table.rfind(".") :].lower()
    if suffix in (".csv", ".parquet"):
        return table_rows(table, partial(_required, table, column), elsewhere)
    if suffix in JSON_LINES:
        return _json_rows(table, column, elsewhere)
    raise ValueError(f"images: {table!r}; with text_column use a .csv, a .parquet or JSON lines (.jsonl)")


def _json_rows(table: str, column: str, elsewhere: bool) -> Iterator[Row]:
    """Yield the objects of lines; a line that holds none is a row without a text."""
    known = False
    with open_binary(table, elsewhere) as file:
        for line in lines_of(table, file):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            found = row if isinstance(row, dict) else {}
            known |= column in found
            yield {role: found.get(name) for role, name in _roles(column, list(found)).items()}
    if not known:
        raise ValueError(f"text_column: {column!r} is in no line of {table!r}")


def _roles(column: str, names: list[str]) -> dict[str, str]:
    """Return the columns of the text, and of ids and labels where there are such."""
    named = {"id": column_called([ID_COLUMN], names), "label": column_called(LABEL_COLUMNS, names)}
    return {"text": column} | {role: name for role, name in named.items() if name is not None}


def _required(table: str, column: str, names: list[str]) -> dict[str, str]:
    if column not in names:
        raise ValueError(f"text_column: {column!r}; the columns of {table!r} are {', '.join(names) or 'none'}")
    return _roles(column, names)
