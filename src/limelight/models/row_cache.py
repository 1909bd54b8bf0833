"""Answers of a black box on disk, so that a row is paid for once."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

FILE = "answers.sqlite3"
_WAIT = 60.0  # seconds for another process to finish its transaction
_TABLE = """CREATE TABLE IF NOT EXISTS answers (
    name TEXT, row BLOB, shape TEXT, outputs BLOB, digest BLOB, PRIMARY KEY (name, row)
) WITHOUT ROWID"""

T = TypeVar("T")


@dataclass(frozen=True)
class RowCache:
    """The answers of the function called `name` by the content of its rows, in one SQLite file in `folder`.

    Processes and threads can share a folder: each pass of answers is one transaction, and what was kept survives a
    process that is killed. An entry whose digest is wrong counts as missing; a file that is no database is set aside as
    `answers.sqlite3.damaged`, with a warning.
    """

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / FILE

    def find(self, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Return the outputs `(outputs,)` kept for each key, None for those that are missing or damaged."""
        query = "SELECT shape, outputs, digest FROM answers WHERE name = ? AND row = ?"

        def read(opened: sqlite3.Connection) -> list[np.ndarray | None]:
            return [_outputs(key, opened.execute(query, (self.name, key)).fetchone()) for key in keys]

        return self._do(read)

    def keep(self, keys: Sequence[bytes], outputs: np.ndarray) -> None:
        """Keep the outputs `(rows, ...)`, those of one pass, in one transaction; rows with NaN or infinity are not."""
        entries = [
            (self.name, key, *_entry(key, each))
            for key, each in zip(keys, outputs, strict=True)
            if np.isfinite(each).all()
        ]

        def write(opened: sqlite3.Connection) -> None:
            opened.execute("BEGIN IMMEDIATE")
            opened.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", entries)
            opened.execute("COMMIT")

        if entries:
            self._do(write)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self._opened() as opened:
                return work(opened)
        except sqlite3.DatabaseError as error:
            # Its subclasses are other troubles: a full disk, a file that can't be written, a lock that stays.
            if type(error) is not sqlite3.DatabaseError:
                raise
            aside = self.path.with_name(f"{FILE}.damaged")
            os.replace(self.path, aside)
            self.path.with_name(f"{FILE}-journal").unlink(missing_ok=True)
            warnings.warn(f"cache: {str(self.path)!r} is damaged ({error}) and was moved to {aside.name}", stacklevel=2)
        with self._opened() as opened:
            return work(opened)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one pass: no connection is shared by threads or inherited by a fork."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)) as opened:
            opened.execute(_TABLE)
            yield opened


def row_keys(array: np.ndarray, occasion: str) -> list[bytes]:
    """Return a key for each row of an array: a hash of its content, shape and dtype, and of the `occasion`."""
    start = hashlib.sha256(f"{array.dtype.str} {array.shape[1:]} {occasion}\n".encode())
    keys = []
    for row in np.ascontiguousarray(array):
        own = start.copy()
        own.update(row.tobytes())
        keys.append(own.digest())
    return keys


def _entry(key: bytes, outputs: np.ndarray) -> tuple[str, bytes, bytes]:
    shape, content = ",".join(map(str, outputs.shape)), outputs.astype("<f8").tobytes()
    return shape, content, _digest(key, shape, content)


def _outputs(key: bytes, entry: tuple[str, bytes, bytes] | None) -> np.ndarray | None:
    match entry:
        case (str(shape), bytes(content), bytes(digest)) if digest == _digest(key, shape, content):
            return np.frombuffer(content, "<f8").reshape([int(size) for size in shape.split(",")])
    return None


def _digest(key: bytes, shape: str, content: bytes) -> bytes:
    return hashlib.blake2b(b"%b %b %b" % (key, shape.encode(), content), digest_size=8).digest()
