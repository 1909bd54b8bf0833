"""The examples of a folder, a CSV or Parquet table, or webdataset tars, here or at a URL that fsspec opens."""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import IO

from ..models.pictures import SUFFIXES
from .manifest import Entry
from .opening import (
    AT_ONCE,
    facts_of,
    files_below,
    in_order,
    is_folder,
    is_remote,
    naming,
    open_binary,
    require_protocol,
    require_url,
    site_of,
)
from .table_rows import LABEL_COLUMNS, column_called, label_of, table_rows

PATH_COLUMNS = ("path", "image", "file", "filename", "file_name")
_ASKED = 64  # files whose size and tag are asked for before the first of them is taken


def find_examples(images: str, limit: int | None = None, elsewhere: bool = False) -> Iterator[Entry]:
    """Yield the entries of `images`, in an order that depends on names alone; the first `limit` with size and tag.

    A folder gives its pictures, with the first subfolder's name as label. A `.csv` or `.parquet` has a column of paths
    (relative to the table) and perhaps one of labels. A `.tar`, a folder of them, or `train-{000..009}.tar` is a
    webdataset, with the label in a member `.cls`. A picture that is missing is listed too, and fails later.

    `elsewhere`: a table may name files of another protocol and host than its own, and redirects there are followed.
    Raises ValueError where there are no pictures, for a damaged table or tar, for a URL that is not allowed,
    FileNotFoundError for a wrong path.
    """
    found, entries = False, _entries(images, elsewhere)
    with naming(images), ThreadPoolExecutor(AT_ONCE) as pool:
        for entry in in_order(pool, partial(_described, elsewhere=elsewhere), islice(entries, limit), _ASKED):
            found = True
            yield entry
        for entry in entries:
            found = True
            yield entry
    if not found:
        raise ValueError(f"images: {images!r} holds no pictures ({', '.join(SUFFIXES)})")


def require_place(place: str) -> None:
    """Raise ValueError for a URL that is not allowed, FileNotFoundError for a path where there is nothing."""
    try:
        require_url(place)
    except ValueError as error:
        raise ValueError(f"images: {error}") from error
    if not is_remote(place) and not Path(place).exists():
        raise FileNotFoundError(f"images: {place!r} does not exist")


def _described(entry: Entry, elsewhere: bool) -> Entry:
    """Add the size and the tag of the entry's file, unless the listing had them."""
    if entry.size >= 0 and entry.etag:
        return entry
    try:
        facts = facts_of(entry.file, elsewhere)
    except Exception:  # noqa: BLE001  whatever the file system raises; the worker records the same error
        return entry
    return replace(entry, etag=facts.etag, size=entry.size if entry.offset >= 0 else facts.size)


def _entries(images: str, elsewhere: bool) -> Iterator[Entry]:
    places = _braces(images)
    for place in places:
        require_place(place)
    suffix = images[images.rfind(".") :].lower()
    match suffix:
        case ".tar":
            for place in places:
                yield from _tar_entries(place, elsewhere)
        case ".csv" | ".parquet":
            yield from _table_entries(images, elsewhere)
        case _ if is_folder(images, elsewhere):
            yield from _folder_entries(images, elsewhere)
        case _:
            facts_of(images, elsewhere)  # raises where there is nothing
            raise ValueError(f"images: {images!r}; use a folder, a .csv, a .parquet or a .tar (train-{{000..009}}.tar)")


def _folder_entries(folder: str, elsewhere: bool) -> Iterator[Entry]:
    for name, place, facts in files_below(folder, elsewhere=elsewhere):
        if name.lower().endswith(".tar"):
            yield from _tar_entries(place, elsewhere)
        elif name.lower().endswith(SUFFIXES):
            label = name.partition("/")[0] if "/" in name else ""
            yield Entry(name, label, place, size=facts.size, etag=facts.etag)


def _table_entries(table: str, elsewhere: bool) -> Iterator[Entry]:
    for number, row in enumerate(table_rows(table, partial(_columns, table), elsewhere), 1):
        path = row["path"] or ""
        try:
            yield Entry(path, label_of(row.get("label")), _place_in(table, path, elsewhere))
        except ValueError as error:
            raise ValueError(f"images: {table!r}, row {number}: {error}") from error


def _place_in(table: str, path: str, elsewhere: bool) -> str:
    """Return the place of a table's path. Raises ValueError for a URL that is not allowed or is elsewhere."""
    whole = is_remote(path) or path.startswith("/")
    place = path if whole else table[: table.rfind("/") + 1] + path
    (require_url if whole else require_protocol)(place)  # "::" in the name of a file is no chain
    if not elsewhere and site_of(place) != site_of(table):
        raise ValueError(
            f"the path {path!r} is {_named(place)}, and the table {_named(table)}; a table that you trust may name it "
            "with --elsewhere (elsewhere=True)"
        )
    return place


def _named(place: str) -> str:
    protocol, host = site_of(place)
    return f"at {protocol}://{host}" if host or protocol != "file" else "on this machine"


def _columns(table: str, names: list[str]) -> Mapping[str, str]:
    """Find the columns of paths and of labels, if there are labels. Raises ValueError without a column of paths."""
    path, label = column_called(PATH_COLUMNS, names), column_called(LABEL_COLUMNS, names)
    if path is None:
        raise ValueError(f"images: {table!r} has columns {', '.join(names) or 'none'}; call that of the paths 'path'")
    return {"path": path} | ({} if label is None else {"label": label})


def _tar_entries(place: str, elsewhere: bool) -> Iterator[Entry]:
    """Yield the pictures of an uncompressed tar with their offsets, so that each can be read alone.

    As in a folder, names that begin with a dot are left out: macOS writes one beside each file. Raises ValueError where
    a label stands apart from its picture, which would lose it.
    """
    tar_name, tag = place.rpartition("/")[2], facts_of(place, elsewhere).etag

    @cache  # called for links only, because it reads the tar once more, and takes memory
    def by_name() -> dict[str, tarfile.TarInfo]:
        with open_binary(place, elsewhere) as again:
            return {posixpath.normpath(each.name): each for each in _members(place, again)}

    with open_binary(place, elsewhere) as file:
        seen = (member for member in _members(place, file) if not _is_hidden(member.name))
        for key, together in groupby(seen, lambda member: _key(member.name)):
            pictures, label, members = list[Entry](), "", list(together)
            if [member.name for member in members] == [f"{key}.cls"]:
                raise ValueError(
                    f"images: {place!r}: {key + '.cls'!r} stands apart from its picture; put the files of each example "
                    "side by side, as `tar --sort=name` does"
                )
            for member in members:
                found = _linked(member, by_name)
                if member.name.lower().endswith(SUFFIXES):
                    # A link out of the tar becomes a path that does not exist: the worker records the error.
                    at = (place, found.offset_data, found.size) if found else (f"{place}/{member.linkname}", -1, -1)
                    pictures.append(Entry(f"{tar_name}/{member.name}", "", *at, etag=tag if found else ""))
                elif found and member.name == f"{key}.cls":
                    file.seek(found.offset_data)
                    label = file.read(found.size).decode(errors="replace").strip()
            yield from (replace(each, label=label) for each in pictures)


def _members(place: str, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the files and links of a tar. Raises ValueError where its end mark is missing: members may be lost."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                tar.members = []  # type: ignore[attr-defined]  # else the tar would keep them all
                if member.isfile() or member.issym() or member.islnk():
                    yield member
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(f"images: {place!r} is no whole tar, uncompressed ({error}); make it again") from error
    file.seek(end)
    if any(file.read(2 * tarfile.BLOCKSIZE)):
        raise ValueError(f"images: {place!r} is damaged or cut at byte {end:,}, where a member begins; make it again")


def _linked(member: tarfile.TarInfo, by_name: Callable[[], dict[str, tarfile.TarInfo]]) -> tarfile.TarInfo | None:
    """Return a file itself, or the file that a link points to; None where the tar lacks it."""
    seen = set[str]()
    found: tarfile.TarInfo | None = member
    while found and not found.isfile() and found.name not in seen:
        seen.add(found.name)
        folder = posixpath.dirname(found.name) if found.issym() else ""  # a hard link's name counts from the root
        found = by_name().get(posixpath.normpath(posixpath.join(folder, found.linkname)))
    return found if found and found.isfile() else None


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _key(name: str) -> str:
    """Return the key that the members of one example share: the path up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _braces(pattern: str) -> list[str]:
    """Expand `a-{008..010}.tar` to three names."""
    found = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", pattern)
    if found is None:
        return [pattern]
    before, first, last, after = found.groups()
    return [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]
