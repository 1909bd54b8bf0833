"""The records of many finished shards in one file, so that counts, status and a resumed run need few reads.

The records themselves decide. A row of the file stands for a record only where a listing still shows the size and the
tag (time or ETag) that the record had when it was read; any other record is read. The file has a digest of itself, and
a damaged one is not believed: the records are read, and the next start writes it again.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..base.seals import BLANK, DIGEST, digest_of, sealed
from .opening import Facts
from .tables import Kind, arrow, table_of

RECORDS = "records.parquet"
_COLUMNS: dict[str, Kind] = {
    **dict.fromkeys(("shard", "first", "last", "ok", "failed", "rows", "bytes"), "int64"),
    **dict.fromkeys(("config", "tag", "files", "failures", "entries"), "string"),
    "again": "bool_",
}
_JSON = ("files", "failures")
_DIGEST = re.compile(DIGEST.encode() + rb".{0,8}?([0-9a-f]{64})", re.DOTALL)


@dataclass(frozen=True)
class Done:
    """The record of a finished shard: its examples, its files with their checksums, and its costs.

    `first`, `last`: its range of examples, without `last`. `again`: memory, a worker or a file was lost, so a resumed
    run does the shard again. `rows`: model rows spent. `seconds`: for each row of the index; they are stored here, so
    that the files are the same in every run. `failures`: the first few. `entries`: the hash of its entries of the
    manifest, "" in records of older versions.
    """

    shard: int
    config: str
    first: int
    last: int
    ok: int
    failed: int
    files: Mapping[str, Mapping[str, Any]]
    again: bool = False
    rows: int = 0
    seconds: tuple[float, ...] = ()
    failures: tuple[str, ...] = ()
    entries: str = ""


def compacted(records: Mapping[int, tuple[Done, Facts]]) -> bytes:
    """Return the file of these records, without their seconds, each with the facts of its own file."""
    lines = []
    for shard in sorted(records):
        done, facts = records[shard]
        line = asdict(done) | {"bytes": facts.size, "tag": facts.etag}
        lines.append(line | {name: json.dumps(line[name]) for name in _JSON})
    parquet, sink, table = arrow("parquet"), io.BytesIO(), table_of(lines, _COLUMNS)
    with parquet.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({DIGEST: BLANK})
    content = sink.getvalue()
    return sealed(content, content.rindex(BLANK.encode()))


def read_compacted(content: bytes) -> dict[int, tuple[Done, Facts]]:
    """Read a file of `compacted`, and require its digest. Raises ValueError for a damaged one."""
    places = [found.start(1) for found in _DIGEST.finditer(content)]
    if not any(digest_of(io.BytesIO(content), place).encode() == content[place : place + 64] for place in places):
        raise ValueError("its digest is not that of its content")
    found = {}
    for row in arrow("parquet").read_table(io.BytesIO(content)).to_pylist():
        facts = Facts(row.pop("bytes"), row.pop("tag"))
        row |= {name: json.loads(row[name]) for name in _JSON}
        found[row["shard"]] = Done(**{**row, "failures": tuple(row["failures"])}), facts
    return found
