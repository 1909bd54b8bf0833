"""Leases on shards, and the places where their workers are, so that a death is counted against the examples there.

In a folder the lease is a file lock, so that coordinators on several machines share the work. A bucket has one
coordinator (`owner.py`), which hands out each shard once, and no locks.
"""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..base.errors import DamagedFile
from ..base.seals import parse_sealed_json, sealed_json
from .locks import lock
from .storage import Bucket, Folder, Storage

LOCK, LEASES = "lock", "leases"
NOWHERE, SOMEWHERE = -1, -2
"""Places of a worker: between groups, and one that was not recorded."""
_PLACE = struct.Struct("<q")  # in LEASES of a folder, for each shard: the place of its worker, plus 1


class Lease(ABC):
    """The hold of this process on a shard."""

    @abstractmethod
    def at(self, place: int) -> None:
        """Record the place of the worker, so that a death is counted against the examples there; NOWHERE for none.

        Place 2i is the group that begins with example i, place 2i + 1 is example i by itself.
        """


@dataclass(frozen=True)
class LockedLease(Lease):
    """The lock on a part of the file LEASES, which also holds the place."""

    descriptor: int
    start: int

    def at(self, place: int) -> None:
        os.pwrite(self.descriptor, _PLACE.pack(place + 1), self.start)


@dataclass(frozen=True)
class BucketLease(Lease):
    """A shard of the one coordinator. `tried`: a worker died in it before, and places are recorded.

    A place in a bucket takes a request, so the first worker of a shard records none. That works for every engine,
    since the coordinator may be on another machine than the worker, whose last messages die with it.
    """

    bucket: Bucket
    shard: int
    tried: bool

    def at(self, place: int) -> None:
        if self.tried and place == NOWHERE:
            self.bucket.delete(_name(self.shard))
        elif self.tried:
            self.bucket.replace(_name(self.shard), sealed_json({"shard": self.shard, "place": place}))


@contextmanager
def leasing(storage: Storage, shard: int, tried: bool = False) -> Iterator[Lease | None]:
    """Hold the shard for this worker; yield None where another one does. `tried`: a worker died in it before.

    A lock of a folder holds across all coordinators; the kernel releases it when the process ends in any way.
    """
    if isinstance(storage, Bucket):
        lease = BucketLease(storage, shard, tried)
        lease.at(NOWHERE)
        yield lease
        return
    assert isinstance(storage, Folder)
    descriptor = os.open(storage.path(LEASES), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        start = shard * _PLACE.size
        yield LockedLease(descriptor, start) if lock(descriptor, start, _PLACE.size) else None
    finally:
        os.close(descriptor)


def last_place(storage: Storage, shard: int, tried: bool = False) -> int:
    """Read the last place that the shard's worker recorded; NOWHERE for none, SOMEWHERE where none is recorded."""
    if isinstance(storage, Bucket):
        return _place_in(storage, shard) if tried else SOMEWHERE
    with Path(storage.path(LEASES)).open("rb") as file:
        file.seek(shard * _PLACE.size)
        content = file.read(_PLACE.size)
    return int(_PLACE.unpack(content)[0]) - 1 if len(content) == _PLACE.size else NOWHERE


def _place_in(bucket: Bucket, shard: int) -> int:
    try:
        found = parse_sealed_json(bucket.read(_name(shard)), bucket.path(_name(shard))).document
        return int(found["place"]) if found["shard"] == shard else SOMEWHERE
    except FileNotFoundError:
        return NOWHERE
    except (DamagedFile, KeyError, ValueError, TypeError):
        return SOMEWHERE


@contextmanager
def starting(out: PurePath) -> Iterator[None]:
    """Lock a folder while one coordinator looks for a run there or starts one; a bucket has its owner."""
    if not isinstance(out, Path):
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"output: {str(out)!r} is a link to nothing; name a folder") from error
    with (out / LOCK).open("ab") as file:
        lock(file.fileno(), wait=True)
        yield


def _name(shard: int) -> str:
    return f"{LEASES}/{shard:06d}.json"
