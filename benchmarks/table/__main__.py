"""Run every case in every library that has the method, and write docs/comparison.md and docs/comparison.json.

python -m benchmarks.table                       # some minutes
python -m benchmarks.table --only deep-lift-gated guided-functional     # these rows again
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..operators import torchvision
from .page import page
from .row import LIBRARIES, Cell, Row

DOCS = Path(__file__).parents[2] / "docs"
RECORD = DOCS / "comparison.json"
PACKAGES = {"pytorch-grad-cam": "grad-cam"}
SECTIONS = {
    "Sums": "sums",
    "Formulas": "maps",
    "What a call leaves alone": "promises",
    "Games and surrogates": "games",
    "Tests of maps": "checks",
}


def rows() -> dict[str, tuple[Row, ...]]:
    """Return the rows of each section. Raises ImportError where a library is not installed (extra `bench`)."""
    torchvision()  # before those that import it
    return {title: importlib.import_module(f"{__package__}.{name}").ROWS for title, name in SECTIONS.items()}


def record(section: str, row: Row, cells: dict[str, Cell]) -> dict[str, Any]:
    return {
        "section": section,
        "name": row.name,
        "title": row.title,
        "right": row.right,
        "limit": row.limit,
        "unit": row.unit,
        "notes": dict(row.notes),
        "cells": {library: vars(cell) for library, cell in cells.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="run these rows again, and keep the others")
    asked = parser.parse_args()
    versions = {library: version(PACKAGES.get(library, library)) for library in (*LIBRARIES, "torch")}
    versions["python"] = platform.python_version()
    kept: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if asked.only else {}
    if kept and kept["versions"] != versions:
        raise ValueError(f"--only: the record is of {kept['versions']} and this would be of {versions}; run all rows")
    known = {row["name"]: row for row in kept.get("rows", [])}
    found = []
    for section, several in rows().items():
        for row in several:
            if asked.only and row.name not in asked.only:
                found.append(known[row.name])
                continue
            cells = {library: row.run(library) for library in LIBRARIES if library in row.sides}
            print(
                row.name, {library: cell.words or f"{cell.state} {cell.figure:.3g}" for library, cell in cells.items()}
            )
            found.append(record(section, row, cells))
    whole = {"versions": versions, "rows": found}
    RECORD.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (DOCS / "comparison.md").write_text(page(whole), encoding="utf-8")


if __name__ == "__main__":
    main()
