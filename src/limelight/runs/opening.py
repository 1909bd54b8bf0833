"""Files and folders on this machine, or at a URL that fsspec opens (`s3://bucket/folder`)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from .extras import need


def is_remote(place: str) -> bool:
    return "://" in place


def open_binary(place: str) -> IO[bytes]:
    """Open a file for reading. Raises OSError, or ImportError where a remote one needs the extra `cloud`."""
    if not is_remote(place):
        if not stat.S_ISREG(os.stat(place).st_mode):
            raise OSError(f"{place}: no regular file")  # reading a pipe might never end
        return Path(place).open("rb")
    return cast(IO[bytes], need("fsspec", "cloud", f"{place!r}").open(place, "rb").open())


def read_bytes(place: str, offset: int, size: int) -> bytes:
    """Read `size` bytes from `offset`, or the whole file for an offset of -1. Raises OSError, also at an early end."""
    with open_binary(place) as file:
        if offset < 0:
            return file.read()
        file.seek(offset)
        content = file.read(size)
    if len(content) != size:
        raise OSError(f"{place}: ends after {len(content)} of {size} bytes from {offset}")
    return content


def is_folder(place: str) -> bool:
    if not is_remote(place):
        return Path(place).is_dir()
    system, path = _system(place)
    return bool(system.isdir(path))


def files_below(folder: str, below: str = "", above: tuple[Any, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield (name, place) of every file below a folder; the name is the path from there, after `below`.

    Sorted within each folder, files before the folders in it. Left out are names that begin with a dot, and links to
    one of the folders `above`. Memory holds the names of one folder, not of the tree.
    """
    identity = _identity(folder)
    if identity in above:
        return
    folders, files = _inside(folder)
    yield from ((below + _last(each), each) for each in files)
    for each in folders:
        yield from files_below(each, f"{below}{_last(each)}/", (*above, identity))


def _identity(folder: str) -> Any:
    """Identify a folder, by whatever path it is reached."""
    if is_remote(folder):
        return folder
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _last(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


def _inside(folder: str) -> tuple[list[str], list[str]]:
    """List the folders and the files in a folder, each sorted."""
    if not is_remote(folder):
        with os.scandir(folder) as found:
            named = [(each.path, os.path.isdir(each.path)) for each in found if not each.name.startswith(".")]
    else:
        system, path = _system(folder)
        named = [
            (str(system.unstrip_protocol(each["name"])), each["type"] == "directory")
            for each in system.ls(path, detail=True)
            if not _last(each["name"]).startswith(".")
        ]
    folders, files = (sorted(place for place, is_dir in named if is_dir is kind) for kind in (True, False))
    return folders, files


def _system(place: str) -> tuple[Any, str]:
    system, path = need("fsspec.core", "cloud", f"{place!r}").url_to_fs(place)
    return system, str(path)
