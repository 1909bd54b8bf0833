"""Tables of results: Markdown, HTML, LaTeX, CSV, Parquet and data frames, from one list of rows."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.files import replacing, write_whole

Row = dict[str, Any]


class Table:
    """A result with table forms, from two lists of rows that subclasses give.

    `_to_read()`: rows of text and numbers as a person reads them. `records()`: rows to compute with, of numbers, text,
    booleans and None.
    """

    def _to_read(self) -> list[Row]:
        raise NotImplementedError

    def records(self) -> list[Row]:
        """Return flat rows to compute with: numbers, text, booleans and None."""
        raise NotImplementedError

    def to_markdown(self) -> str:
        """Return a Markdown table; empty for no rows."""
        return markdown(self._to_read())

    def to_latex(self) -> str:
        r"""Return a LaTeX `tabular` with booktabs' rules (`\usepackage{booktabs}`), its text escaped."""
        return latex(
            [{latex_text(key): latex_text(shown(each)) for key, each in row.items()} for row in self._to_read()]
        )

    def to_csv(self, path: str | Path) -> Path:
        """Write `records()` as CSV in UTF-8: numbers in full precision, nothing where there is no figure."""
        return _written(path, ".csv", lambda part: write_whole(part, csv_text(self.records()).encode()))

    def to_parquet(self, path: str | Path) -> Path:
        """Write `records()` as Parquet, null where there is no figure.

        Raises ImportError that names the extra to install.
        """
        return _written(path, ".parquet", lambda part: write_parquet(self.records(), part))

    def to_pandas(self) -> Any:
        """Return `records()` as a pandas DataFrame. Raises ImportError that names the package to install."""
        return data_frame(self.records())

    def _repr_html_(self) -> str:
        return html_table(self._to_read())


def _written(path: str | Path, suffix: str, write: Callable[[Path], None]) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"path: {str(path)!r} ends in {path.suffix!r}; use {suffix}")
    write(path)
    return path


def shown(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a Markdown table; empty for no rows."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        lines.append("| " + " | ".join(shown(row[name]).replace("|", "\\|") for name in names) + " |")
    return "\n".join(lines) + "\n"


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p>nothing was checked</p>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(shown(value))}</td>" for value in row.values()) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    **{letter: f"\\{letter}" for letter in "{}$&#%_"},
}


def latex_text(text: str) -> str:
    r"""Escape text for LaTeX: `"50 % of a_b"` becomes `50 \% of a\_b`."""
    return "".join(_LATEX.get(letter, letter) for letter in re.sub(r"\s+", " ", text))


def latex(rows: Sequence[Mapping[str, str]], notes: Sequence[str] = (), rules: Sequence[int] = ()) -> str:
    r"""Write LaTeX cells as a `tabular` with booktabs' rules, the first column flush left, and notes as comments below.

    `rules`: positions of the rows that a `\midrule` stands before.
    """
    if not rows:
        return ""
    names = list(rows[0])
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}", r"\toprule", " & ".join(names) + r" \\", r"\midrule"]
    for place, row in enumerate(rows):
        lines += [r"\midrule"] * (place in rules) + [" & ".join(row[name] for name in names) + r" \\"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {note}" for note in notes)]) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV, with every name that occurs in one of them as a column."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _names(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _figure(value, "") for name, value in row.items()} for row in rows)
    return buffer.getvalue()


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as Parquet; a column of several kinds of values becomes text."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"to_parquet needs pyarrow: pip install 'limelight[run]' ({error}); to_csv needs nothing"
        ) from error
    columns = {name: _of_one_kind([_figure(row.get(name), None) for row in rows]) for name in _names(rows)}
    with replacing(path) as part:
        pyarrow.parquet.write_table(pyarrow.table(columns), part)


def data_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return a pandas DataFrame. Raises ImportError that names the package to install."""
    try:
        import pandas  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install pandas; to_csv and to_dict need nothing") from error
    return pandas.DataFrame(rows)


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _figure(value: Any, missing: Any) -> Any:
    return missing if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _of_one_kind(values: list[Any]) -> list[Any]:
    kinds = {float if type(each) is int else type(each) for each in values if each is not None}
    if len(kinds) < 2 and kinds <= {bool, float, str}:
        return values
    return [None if each is None else str(each) for each in values]
