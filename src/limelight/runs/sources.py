"""Where examples come from: a folder, a CSV or Parquet table, webdataset tars; here or on anything fsspec opens."""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from .extras import arrow
from .manifest import Entry, content_hash
from .opening import files_below, is_folder, is_remote, open_binary, read_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PATH_COLUMNS = ("path", "image", "file", "filename", "file_name")
LABEL_COLUMNS = ("label", "class")


def find_examples(images: str, limit: int | None = None) -> Iterator[Entry]:
    """The entries of `images`, in an order that depends on names alone; the first `limit` with the hash of their bytes.

    A folder: its pictures, and for those in subfolders the first subfolder's name as label. A `.csv` or `.parquet`:
    a column of paths (relative to the table) and perhaps one of labels. A `.tar`, a folder of them, or
    `train-{000..009}.tar`: webdataset, with the label in a member `.cls`. A picture that cannot be read stays in, to
    be recorded as failed. Raises ValueError where there is nothing to explain, FileNotFoundError for a wrong path.
    """
    found = False
    for position, entry in enumerate(_entries(images)):
        found = True
        yield entry if limit is not None and position >= limit else _hashed(entry)
    if not found:
        raise ValueError(f"images: {images!r} holds no pictures ({', '.join(SUFFIXES)})")


def _hashed(entry: Entry) -> Entry:
    try:
        content = read_bytes(entry.file, entry.offset, entry.size)
    except OSError:  # the worker meets it again, and records it
        return entry
    return replace(entry, size=len(content), content=content_hash(content))


def _entries(images: str) -> Iterator[Entry]:
    places = _braces(images)
    for place in places:
        if not is_remote(place) and not Path(place).exists():
            raise FileNotFoundError(f"images: {place!r} does not exist")
    suffix = images[images.rfind(".") :].lower()
    match suffix:
        case ".tar":
            for place in places:
                yield from _tar_entries(place)
        case ".csv" | ".parquet":
            yield from _table_entries(images, suffix)
        case _ if is_folder(images):
            yield from _folder_entries(images)
        case _:
            raise ValueError(f"images: {images!r}; use a folder, a .csv, a .parquet or a .tar (train-{{000..009}}.tar)")


def _folder_entries(folder: str) -> Iterator[Entry]:
    for name, place in files_below(folder):
        if name.lower().endswith(".tar"):
            yield from _tar_entries(place)
        elif name.lower().endswith(SUFFIXES):
            yield Entry(name, name.partition("/")[0] if "/" in name else "", place)


def _table_entries(table: str, suffix: str) -> Iterator[Entry]:
    folder = table.rpartition("/")[0]
    for path, label in _csv_rows(table) if suffix == ".csv" else _parquet_rows(table):
        whole = is_remote(path) or path.startswith("/") or not folder
        yield Entry(path, label, path if whole else f"{folder}/{path}")


def _csv_rows(table: str) -> Iterator[tuple[str, str]]:
    with open_binary(table) as file:
        rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        path, label = _columns(table, list(rows.fieldnames or ()))
        for row in rows:
            yield row[path] or "", (row[label] or "") if label else ""


def _parquet_rows(table: str) -> Iterator[tuple[str, str]]:
    with open_binary(table) as file:
        parquet = arrow("parquet").ParquetFile(file)
        path, label = _columns(table, parquet.schema_arrow.names)
        for batch in parquet.iter_batches(columns=[path, label] if label else [path]):
            for row in batch.to_pylist():
                found = row[label] if label else None
                yield str(row[path] or ""), "" if found is None else str(found)


def _columns(table: str, names: list[str]) -> tuple[str, str | None]:
    """The column of paths, and the one of labels where there is one. Raises ValueError with the columns there are."""
    plain = {name.strip().lower(): name for name in reversed(names)}
    path = next((plain[each] for each in PATH_COLUMNS if each in plain), None)
    if path is None:
        raise ValueError(f"images: {table!r} has columns {', '.join(names) or 'none'}; call that of the paths 'path'")
    return path, next((plain[each] for each in LABEL_COLUMNS if each in plain), None)


def _tar_entries(place: str) -> Iterator[Entry]:
    """The pictures of an uncompressed tar, each by its offset, so that any of them is read without the others."""
    tar_name = place.rpartition("/")[2]
    with open_binary(place) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for key, members in groupby(_members(tar), lambda member: _key(member.name)):
            pictures, label = list[tarfile.TarInfo](), ""
            for member in members:
                if member.name.lower().endswith(SUFFIXES):
                    pictures.append(member)
                elif member.name == f"{key}.cls" and (found := tar.extractfile(member)):
                    label = found.read().decode(errors="replace").strip()
            for member in pictures:
                yield Entry(f"{tar_name}/{member.name}", label, place, member.offset_data, member.size)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while member := tar.next():
        tar.members = []  # type: ignore[attr-defined]  # or the tar would remember them all
        if member.isfile():
            yield member


def _key(name: str) -> str:
    """What members of one example share: the path up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _braces(pattern: str) -> list[str]:
    """`a-{008..010}.tar` as three names."""
    found = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", pattern)
    if found is None:
        return [pattern]
    before, first, last, after = found.groups()
    return [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]
