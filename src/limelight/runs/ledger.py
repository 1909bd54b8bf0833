"""The ledger: which shards are done, by records on disk; no engine and no process is asked."""

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
_PLACE = struct.Struct("<q")  # in LEASES, for each shard, where its worker is


@dataclass(frozen=True)
class Counts:
    """Examples by what became of them; together they are the manifest. `skipped` lie beyond the limit."""

    ok: int = 0
    failed: int = 0
    skipped: int = 0
    pending: int = 0

    @property
    def total(self) -> int:
        return self.ok + self.failed + self.skipped + self.pending


@dataclass(frozen=True)
class Plan:
    """What was fixed at the start: the settings, and the manifest's size, labels and hash."""

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
        """A hash of all of it, that every done record repeats."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Done:
    """A finished shard: its examples, its files with their checksums, what was not reproducible, and for how long.

    `again`: memory or a worker was lost on the way, which another try may not meet: a resumed run does it over.
    `seconds`: of each row of the index. They stand here, so that the files themselves are the same in every run.
    `rows`: model rows spent. `failures`: the first few, to be shown.
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
    """The shards to do; of the others, what became of their examples, and the last few failures."""

    to_do: list[int]
    counts: Counts
    failures: tuple[str, ...]


class Ledger:
    """The files of one run that say what is to be done and what is done."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan, self._config = out, plan, plan.config()

    @staticmethod
    def open(out: Path) -> Ledger:
        """The ledger of a run that was begun. Raises FileNotFoundError where there is none, ValueError for a plan that
        cannot be read, which nothing else in the folder could replace."""
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
        """The last file of a start: where it is, the manifest is whole."""
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
        """The shard's record; None where there is none, or it is damaged or of another plan."""
        try:
            found = json.loads(self.done_path(shard).read_bytes())
            done = Done(**{**found, **{name: tuple(found[name]) for name in ("seconds", "failures")}})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None
        ids = self.plan.ids(shard)
        whole = (done.shard, done.config, done.first, done.last) == (shard, self._config, ids.start, ids.stop)
        return done if whole and done.ok + done.failed == len(ids) else None

    def finish(self, shard: int, contents: Mapping[Path, bytes], **facts: Any) -> Done:
        """Write the shard's files, and when all of them last its record. Raises OSError."""
        files = {}
        for path, content in contents.items():
            write_durably(path, content, path.parent.name)
            files[str(path.relative_to(self.out))] = {"bytes": len(content), "sha256": _sha256(content)}
        ids = self.plan.ids(shard)
        done = Done(shard, self._config, ids.start, ids.stop, files=files, **facts)
        write_durably(self.done_path(shard), (json.dumps(asdict(done)) + "\n").encode(), "done")
        return done

    def _forget(self, done: Done) -> None:
        with self.lease(done.shard) as lease:
            if lease is not None and self.done(done.shard) == done:  # and not done again since
                self.done_path(done.shard).unlink(missing_ok=True)

    def sound(self, done: Done) -> bool:
        """Whether the shard's files are there with the checksums of the record."""
        return all(
            _file_is(self.out / name, told.get("bytes"), told.get("sha256"))  # a damaged record may lack them
            for name, told in done.files.items()
        )

    def survey(self) -> Survey:
        """Look at every shard, and hash its files.

        What was damaged, or is to be done again, loses its record, unless another process is at it now.
        """
        to_do: list[int] = []
        failures: list[str] = []
        ok = failed = 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets go of the interpreter
            for shard, (done, sound) in enumerate(pool.map(self._look, range(self.plan.shards))):
                if done is not None and sound and not done.again:
                    ok, failed = ok + done.ok, failed + done.failed
                    failures = [*failures, *done.failures][-FAILURES_SHOWN:]
                    continue
                to_do.append(shard)
                if done is not None:
                    self._forget(done)
        return Survey(to_do, self.counts_of(ok, failed), tuple(failures))

    def _look(self, shard: int) -> tuple[Done | None, bool]:
        done = self.done(shard)
        return done, done is not None and self.sound(done)

    def counts(self) -> Counts:
        """What the records say now; nothing is hashed."""
        found = [done for shard in range(self.plan.shards) if (done := self.done(shard))]
        return self.counts_of(sum(done.ok for done in found), sum(done.failed for done in found))

    def counts_of(self, ok: int, failed: int) -> Counts:
        return Counts(ok, failed, self.plan.entries - self.plan.examples, self.plan.examples - ok - failed)

    @contextmanager
    def lease(self, shard: int) -> Iterator[Lease | None]:
        """The shard for this process alone, across all coordinators; None where another has it.

        A lock of the file system: the kernel gives it back when the process ends, however it ends.
        """
        descriptor = os.open(self.out / LEASES, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            start = shard * _PLACE.size
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _PLACE.size, start)
            except BlockingIOError:
                yield None
                return
            except PermissionError:  # what some systems say instead
                yield None
                return
            yield Lease(descriptor, start)
        finally:
            os.close(descriptor)

    def place(self, shard: int) -> int:
        """Where the shard's last worker was: an example, or -1 where it was at none."""
        with (self.out / LEASES).open("rb") as file:
            file.seek(shard * _PLACE.size)
            content = file.read(_PLACE.size)
        return int(_PLACE.unpack(content)[0]) - 1 if len(content) == _PLACE.size else -1


@dataclass(frozen=True)
class Lease:
    """The right to work on a shard."""

    descriptor: int
    start: int

    def at(self, example: int) -> None:
        """Leave word of the example (-1: of none), for whoever asks why this worker died."""
        os.pwrite(self.descriptor, _PLACE.pack(example + 1), self.start)


@contextmanager
def starting(out: Path) -> Iterator[None]:
    """One coordinator at a time looks whether a run is there, and starts it."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_is(path: Path, size: int | None, sha256: str | None) -> bool:
    try:
        return path.stat().st_size == size and file_sha256(path) == sha256
    except FileNotFoundError:
        return False


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
