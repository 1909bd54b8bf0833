"""The files of an audit, and the list of all files of its folder with their SHA-256."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ..base.files import finite, json_bytes, write_whole
from ..base.seals import sealed_json
from ..base.version import versions
from .audit_page import audit_page
from .columns import rows_of
from .compacted import RECORDS
from .ledger import LEASES, LOCK, STATUS, file_sha256
from .page import write_report
from .tables import Kind, arrow, table_of
from .verdicts import Audit

AUDIT_PAGE, AUDIT_JSON, AUDIT_TABLE, BUNDLE = "audit.html", "audit.json", "audit.parquet", "bundle.json"
_CHANGING = {LOCK, LEASES, STATUS, RECORDS, BUNDLE}
"""Files that every start of a run writes anew, and the list itself."""
_COLUMNS: dict[str, Kind] = {
    "id": "int64",
    "method": "string",
    "path": "string",
    "label": "string",
    "predicted": "string",
    "correct": "bool_",
    "found": "bool_",
    "p": "float64",
    "place in group": "int64",
    "changed": "bool_",
}


def write_audit(audit: Audit) -> dict[str, Path]:
    """Write the page, the verdicts, the table and the report into the folder of the run, and the list of all files.

    Returns the paths by name. `bundle.json` has the bytes and the SHA-256 of every file of the folder, the settings and
    versions that they were made with, and a digest of itself. What a run writes anew at each start (its locks and
    status) is not in it.
    """
    out = Path(audit.run.out)
    write_whole(out / AUDIT_PAGE, audit_page(audit).encode("utf-8", errors="replace"))
    write_whole(out / AUDIT_JSON, json_bytes(audit.to_dict()))
    write_whole(out / AUDIT_TABLE, _table_bytes(audit))
    report = Path(write_report(audit.run))
    write_whole(out / BUNDLE, sealed_json(finite(_bundle(audit)), indent=2))
    return {
        "audit": out / AUDIT_PAGE,
        "report": report,
        "verdicts": out / AUDIT_JSON,
        "table": out / AUDIT_TABLE,
        "bundle": out / BUNDLE,
    }


def _bundle(audit: Audit) -> dict[str, Any]:
    out = Path(audit.run.out)
    files = sorted(each for each in out.rglob("*") if each.is_file() and not each.name.endswith(".part"))
    return {
        "versions": versions(),
        "settings": dict(audit.run.settings),
        "audit": {name: getattr(audit, name) for name in ("alpha", "seed", "shuffles")},
        "files": {
            str(each.relative_to(out)): {"bytes": each.stat().st_size, "sha256": file_sha256(each)}
            for each in files
            if str(each.relative_to(out)) not in _CHANGING
        },
    }


def _table_bytes(audit: Audit) -> bytes:
    """Return a Parquet table with a row for each map.

    `found`, `p`: the verdict on its class, null where there is none. `place in group`: 0 for the medoid of the most
    compact group, 1, 2, ... for the others by their likeness to it, null outside the group. `changed`: true where the
    prediction changes when the place of the class is covered, else null.
    """
    verdicts = {(each.method, each.label): each for each in audit.verdicts}
    places = {(each.method, i): place for each in audit.verdicts for place, i in enumerate(each.ids)}
    lines = []
    for line in rows_of(audit.run, ("id", "method", "path", "label", "predicted", "correct")).table.to_pylist():
        verdict = verdicts.get((line["method"], line["label"]))
        figures = {} if verdict is None else {"found": verdict.found, "p": verdict.p}
        if verdict is not None and verdict.cover is not None and line["id"] in verdict.cover.ids:
            figures["changed"] = True
        lines.append(line | figures | {"place in group": places.get((line["method"], line["id"]))})
    sink = io.BytesIO()
    arrow("parquet").write_table(table_of(lines, _COLUMNS), sink, compression="zstd")
    return sink.getvalue()
