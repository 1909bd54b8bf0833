"""The manifest: every example of a run, fixed at its start, in a Parquet file with one row group per shard."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from hashlib import blake2b
from pathlib import PurePath
from typing import Any

from .opening import read_bytes
from .shards import Shards
from .storage import file_of
from .tables import Kind, arrow, table_of

HASH_BYTES = 16


def content_hash(content: bytes) -> str:
    """Hash a picture's bytes: BLAKE2b of 16 bytes, in hexadecimal."""
    return blake2b(content, digest_size=HASH_BYTES).hexdigest()


def entries_hash(entries: Iterable[Entry]) -> str:
    """Hash the entries of a shard as they were listed."""
    return content_hash(json.dumps([astuple(each) for each in entries]).encode())


@dataclass(frozen=True)
class Entry:
    """One example: its name `path`, its label ("" for none), and the place of its bytes.

    `file` holds the picture's bytes, `size` of them from `offset`; an offset of -1 is the whole file. `etag`: a
    property of the file that differs after a change, "" where there is none. `content`: the hash of the bytes, ""
    before they were read; the index has it, and manifests of older versions. `text`: of a run over texts the text
    itself, None for a row without one.
    """

    path: str
    label: str
    file: str
    offset: int = -1
    size: int = -1
    etag: str = ""
    content: str = ""
    text: str | None = None

    def read(self, elsewhere: bool = False) -> bytes:
        """Read the picture's bytes, and follow redirects to other hosts where `elsewhere`.

        Raises OSError, and ValueError where the file is another than at the start, or a redirect is refused.
        """
        content = read_bytes(self.file, self.offset, self.size, self.etag, elsewhere)
        if self.content and content_hash(content) != self.content:
            raise ValueError("the file has changed since the start of the run")
        return content


def write_manifest(
    path: PurePath,
    entries: Iterable[Entry],
    shards: Shards,
    texts: bool = False,
    listed: Callable[[int, Sequence[Entry]], None] = lambda shard, entries: None,
) -> tuple[int, tuple[str, ...]]:
    """Write the entries, with their `texts` where they are such; return their number and their labels in order.

    Each row group holds the entries of a shard, which `listed` receives with its number. Memory does not grow with the
    number of entries.
    """
    kinds: dict[type, Kind] = {str: "string", int: "int64"}
    columns = {each: kinds[type(value)] for each, value in asdict(Entry("", "", "", text="")).items()}
    del columns["content"]
    if not texts:
        del columns["text"]
    schema = table_of([], columns).schema
    parquet = arrow("parquet")
    labels, count = set[str](), 0
    storage, name = file_of(path)
    with storage.writing(name, "manifest") as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for number, shard in enumerate(shards.cut(entries)):
            labels.update(entry.label for entry in shard)
            count += len(shard)
            writer.write_table(table_of([_changed(asdict(entry), _escaped) for entry in shard], columns))
            listed(number, shard)
    return count, tuple(sorted(labels - {""}))


class Manifest:
    """A manifest, read a shard at a time."""

    def __init__(self, path: PurePath) -> None:
        storage, name = file_of(path)
        self._file: Any = arrow("parquet").ParquetFile(storage.stream(name))

    def count(self) -> int:
        """Count the entries."""
        return int(self._file.metadata.num_rows)

    def labels(self) -> tuple[str, ...]:
        """Return the labels in order, as `write_manifest` does."""
        batches = self._file.iter_batches(columns=["label"])
        return tuple(sorted({_unescaped(each) for batch in batches for each in batch[0].to_pylist()} - {""}))

    def shard(self, index: int) -> list[Entry]:
        """Return the entries of a shard."""
        return [Entry(**_changed(row, _unescaped)) for row in self._file.read_row_group(index).to_pylist()]


def _changed(row: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    return {name: change(value) if isinstance(value, str) else value for name, value in row.items()}


def _escaped(text: str) -> str:
    """Escape what no UTF-8 holds by a NUL, which no name contains.

    Bytes of a file's name become two hex digits, other lone surrogates, such as of JSON, "u" and four.
    """
    bytes_escaped = re.sub("[\0\udc80-\udcff]", lambda found: f"\0{ord(found[0]) & 0xFF:02x}", text)
    return re.sub("[\ud800-\udfff]", lambda found: f"\0u{ord(found[0]):04x}", bytes_escaped)


def _unescaped(text: str) -> str:
    plain = re.sub("\0u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)
    return re.sub("\0([0-9a-f]{2})", lambda found: bytes.fromhex(found[1]).decode(errors="surrogateescape"), plain)
