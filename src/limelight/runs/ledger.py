"""The ledger: the records on disk of finished shards. They alone decide which shards are left."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base.errors import DamagedFile
from ..base.seals import read_sealed_json, sealed_json
from .durable import write_durably
from .locks import lock
from .plan import Counts, Plan

PLAN, MANIFEST, LOCK, LEASES, STATUS = "plan.json", "manifest.parquet", "lock", "leases", "status.json"
BEGUN = "begun.json"  # the plan while the examples are being listed
SHARDS, INDEX, DONE = "shards", "index", "done"
FAILURES_SHOWN = 5
MAKE_AGAIN = "the same command with --verify makes it again"
BEGIN_AGAIN = "restore it from a copy, or begin the run again in another folder"
_PLACE = struct.Struct("<q")  # in LEASES, for each shard: the place of its worker (see `Lease.at`), plus 1


@dataclass(frozen=True)
class Done:
    """The record of a finished shard: its examples, its files with their checksums, and its costs.

    `first`, `last`: its range of examples, without `last`. `again`: memory, a worker or a file was lost, so a resumed
    run does the shard again. `rows`: model rows spent. `seconds`: for each row of the index; they are stored here, so
    that the files are the same in every run. `failures`: the first few. `entries`: the hash of its entries of the
    manifest, "" in records of older versions.
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
    entries: str = ""


@dataclass(frozen=True)
class Survey:
    """The shards to do, and the counts and the last few failures of the others."""

    to_do: list[int]
    counts: Counts
    failures: tuple[str, ...]


class Ledger:
    """The files of one run that record its plan and its finished shards.

    `is_sealed`: the plan has a digest. Then every record must have one; a run that an older version began has none.
    """

    def __init__(self, out: Path, plan: Plan, is_sealed: bool = True) -> None:
        self.out, self.plan, self.config, self.is_sealed = out, plan, plan.config(), is_sealed

    @staticmethod
    def open(out: Path) -> Ledger:
        """Open the ledger of a run, and compare its manifest with the plan.

        Raises FileNotFoundError where there is no run, DamagedFile for a damaged plan or manifest.
        """
        try:
            found, is_sealed = read_sealed_json(out / PLAN)
            found |= {name: tuple(found[name]) for name in ("method_names", "check_names", "labels")}
            plan = Plan(**found)
            if plan.shards < 0:
                raise ValueError(f"{plan.shards} shards")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"output: {str(out)!r} holds no run ({PLAN} is missing)") from error
        except DamagedFile as error:
            raise DamagedFile(error.path, error.why, BEGIN_AGAIN) from error
        except (ValueError, TypeError, KeyError, ArithmeticError) as error:
            raise DamagedFile(out / PLAN, f"{type(error).__name__}: {error}", BEGIN_AGAIN) from error
        if not (out / MANIFEST).is_file():
            raise DamagedFile(out / MANIFEST, "it is missing", BEGIN_AGAIN)
        if file_sha256(out / MANIFEST) != plan.manifest:
            raise DamagedFile(out / MANIFEST, f"it has not the SHA-256 in {PLAN}", BEGIN_AGAIN)
        return Ledger(out, plan, is_sealed)

    def write_plan(self) -> None:
        """Write the plan once all is listed, so that a run with a plan has a whole manifest."""
        write_durably(self.out / PLAN, sealed_json(asdict(self.plan), indent=1), "plan")
        (self.out / BEGUN).unlink(missing_ok=True)

    def shard_path(self, shard: int) -> Path:
        return self.out / SHARDS / f"{shard:06d}.safetensors"

    def index_path(self, shard: int) -> Path:
        return self.out / INDEX / f"{shard:06d}.parquet"

    def done_path(self, shard: int) -> Path:
        return self.out / DONE / f"{shard:06d}.json"

    def done(self, shard: int) -> Done | None:
        """Read the shard's record; None where it is missing. Raises DamagedFile, also for a record of another plan."""
        path = self.done_path(shard)
        try:
            found, is_sealed = read_sealed_json(path)
            done = Done(**{**found, **{name: tuple(found[name]) for name in ("seconds", "failures")}})
            size = sum(each["bytes"] for each in done.files.values() if each["sha256"])
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            raise DamagedFile(path, error.why, MAKE_AGAIN) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedFile(path, f"{type(error).__name__}: {error}", MAKE_AGAIN) from error
        if self.is_sealed and not is_sealed:
            raise DamagedFile(path, f"it has no digest, and {PLAN} has one", MAKE_AGAIN)
        ids = self.plan.ids(shard)
        same = (done.shard, done.config, done.first, done.last) == (shard, self.config, ids.start, ids.stop)
        if not same or done.ok + done.failed != len(ids) or size < 0:
            raise DamagedFile(path, "it is the record of another shard or run", MAKE_AGAIN)
        return done

    def finish(self, shard: int, contents: Mapping[Path, bytes], **facts: Any) -> Done:
        """Write the shard's files, and its record once all of them are synced. Raises OSError."""
        files = {}
        for path, content in contents.items():
            write_durably(path, content, path.parent.name)
            sha256 = hashlib.sha256(content).hexdigest()
            files[str(path.relative_to(self.out))] = {"bytes": len(content), "sha256": sha256}
        ids = self.plan.ids(shard)
        done = Done(shard, self.config, ids.start, ids.stop, files=files, **facts)
        write_durably(self.done_path(shard), sealed_json(asdict(done)), "done")
        return done

    def checked_done(self, shard: int) -> Done | None:
        """Read the shard's record as `done` does, but a damaged one as a missing one: the shard is done again."""
        try:
            return self.done(shard)
        except DamagedFile:
            return None

    def damages(self, done: Done, hashed: bool = True) -> list[DamagedFile]:
        """List the files of a finished shard that lack the size in its record, or where `hashed` the SHA-256."""
        found = []
        for name, each in done.files.items():
            path = self.out / name
            if not path.is_file():
                found.append(DamagedFile(path, "it is missing", MAKE_AGAIN))
            elif path.stat().st_size != each["bytes"]:
                found.append(DamagedFile(path, "it has not the size in its record", MAKE_AGAIN))
            elif hashed and file_sha256(path) != each["sha256"]:
                found.append(DamagedFile(path, "it has not the SHA-256 in its record", MAKE_AGAIN))
        return found

    def forget(self, shard: int, found: Done | None) -> None:
        """Delete a record, unless another process has the shard or has done it again."""
        with self.lease(shard) as lease:
            if lease is not None and self.checked_done(shard) == found:
                self.done_path(shard).unlink(missing_ok=True)

    def survey(self, hashed: bool = False) -> Survey:
        """Check every shard by its record and the sizes of its files, or where `hashed` by their SHA-256.

        A shard that is damaged or to be done again loses its record, unless another process holds the shard.
        """
        to_do: list[int] = []
        failures: list[str] = []
        whole: list[Done] = []

        def check(shard: int) -> tuple[Done | None, bool]:
            done = self.checked_done(shard)
            return done, done is not None and not self.damages(done, hashed)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the interpreter lock
            for shard, (done, intact) in enumerate(pool.map(check, range(self.plan.shards))):
                if done is not None and intact and not done.again:
                    whole.append(done)
                    failures = [*failures, *done.failures][-FAILURES_SHOWN:]
                    continue
                to_do.append(shard)
                self.forget(shard, done)
        return Survey(to_do, self.counts_of(whole), tuple(failures))

    def records(self) -> tuple[list[Done], list[DamagedFile]]:
        """Read the records of all finished shards, and list those that are damaged."""
        found, damaged = list[Done](), list[DamagedFile]()
        for shard in range(self.plan.shards):
            try:
                done = self.done(shard)
            except DamagedFile as error:
                damaged.append(error)
            else:
                found += [done] if done else []
        return found, damaged

    def counts_of(self, records: Iterable[Done]) -> Counts:
        """Count the examples by these records; those of other shards are pending."""
        done = [(each.ok, each.failed) for each in records]
        ok, failed = (sum(each) for each in zip((0, 0), *done, strict=True))
        return Counts(ok, failed, self.plan.entries - self.plan.examples, self.plan.examples - ok - failed)

    @contextmanager
    def lease(self, shard: int) -> Iterator[Lease | None]:
        """Lock the shard for this worker, across all coordinators; yield None where another one holds it.

        The lock is a file lock: the kernel releases it when the process ends in any way.
        """
        descriptor = os.open(self.out / LEASES, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            start = shard * _PLACE.size
            yield Lease(descriptor, start) if lock(descriptor, start, _PLACE.size) else None
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
        lock(file.fileno(), wait=True)
        yield


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
