"""Where the files of a run lie, by name: a folder of this machine, or a bucket that fsspec writes.

Every file is written whole or not at all. A folder has files that outlast a power failure and locks; a bucket has
neither, but puts an object whole, and one coordinator owns it (`owner.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import IO, Any, NamedTuple

from ..base.files import write_whole
from ..base.urls import Url
from . import durable
from .opening import WRITABLE, Facts, facts_of, file_system, folder_facts, is_remote, require_url

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_BLOCK = 1 << 20


class OpenFile(NamedTuple):
    """A file that stays open. `read(start, size)` returns its bytes from there, fewer at its end."""

    size: int
    read: Callable[[int, int], bytes]


class Storage(ABC):
    """The files of a run. Names are paths from its place, with `/`. Methods raise OSError, FileNotFoundError too."""

    status_every: float
    """Seconds between two versions of the status at least."""

    def __init__(self, place: PurePath) -> None:
        self.place = place

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Read a whole file."""

    @abstractmethod
    def open(self, name: str) -> OpenFile:
        """Open a file for reading parts of it."""

    @abstractmethod
    def stream(self, name: str) -> Any:
        """Return what `pyarrow.parquet.ParquetFile` takes."""

    @abstractmethod
    def sha256(self, name: str) -> str:
        """Hash a file."""

    @abstractmethod
    def facts(self, name: str) -> Facts | None:
        """Return the size and the tag of a file; None where it is missing."""

    @abstractmethod
    def files(self, folder: str) -> dict[str, Facts]:
        """Return the files in a folder, "" for the run's own, by name; none where there is no folder."""

    @abstractmethod
    def names(self) -> set[str]:
        """Return the names of the files and folders in the run's own place; none where there is no folder."""

    @abstractmethod
    def writing(self, name: str, what: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file to write, which is there whole after the block, or not at all. `what`: its kind, for tests."""

    @abstractmethod
    def replace(self, name: str, content: bytes) -> None:
        """Write a whole file that need not outlast a power failure."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""

    def write(self, name: str, content: bytes, what: str) -> None:
        """Write a file as `writing` does."""
        with self.writing(name, what) as file:
            file.write(content)

    def path(self, name: str) -> PurePath:
        return self.place / name


class Folder(Storage):
    """A folder of this machine, or one that all machines mount."""

    status_every = 0.0

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._root = place

    def _regular(self, name: str) -> Path:
        """Return the path of a file to read. Raises FileNotFoundError for anything else.

        A pipe might never end, and a list of files that somebody forged may name others of this machine.
        """
        path = self._root / name
        if name.startswith("/") or ".." in name.split("/"):
            raise FileNotFoundError(f"{path}: not in the folder of the run")
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileNotFoundError(f"{path}: no regular file")
        return path

    def read(self, name: str) -> bytes:
        return self._regular(name).read_bytes()

    def open(self, name: str) -> OpenFile:
        descriptor = os.open(self._regular(name), os.O_RDONLY)
        file = _Descriptor(descriptor)
        return OpenFile(os.fstat(descriptor).st_size, file.read)

    def stream(self, name: str) -> Path:
        return self._root / name

    def sha256(self, name: str) -> str:
        with self._regular(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def facts(self, name: str) -> Facts | None:
        try:
            return facts_of(str(self._regular(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def files(self, folder: str) -> dict[str, Facts]:
        below = f"{folder}/" if folder else ""
        return {f"{below}{name}": facts for name, facts in folder_facts(self._root / folder).items()}

    def names(self) -> set[str]:
        try:
            return set(os.listdir(self._root))
        except FileNotFoundError:
            return set()
        except NotADirectoryError as error:
            raise NotADirectoryError(
                f"output: {str(self.place)!r} is a file or lies below one; name a folder"
            ) from error

    def writing(self, name: str, what: str) -> AbstractContextManager[IO[bytes]]:
        return durable.writing_durably(self._root / name, what)

    def replace(self, name: str, content: bytes) -> None:
        write_whole(self._root / name, content)

    def delete(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)


class _Descriptor:
    """An open file of this machine, closed with this object."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def read(self, start: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, start)


class Bucket(Storage):
    """A bucket, or a folder in it. An object that is put is there whole or not at all, and so is one of many parts."""

    status_every = 10.0

    def __init__(self, place: Url) -> None:
        super().__init__(place)
        self._root = str(place)

    @cached_property
    def _found(self) -> tuple[Any, str]:
        return file_system(self._root)

    @property
    def _system(self) -> Any:
        return self._found[0]

    def _at(self, name: str) -> str:
        """Return the path of a name in the file system."""
        return f"{self._found[1].rstrip('/')}/{name}".rstrip("/")

    @contextmanager
    def _asking(self, name: str) -> Iterator[str]:
        """Give the path of a name; whatever a library of a store raises there becomes an OSError that names it."""
        try:
            yield self._at(name)
        except (OSError, ImportError):
            raise
        except Exception as error:
            raise OSError(f"{self.path(name)}: {type(error).__name__}: {error}") from error

    def read(self, name: str) -> bytes:
        with self._asking(name) as path:
            return bytes(self._system.cat_file(path))

    def open(self, name: str) -> OpenFile:
        found = self.facts(name)
        if found is None:
            raise FileNotFoundError(f"{self.path(name)} is missing")
        return OpenFile(found.size, partial(self._part, name, found.size))

    def _part(self, name: str, size: int, start: int, wanted: int) -> bytes:
        end = min(start + wanted, size)
        if end <= start:
            return b""  # stores refuse an empty range
        with self._asking(name) as path:
            return bytes(self._system.cat_file(path, start=start, end=end))

    def stream(self, name: str) -> Any:
        with self._asking(name) as path:
            return self._system.open(path, "rb", block_size=_BLOCK)

    def sha256(self, name: str) -> str:
        with self._asking(name) as path, self._system.open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def facts(self, name: str) -> Facts | None:
        with self._asking(name) as path:
            try:
                info = self._system.info(path)
            except FileNotFoundError:
                return None
        return Facts.of(info) if info["type"] == "file" else None

    def files(self, folder: str) -> dict[str, Facts]:
        with self._asking(folder) as path:
            try:
                found = self._system.ls(path, detail=True)
            except FileNotFoundError:
                return {}
        below = f"{folder}/" if folder else ""
        files = [each for each in found if each["type"] == "file" and not each["name"].endswith("/")]
        return {f"{below}{each['name'].rpartition('/')[2]}": Facts.of(each) for each in files}

    def names(self) -> set[str]:
        with self._asking("") as path:
            try:
                found = self._system.ls(path, detail=False)
            except FileNotFoundError:
                return set()
            names = {each.rstrip("/") for each in found} - {path}  # an object may mark the folder itself
        return {each.rpartition("/")[2] for each in names} - {""}

    @contextmanager
    def writing(self, name: str, what: str) -> Iterator[IO[bytes]]:
        """Write to a file of this machine, and put it once it is whole: an error leaves the object as it was."""
        with tempfile.NamedTemporaryFile() as file:
            durable.reached(f"{what} begun")
            yield file
            file.flush()
            durable.reached(f"{what} written")
            with self._asking(name) as path:
                self._system.put_file(file.name, path)
        durable.reached(f"{what} lasting")

    def write(self, name: str, content: bytes, what: str) -> None:
        durable.reached(f"{what} begun")
        self.replace(name, content)
        durable.reached(f"{what} lasting")

    def replace(self, name: str, content: bytes) -> None:
        with self._asking(name) as path:
            self._system.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that must not be there; whether it was not.

        The stores of s3, gs and memory refuse to replace an object. Others may not: read it back.
        """
        with self._asking(name) as path:
            try:
                self._system.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
        return True

    def delete(self, name: str) -> None:
        with self._asking(name) as path:
            try:
                self._system.rm_file(path)
            except FileNotFoundError:
                return


def storage_at(place: PurePath) -> Storage:
    """Return the storage of a place, as `as_place` returns it."""
    return Bucket(place) if isinstance(place, Url) else Folder(Path(place))


def as_place(output: str | os.PathLike[str], name: str = "output") -> PurePath:
    """Return the place of a run: an absolute path of a folder, or a `Url`.

    Raises ValueError for a URL of a protocol that is not allowed or cannot be written, and for a chain.
    """
    text = str(output) if isinstance(output, PurePath) else os.fspath(output)
    if not text:
        raise ValueError(f"{name}: '' is empty; name a folder, or a URL such as 's3://bucket/run'")
    if not is_remote(text):
        if _URL.match(text):  # Path turns s3://a into s3:/a
            raise ValueError(f"{name}: {text!r}; give a URL as text, with both slashes")
        return Path(text).absolute()  # pyarrow takes a relative path with a colon for a URL
    try:
        require_url(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    protocol, _, path = text.partition("://")
    if protocol not in WRITABLE:
        raise ValueError(f"{name}: {text!r}; {protocol} cannot be written; use a folder or {', '.join(WRITABLE)}")
    if not path.strip("/"):
        raise ValueError(f"{name}: {text!r} names no place; use such as 's3://bucket/run'")
    return Path(f"/{path.lstrip('/')}") if protocol == "file" else Url(text)


def file_of(path: PurePath) -> tuple[Storage, str]:
    """Return the storage of a file and its name there."""
    return storage_at(path.parent), path.name


def file_sha256(path: PurePath) -> str:
    """Hash a file. Raises OSError."""
    storage, name = file_of(path)
    return storage.sha256(name)
