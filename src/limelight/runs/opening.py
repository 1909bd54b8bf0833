"""Files and folders on this machine, or at a URL that fsspec opens (`s3://bucket/folder`)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from .tables import need


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

    The order is sorted within each folder, files before folders. Names that begin with a dot are left out, and links
    to one of the folders `above`. Memory holds the names of one folder, not of the tree.
    """
    status = None if is_remote(folder) else os.stat(folder)
    identity = (status.st_dev, status.st_ino) if status else folder  # equal for all paths to the same folder
    if identity in above:
        return
    for is_a_folder, name, place in _inside(folder):
        if is_a_folder:
            yield from files_below(place, f"{below}{name}/", (*above, identity))
        else:
            yield below + name, place


def _inside(folder: str) -> list[tuple[bool, str, str]]:
    """List the files, then the folders in a folder, each sorted, as (is a folder, name, place)."""
    if is_remote(folder):
        system, path = _system(folder)
        listed = [(each["type"] == "directory", each["name"].rstrip("/")) for each in system.ls(path, detail=True)]
        found = [(kind, name.rpartition("/")[2], str(system.unstrip_protocol(name))) for kind, name in listed]
    else:
        with os.scandir(folder) as entries:
            found = [(os.path.isdir(each.path), each.name, each.path) for each in entries]
    return sorted(each for each in found if not each[1].startswith("."))


def _system(place: str) -> tuple[Any, str]:
    system, path = need("fsspec.core", "cloud", f"{place!r}").url_to_fs(place)
    return system, str(path)
