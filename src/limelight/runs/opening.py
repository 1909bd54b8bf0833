"""Files and folders on this machine, or at a URL of an allowed protocol (`s3://bucket/folder`).

fsspec opens anything: chains such as `simplecache::s3://`, and protocols that run what a file says (`reference://`). So
the protocol is checked, and the path goes to that protocol's file system alone, which knows nothing of chains.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from ..base.errors import EXPECTED
from .redirects import RedirectElsewhere, refusing
from .tables import need

AT_ONCE = 16  # folders that are listed at once, and files that are asked for their facts: each answer takes its time
PROTOCOLS = ("s3", "gs", "az", "https", "file", "memory")
WRITABLE = tuple(each for each in PROTOCOLS if each != "https")
"""Those of the output of a run."""
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated")
"""What file systems call the property that differs after a change, the best first."""


class Facts(NamedTuple):
    """The size of a file, and a tag that differs after a change: the name of a property and its value; -1 and "" where
    not known."""

    size: int = -1
    etag: str = ""

    @staticmethod
    def of(info: Mapping[str, Any]) -> Facts:
        size = info.get("size")
        name = next((each for each in _TAGS if info.get(each)), "")
        return Facts(size if isinstance(size, int) else -1, _tag(info, name) if name else "")


class Found(NamedTuple):
    """A file below a folder: its path from there, its place, and what the listing says of it."""

    name: str
    place: str
    facts: Facts = Facts()


Inside = list[tuple[bool, Found]]
"""What a folder holds, each with whether it is a folder."""
T = TypeVar("T")
U = TypeVar("U")


def is_remote(place: str) -> bool:
    return "://" in place


def require_protocol(place: str) -> None:
    """Raise ValueError for a URL of a protocol that is not in PROTOCOLS, and for a chain of several."""
    protocol = place.partition("://")[0]
    if is_remote(place) and ("::" in protocol or protocol not in PROTOCOLS):
        raise ValueError(
            f"{place!r} has the protocol {protocol!r}; use {', '.join(PROTOCOLS)}, and no chain of several ('::')"
        )


def require_url(place: str) -> None:
    """Raise ValueError for a URL that someone wrote and that is a chain or of a protocol not in PROTOCOLS, and for a
    file of another host: `file://photos` is none of this folder."""
    require_protocol(place)
    if place.startswith("file://") and not place.startswith("file:///"):
        raise ValueError(f"{place!r} names a host; a file of this machine has three slashes, file:///folder/file")
    if is_remote(place) and "::" in place:
        raise ValueError(f"{place!r} chains several URLs by '::'; use the URL of the file alone")


def site_of(place: str) -> tuple[str, str]:
    """Return the protocol and the host or bucket of a place; "" for what lies in this machine's files or memory."""
    protocol, host = urlsplit(place)[:2] if is_remote(place) else ("file", "")
    return protocol, "" if protocol == "memory" else host


def open_binary(place: str, elsewhere: bool = False) -> IO[bytes]:
    """Open a file for reading. `elsewhere`: follow redirects to other hosts.

    Raises OSError, ValueError for a protocol that is not in PROTOCOLS and for a redirect to another host, ImportError
    where the extra `cloud` is missing.
    """
    if not is_remote(place):
        if not stat.S_ISREG(os.stat(place).st_mode):
            raise OSError(f"{place}: no regular file")  # reading a pipe might never end
        return Path(place).open("rb")
    with _system(place, elsewhere) as (system, path):
        return cast(IO[bytes], system.open(path, "rb"))


def facts_of(place: str, elsewhere: bool = False) -> Facts:
    """Return the size and the tag of a file. Raises as `open_binary` does."""
    if is_remote(place):
        with _system(place, elsewhere) as (system, path):
            return Facts.of(system.info(path))
    found = os.stat(place)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{place}: no regular file")
    return Facts(found.st_size, _local_tag(found))


def read_bytes(place: str, offset: int = -1, size: int = -1, etag: str = "", elsewhere: bool = False) -> bytes:
    """Read `size` bytes from `offset`, or the whole file for an offset of -1.

    Raises OSError, also at an early end, and ValueError where the file's size or tag are not those given: "" and -1
    fit every file.
    """
    with open_binary(place, elsewhere) as file:
        if etag and not _has_tag(file, place, etag, elsewhere):
            raise ValueError("the file has changed since the start of the run")
        if offset < 0:
            content = file.read()
            if size not in (-1, len(content)):
                raise ValueError("the file has changed since the start of the run")
            return content
        file.seek(offset)
        content = file.read(size)
    if len(content) != size:
        raise OSError(f"{place}: ends after {len(content)} of {size} bytes from {offset}")
    return content


def _has_tag(file: IO[bytes], place: str, etag: str, elsewhere: bool) -> bool:
    """Whether an open file has the tag, or none of that name."""
    if not is_remote(place):
        return _local_tag(os.fstat(file.fileno())) == etag
    info = getattr(file, "details", None)  # of a file of a bucket, which costs no further request
    if not isinstance(info, Mapping):
        with _system(place, elsewhere) as (system, path):
            info = system.info(path)
    name = etag.partition(" ")[0]
    return not info.get(name) or _tag(info, name) == etag


def _tag(info: Mapping[str, Any], name: str) -> str:
    """Write a property of a file, equally whether a listing or the file itself tells of it."""
    value = info[name]
    return f"{name} {value.timestamp() if isinstance(value, datetime) else str(value).strip(chr(34))}"


def _local_tag(found: os.stat_result) -> str:
    return f"mtime_ns {found.st_mtime_ns}"


def folder_facts(folder: Path) -> dict[str, Facts]:
    """Return the facts of every file in a folder of this machine by name; none where there is no folder.

    Names that begin with a dot are left out: parts that are being written.
    """
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        found = {each.name: each.stat() for each in entries if each.is_file() and not each.name.startswith(".")}
    return {name: Facts(each.st_size, _local_tag(each)) for name, each in found.items()}


def is_folder(place: str, elsewhere: bool = False) -> bool:
    if not is_remote(place):
        return Path(place).is_dir()
    with _system(place, elsewhere) as (system, path):
        return bool(system.isdir(path))


def in_order(pool: Executor, function: Callable[[T], U], items: Iterable[T], most: int) -> Iterator[U]:
    """Yield the function's value of each item in order, while `pool` works on at most `most` later ones."""
    waiting = deque[Future[U]]()
    for item in items:
        waiting.append(pool.submit(function, item))
        while waiting and (len(waiting) >= most or waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def files_below(folder: str, elsewhere: bool = False) -> Iterator[Found]:
    """Yield every file below a folder; its name is the path from there.

    The order is sorted within each folder, files before folders. Names that begin with a dot are left out, and links
    to a folder above. 16 folders are listed at once; memory holds the names of these, not of the tree.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from _below(pool, folder, _inside(folder, elsewhere), "", (), elsewhere)


def _below(
    pool: Executor, folder: str, inside: Inside, below: str, above: tuple[Any, ...], elsewhere: bool
) -> Iterator[Found]:
    """Yield the files of a folder, and then those below it; names begin with `below`."""
    status = None if is_remote(folder) else os.stat(folder)
    identity = (status.st_dev, status.st_ino) if status else folder  # equal for all paths to the same folder
    if identity in above:
        return
    yield from (found._replace(name=below + found.name) for is_a_folder, found in inside if not is_a_folder)
    folders = [found for is_a_folder, found in inside if is_a_folder]
    listed = in_order(pool, lambda each: _inside(each.place, elsewhere), folders, AT_ONCE)
    for found, there in zip(folders, listed, strict=True):
        yield from _below(pool, found.place, there, f"{below}{found.name}/", (*above, identity), elsewhere)


def _inside(folder: str, elsewhere: bool) -> Inside:
    """List the files, then the folders in a folder, each sorted, with whether it is a folder.

    Raises ValueError where a listing, such as a web page, has a file of another host.
    """
    found: Inside
    if is_remote(folder):
        found = []
        with _system(folder, elsewhere) as (system, path):
            listed = system.ls(path, detail=True)
        for each in listed:
            name = each["name"].rstrip("/")
            if name == path.rstrip("/"):
                continue  # the folder itself: an object that marks it, or a page's link to itself
            place = str(system.unstrip_protocol(name))
            if site_of(place) != site_of(folder):
                raise ValueError(f"images: {folder!r} lists {place!r}, which is elsewhere")
            found.append((each["type"] == "directory", Found(name.rpartition("/")[2], place, Facts.of(each))))
    else:
        with os.scandir(folder) as entries:
            found = [(os.path.isdir(each.path), Found(each.name, each.path)) for each in entries]
    return sorted(each for each in found if not each[1].name.startswith("."))


def file_system(place: str) -> tuple[Any, str]:
    """Return the file system of a URL for reading and writing, without a memory of listings, and the path there.

    Raises as `open_binary` does.
    """
    kind, options, path = _kind_of(place)
    return kind(**options, use_listings_cache=False), path


def _kind_of(place: str) -> tuple[Any, dict[str, Any], str]:
    """Return the class of a URL's file system, its options, and the path, as fsspec does for a URL without a chain."""
    require_protocol(place)
    fsspec = need("fsspec", "cloud", f"{place!r}")
    kind = fsspec.get_filesystem_class(place.partition("://")[0])
    return kind, kind._get_kwargs_from_urls(place), str(kind._strip_protocol(place))


@contextmanager
def _system(place: str, elsewhere: bool) -> Iterator[tuple[Any, str]]:
    """Give the file system of a URL's protocol, and the path there.

    Unless `elsewhere`, redirects to other hosts are refused inside, by ValueError.
    """
    kind, options, path = _kind_of(place)
    if place.startswith("http") and not elsewhere:
        options["client_kwargs"] = _refusing()
    try:
        yield kind(**options), path
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, RedirectElsewhere):
            cause = cause.__cause__ or cause.__context__  # fsspec says that the file is missing, whatever happened
        if cause is None:
            raise
        raise cause from None


@contextmanager
def naming(images: str) -> Iterator[None]:
    """Let an error of the system or of a store's library, whatever it raises, name the data set as an OSError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, EXPECTED) and (not isinstance(error, OSError) or str(error).startswith("images: ")):
            raise
        said = f"{type(error).__name__}: {error}" + (f" ({error.__cause__})" if error.__cause__ else "")
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f"images: {images!r} cannot be read: {said}") from error


@cache  # fsspec keeps a file system, and its connections, for equal options
def _refusing() -> dict[str, Any]:
    return {"trace_configs": [refusing()]}
