"""The ledger: the records on disk of finished shards. They alone decide which shards are left."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .durable import write_durably

PLAN, MANIFEST, LOCK, LEASES, STATUS = "plan.json", "manifest.parquet", "lock", "leases", "status.json"
SHARDS, INDEX, DONE = "shards", "index", "done"
FAILURES_SHOWN = 5
_PLACE = struct.Struct("<q")  # in LEASES, for each shard: the place of its worker (see `Lease.at`), plus 1


@dataclass(frozen=True)
class Counts:
    """The examples of the manifest by outcome. `skipped` lie beyond the limit."""

    ok: int = 0
    failed: int = 0
    skipped: int = 0
    pending: int = 0

    @property
    def total(self) -> int:
        return self.ok + self.failed + self.skipped + self.pending


@dataclass(frozen=True)
class Plan:
    """The facts that are fixed at the start: the settings, and the manifest's size, labels and hash."""

    settings: Mapping[str, Any]
    method_names: tuple[str, ...]
    check_names: tuple[str, ...]
    entries: int
    labels: tuple[str, ...]
    manifest: str

    @property
    def examples(self) -> int:
        """Examples to explain: the manifest up to the limit."""
        limit: int | None = self.settings["limit"]
        return self.entries if limit is None else min(limit, self.entries)

    @property
    def shard_size(self) -> int:
        return int(self.settings["shard_size"])

    @property
    def shards(self) -> int:
        return -(-self.examples // self.shard_size)

    def ids(self, shard: int) -> range:
        size = self.shard_size
        return range(shard * size, min((shard + 1) * size, self.examples))

    def config(self) -> str:
        """Return a hash of the plan, which every done record repeats."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Done:
    """The record of a finished shard: its examples, its files with their checksums, and its costs.

    `first`, `last`: its range of examples, without `last`. `again`: memory, a worker or a file was lost, so a resumed
    run does the shard again. `rows`: model rows spent. `seconds`: for each row of the index; they are stored here, so
    that the files are the same in every run. `failures`: the first few.
    """

    shard: int
    config: str
    first: int
    last: int
    ok: int
    failed: int
    files: Mapping[str, Mapping[str, Any]]
    again: bool = False
    rows: int = 0
    seconds: tuple[float, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """The shards to do, and the counts and the last few failures of the others."""

    to_do: list[int]
    counts: Counts
    failures: tuple[str, ...]


class Ledger:
    """The files of one run that record its plan and its finished shards."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan, self._config = out, plan, plan.config()

    @staticmethod
    def open(out: Path) -> Ledger:
        """Open the ledger of a run. Raises FileNotFoundError where there is none, ValueError for a damaged plan."""
        try:
            found = json.loads((out / PLAN).read_bytes())
            found |= {name: tuple(found[name]) for name in ("method_names", "check_names", "labels")}
            return Ledger(out, Plan(**found))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"output: {str(out)!r} holds no run ({PLAN} is missing)") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"output: the {PLAN} in {str(out)!r} is damaged ({type(error).__name__}: {error}); use another folder"
            ) from error

    def write_plan(self) -> None:
        """Write the plan as the last file of a start, so that a run with a plan has a whole manifest."""
        for folder in (SHARDS, INDEX, DONE):
            (self.out / folder).mkdir(exist_ok=True)
        write_durably(self.out / PLAN, (json.dumps(asdict(self.plan), indent=1) + "\n").encode(), "plan")

    def shard_path(self, shard: int) -> Path:
        return self.out / SHARDS / f"{shard:06d}.safetensors"

    def index_path(self, shard: int) -> Path:
        return self.out / INDEX / f"{shard:06d}.parquet"

    def done_path(self, shard: int) -> Path:
        return self.out / DONE / f"{shard:06d}.json"

    def done(self, shard: int) -> Done | None:
        """Read the shard's record; None where it is missing, damaged or from another plan."""
        try:
            found = json.loads(self.done_path(shard).read_bytes())
            done = Done(**{**found, **{name: tuple(found[name]) for name in ("seconds", "failures")}})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None
        ids = self.plan.ids(shard)
        whole = (done.shard, done.config, done.first, done.last) == (shard, self._config, ids.start, ids.stop)
        return done if whole and done.ok + done.failed == len(ids) else None

    def finish(self, shard: int, contents: Mapping[Path, bytes], **facts: Any) -> Done:
        """Write the shard's files, and its record once all of them are synced. Raises OSError."""
        files = {}
        for path, content in contents.items():
            write_durably(path, content, path.parent.name)
            sha256 = hashlib.sha256(content).hexdigest()
            files[str(path.relative_to(self.out))] = {"bytes": len(content), "sha256": sha256}
        ids = self.plan.ids(shard)
        done = Done(shard, self._config, ids.start, ids.stop, files=files, **facts)
        write_durably(self.done_path(shard), (json.dumps(asdict(done)) + "\n").encode(), "done")
        return done

    def _forget(self, done: Done) -> None:
        with self.lease(done.shard) as lease:
            if lease is not None and self.done(done.shard) == done:  # else another process did it again
                self.done_path(done.shard).unlink(missing_ok=True)

    def survey(self) -> Survey:
        """Check every shard by its record and the hashes of its files.

        A shard that is damaged or to be done again loses its record, unless another process holds the shard.
        """
        to_do: list[int] = []
        failures: list[str] = []
        ok = failed = 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the interpreter lock
            for shard, (done, intact) in enumerate(pool.map(self._checked, range(self.plan.shards))):
                if done is not None and intact and not done.again:
                    ok, failed = ok + done.ok, failed + done.failed
                    failures = [*failures, *done.failures][-FAILURES_SHOWN:]
                    continue
                to_do.append(shard)
                if done is not None:
                    self._forget(done)
        return Survey(to_do, self._counts_of(ok, failed), tuple(failures))

    def _checked(self, shard: int) -> tuple[Done | None, bool]:
        """Read the shard's record, and whether its files have the checksums in it."""
        done = self.done(shard)
        return done, done is not None and all(_has_checksum(self.out / name, each) for name, each in done.files.items())

    def counts(self) -> Counts:
        """Count the examples by the records alone, without hashing files."""
        found = [done for shard in range(self.plan.shards) if (done := self.done(shard))]
        return self._counts_of(sum(done.ok for done in found), sum(done.failed for done in found))

    def _counts_of(self, ok: int, failed: int) -> Counts:
        return Counts(ok, failed, self.plan.entries - self.plan.examples, self.plan.examples - ok - failed)

    @contextmanager
    def lease(self, shard: int) -> Iterator[Lease | None]:
        """Lock the shard for this process, across all coordinators; yield None where another process holds it.

        The lock is a file lock: the kernel releases it when the process ends in any way.
        """
        descriptor = os.open(self.out / LEASES, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            start = shard * _PLACE.size
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _PLACE.size, start)
            except (BlockingIOError, PermissionError):  # some systems raise the second one for a lock that is held
                yield None
                return
            yield Lease(descriptor, start)
        finally:
            os.close(descriptor)

    def place(self, shard: int) -> int:
        """Read the last place that the shard's worker recorded (see `Lease.at`); -1 for none."""
        with (self.out / LEASES).open("rb") as file:
            file.seek(shard * _PLACE.size)
            content = file.read(_PLACE.size)
        return int(_PLACE.unpack(content)[0]) - 1 if len(content) == _PLACE.size else -1


@dataclass(frozen=True)
class Lease:
    """The lock on a shard that this process holds."""

    descriptor: int
    start: int

    def at(self, place: int) -> None:
        """Record the place of the worker, so that a death is counted against the examples there; -1 for none.

        Place 2i is the group that begins with example i, place 2i + 1 is example i by itself.
        """
        os.pwrite(self.descriptor, _PLACE.pack(place + 1), self.start)


@contextmanager
def starting(out: Path) -> Iterator[None]:
    """Lock `out` while one coordinator looks for a run there or starts one."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _has_checksum(path: Path, expected: Mapping[str, Any]) -> bool:
    """Whether the file exists with the expected size and hash, which a damaged record may lack."""
    try:
        return path.stat().st_size == expected.get("bytes") and file_sha256(path) == expected.get("sha256")
    except FileNotFoundError:
        return False


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
