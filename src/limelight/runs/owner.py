"""The owner of a run in a bucket: one start at a time, which renews its record while it lives.

Records are numbered, `owner/000001.json`, and the highest one names the owner. A start takes a run by putting the next
number, which the store refuses where another start was quicker. A record is renewed every BEAT seconds; one that is
older than DEAD_AFTER seconds, or damaged, and does not change while it is watched, is of a start that died.

A folder has locks on its shards instead, and no owner.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePath

from ..base.errors import DamagedFile
from ..base.seals import parse_sealed_json, sealed_json
from .storage import Bucket, storage_at

OWNER = "owner"  # the folder of the records
BEAT = 10.0  # seconds between two versions of a record
DEAD_AFTER = 60.0  # seconds after which a record that is not renewed is of a start that died
_WATCHED = 2.5  # beats that such a record is watched: the clocks of two machines may differ


class RunStopped(RuntimeError):
    """The run cannot continue. Finished shards are kept, and the same command resumes it."""


@dataclass(frozen=True)
class Record:
    """Who owns a run: `token` differs for every start, `since` and `beat` are times of its machine's clock."""

    token: str
    host: str
    process: int
    since: float
    beat: float
    has_ended: bool = False

    def is_fresh(self) -> bool:
        """Whether the last beat is near, by this machine's clock, in either direction."""
        return abs(time.time() - self.beat) < DEAD_AFTER

    def words(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).isoformat(" ", "seconds")
        return (
            f"process {self.process} on {self.host} has it since {since}, "
            f"and was heard of {time.time() - self.beat:.0f} s ago"
        )


class Owner:
    """This start's hold on a run. `lost`: why it ended; "" while it lasts."""

    lost = ""

    def require(self) -> None:
        """Raise RunStopped where another start has taken the run."""
        if self.lost:
            raise RunStopped(self.lost)


class BucketOwner(Owner):
    """The hold on a run in a bucket, which a thread renews."""

    def __init__(self, bucket: Bucket, number: int, record: Record) -> None:
        self._bucket, self._number, self._record = bucket, number, record
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="limelight owner", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Say that this start has ended, unless another one has the run."""
        self._ended.set()
        self._thread.join()
        if not self.lost and self._is_ours():
            self._put(replace(self._record, beat=time.time(), has_ended=True))

    def _renew(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if not self._is_ours():
                    return
                self._put(replace(self._record, beat=time.time()))
            except OSError:
                continue  # the store may answer again; until then the record grows old, and another start may take over

    def _put(self, record: Record) -> None:
        self._bucket.replace(_name(self._number), sealed_json(asdict(record)))

    def _is_ours(self) -> bool:
        number, other = _newest(self._bucket)
        if number < self._number or (number == self._number and (other is None or other.token == self._record.token)):
            return True  # a record that is gone or damaged is written again
        who = other.words() if other else f"of which {_name(number)} is damaged"
        self.lost = f"output: {str(self._bucket.place)!r} was taken over by another start: {who}"
        return False


@contextmanager
def owning(out: PurePath) -> Iterator[Owner]:
    """Own a run while the block runs; a folder needs no owner.

    Raises RunStopped where another start owns it, FileNotFoundError where there is no such bucket.
    """
    storage = storage_at(out)
    if not isinstance(storage, Bucket):
        yield Owner()
        return
    owner = _take(storage)
    owner.begin()
    try:
        yield owner
    finally:
        owner.end()


def _take(bucket: Bucket) -> BucketOwner:
    number, found = _newest(bucket)
    if number and not (found and found.has_ended):
        _require_dead(bucket, number, found)
    now = time.time()
    record = Record(uuid.uuid4().hex, socket.gethostname(), os.getpid(), now, now)
    try:
        is_first = bucket.create(_name(number + 1), sealed_json(asdict(record)))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"output: {str(bucket.place)!r}: {error}; make the bucket first") from error
    newest, read = _newest(bucket)
    if not is_first or newest != number + 1 or read is None or read.token != record.token:
        raise RunStopped(_refusal(bucket, read))
    for name in bucket.files(OWNER):
        if _number(name) < newest:
            bucket.delete(name)
    return BucketOwner(bucket, newest, record)


def _require_dead(bucket: Bucket, number: int, found: Record | None) -> None:
    """Raise RunStopped unless the record is old or damaged, and stays so while it is watched."""
    end = time.monotonic() + _WATCHED * BEAT
    before = found
    while True:
        if found is not None and (found.is_fresh() or (before is not None and found != before)):
            raise RunStopped(_refusal(bucket, found))
        if time.monotonic() >= end:
            return
        time.sleep(BEAT / 4)
        newest, found = _newest(bucket)
        if newest != number:
            raise RunStopped(_refusal(bucket, found))
        if found is not None and found.has_ended:
            return
        before = before or found


def _refusal(bucket: Bucket, found: Record | None) -> str:
    who = found.words() if found else "another start took it just now"
    return (
        f"output: {str(bucket.place)!r}: {who}; a run in a bucket has one start at a time. Wait for its end or end it "
        f"there; where it is dead, the same command takes over {DEAD_AFTER:g} s after it was last heard of"
    )


def _newest(bucket: Bucket) -> tuple[int, Record | None]:
    """Return the highest number, 0 for none, and its record; None where it is damaged or just gone."""
    number = max(map(_number, bucket.files(OWNER)), default=0)
    if not number:
        return 0, None
    name = _name(number)
    try:
        document, is_sealed = parse_sealed_json(bucket.read(name), bucket.path(name))
        return number, Record(**document) if is_sealed else None
    except (DamagedFile, TypeError, FileNotFoundError):
        return number, None


def _name(number: int) -> str:
    return f"{OWNER}/{number:06d}.json"


def _number(name: str) -> int:
    """Return the number of a record; 0 for another file."""
    stem = name.rpartition("/")[2].removesuffix(".json")
    return int(stem) if stem.isdecimal() else 0
