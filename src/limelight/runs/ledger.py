"""The ledger: the records on disk of finished shards. They alone decide which shards are left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

from ..base.errors import DamagedFile
from ..base.seals import parse_sealed_json, sealed_json
from .compacted import RECORDS, Done as Done, compacted, read_compacted
from .leases import LEASES as LEASES, LOCK as LOCK, Lease as Lease, last_place, leasing, starting as starting
from .opening import Facts
from .plan import Counts, Plan
from .storage import file_sha256 as file_sha256, storage_at

PLAN, MANIFEST, STATUS = "plan.json", "manifest.parquet", "status.json"
BEGUN = "begun.json"  # the plan while the examples are being listed
SHARDS, INDEX, DONE = "shards", "index", "done"
FAILURES_SHOWN = 5
MAKE_AGAIN = "the same command with --verify makes it again"
BEGIN_AGAIN = "restore it from a copy, or begin the run again in another folder"
_THREADS = 16  # that read records or hash files at once
_COMPACT_FROM = 64  # records that are in no compacted file make a new one,
_COMPACT_SHARE = 16  # and at least a sixteenth of all, so that a long run writes the file a few dozen times


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

    def __init__(self, out: PurePath, plan: Plan, is_sealed: bool = True) -> None:
        self.out, self.plan, self.config, self.is_sealed = out, plan, plan.config(), is_sealed
        self.storage = storage_at(out)
        self._compacted = self._uncompacted = 0  # records in the compacted file, and others

    @staticmethod
    def open(out: PurePath) -> Ledger:
        """Open the ledger of a run, and compare its manifest with the plan.

        Raises FileNotFoundError where there is no run, DamagedFile for a damaged plan or manifest.
        """
        storage = storage_at(out)
        try:
            found, is_sealed = parse_sealed_json(storage.read(PLAN), out / PLAN)
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
        if storage.facts(MANIFEST) is None:
            raise DamagedFile(out / MANIFEST, "it is missing", BEGIN_AGAIN)
        if storage.sha256(MANIFEST) != plan.manifest:
            raise DamagedFile(out / MANIFEST, f"it has not the SHA-256 in {PLAN}", BEGIN_AGAIN)
        return Ledger(out, plan, is_sealed)

    def write_plan(self) -> None:
        """Write the plan once all is listed, so that a run with a plan has a whole manifest."""
        self.storage.write(PLAN, sealed_json(asdict(self.plan), indent=1), "plan")
        self.storage.delete(BEGUN)

    def shard_path(self, shard: int) -> PurePath:
        return self.out / SHARDS / f"{shard:06d}.safetensors"

    def index_path(self, shard: int) -> PurePath:
        return self.out / INDEX / f"{shard:06d}.parquet"

    def done_path(self, shard: int) -> PurePath:
        return self.out / _done_name(shard)

    def done(self, shard: int) -> Done | None:
        """Read the shard's record; None where it is missing. Raises DamagedFile, also for a record of another plan."""
        path = self.done_path(shard)
        try:
            found, is_sealed = parse_sealed_json(self.storage.read(_done_name(shard)), path)
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
        if not self._is_of(shard, done) or size < 0:
            raise DamagedFile(path, "it is the record of another shard or run", MAKE_AGAIN)
        return done

    def _is_of(self, shard: int, done: Done) -> bool:
        """Whether the record is one of this shard of this run."""
        ids = self.plan.ids(shard)
        same = (done.shard, done.config, done.first, done.last) == (shard, self.config, ids.start, ids.stop)
        return same and done.ok + done.failed == len(ids)

    def finish(self, shard: int, contents: Mapping[PurePath, bytes], **facts: Any) -> Done:
        """Write the shard's files, and its record once all of them are synced. Raises OSError."""
        files = {}
        for path, content in contents.items():
            name = str(path.relative_to(self.out))
            self.storage.write(name, content, path.parent.name)
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        ids = self.plan.ids(shard)
        done = Done(shard, self.config, ids.start, ids.stop, files=files, **facts)
        self.storage.write(_done_name(shard), sealed_json(asdict(done)), "done")
        return done

    def checked_done(self, shard: int) -> Done | None:
        """Read the shard's record as `done` does, but a damaged one as a missing one: the shard is done again."""
        try:
            return self.done(shard)
        except DamagedFile:
            return None

    def damages(self, done: Done, hashed: bool = True, listed: Mapping[str, Facts] | None = None) -> list[DamagedFile]:
        """List the files of a finished shard that lack the size in its record, or where `hashed` the SHA-256.

        `listed`: what listings of the folders say of the files; by default each is asked for.
        """
        found = []
        for name, each in done.files.items():
            facts = self.storage.facts(name) if listed is None else listed.get(name)
            if facts is None:
                found.append(DamagedFile(self.out / name, "it is missing", MAKE_AGAIN))
            elif facts.size != each["bytes"]:
                found.append(DamagedFile(self.out / name, "it has not the size in its record", MAKE_AGAIN))
            elif hashed and self.storage.sha256(name) != each["sha256"]:
                found.append(DamagedFile(self.out / name, "it has not the SHA-256 in its record", MAKE_AGAIN))
        return found

    def forget(self, shard: int, found: Done | None) -> None:
        """Delete a record, unless another process has the shard or has done it again."""
        with self.lease(shard) as lease:
            if lease is not None and _brief(self.checked_done(shard)) == _brief(found):
                self.storage.delete(_done_name(shard))

    def survey(self, hashed: bool = False) -> Survey:
        """Check every shard by its record and the sizes of its files, or where `hashed` by their SHA-256.

        A shard that is damaged or to be done again loses its record, unless another process holds the shard.
        """
        to_do: list[int] = []
        failures: list[str] = []
        whole: list[Done] = []
        listed = self.storage.files(SHARDS) | self.storage.files(INDEX)

        def is_whole(done: Done | DamagedFile | None) -> bool:
            return isinstance(done, Done) and not done.again and not self.damages(done, hashed, listed)

        found = self._read(believing=not hashed)
        with ThreadPoolExecutor(_THREADS) as pool:  # hashing releases the interpreter lock
            for shard, (done, intact) in enumerate(zip(found, pool.map(is_whole, found), strict=True)):
                if isinstance(done, Done) and intact:
                    whole.append(done)
                    failures = [*failures, *done.failures][-FAILURES_SHOWN:]
                    continue
                to_do.append(shard)
                if done is not None:
                    self.forget(shard, done if isinstance(done, Done) else None)
        self.compact()
        return Survey(to_do, self.counts_of(whole), tuple(failures))

    def records(self) -> tuple[list[Done], list[DamagedFile]]:
        """Return the records of all finished shards, without their seconds, and list those that are damaged."""
        found = self._read()
        damaged = [each for each in found if isinstance(each, DamagedFile)]
        return [each for each in found if isinstance(each, Done)], damaged

    def _read(self, believing: bool = True, compact: bool = False) -> list[Done | DamagedFile | None]:
        """Return what there is for each shard: its record, the damage of it, or None.

        `believing`: take a record from the compacted file where its own file is as it was then. `compact`: write that
        file again where it lacks records.
        """
        listed = self.storage.files(DONE)
        kept = self._kept() if believing else {}

        def read(shard: int) -> Done | DamagedFile | None:
            facts = listed.get(_done_name(shard))
            if facts is None:
                return None
            if shard in kept and kept[shard][1] == facts and facts.etag:
                return kept[shard][0]
            try:
                return _brief(self.done(shard))
            except DamagedFile as error:
                return error

        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(read, range(self.plan.shards)))
        whole = {shard: (each, listed[_done_name(shard)]) for shard, each in enumerate(found) if isinstance(each, Done)}
        if compact and len(whole) >= _COMPACT_FROM and whole != kept:
            self.storage.replace(RECORDS, compacted(whole))
            kept = whole
        self._compacted = sum(kept.get(shard) == each for shard, each in whole.items())
        self._uncompacted = len(whole) - self._compacted
        return found

    def _kept(self) -> dict[int, tuple[Done, Facts]]:
        """Read the compacted records of this run; none where the file is missing or damaged."""
        try:
            found = read_compacted(self.storage.read(RECORDS))
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # also a file of another version
            return {}
        return {shard: each for shard, each in found.items() if self._is_of(shard, each[0])}

    def finished(self) -> None:
        """Count a finished shard, and compact the records now and then, once the plan says which they are."""
        self._uncompacted += 1
        if self.plan.manifest and self._uncompacted >= self._compacted // _COMPACT_SHARE:
            self.compact()

    def compact(self, all_of_them: bool = False) -> None:
        """Write the records into one file where enough of them are in none, or `all_of_them` where it is worth it."""
        if self.plan.shards >= _COMPACT_FROM and (all_of_them or self._uncompacted >= _COMPACT_FROM):
            self._read(compact=True)

    def counts_of(self, records: Iterable[Done]) -> Counts:
        """Count the examples by these records; those of other shards are pending."""
        done = [(each.ok, each.failed) for each in records]
        ok, failed = (sum(each) for each in zip((0, 0), *done, strict=True))
        return Counts(ok, failed, self.plan.entries - self.plan.examples, self.plan.examples - ok - failed)

    def lease(self, shard: int, tried: bool = False) -> AbstractContextManager[Lease | None]:
        """Hold the shard for this worker as `leasing` does."""
        return leasing(self.storage, shard, tried)

    def place(self, shard: int, tried: bool = False) -> int:
        """Read the last place that the shard's worker recorded, as `last_place` does."""
        return last_place(self.storage, shard, tried)


def _done_name(shard: int) -> str:
    return f"{DONE}/{shard:06d}.json"


def _brief(done: Done | None) -> Done | None:
    """Leave out the seconds, which compacted records lack."""
    return None if done is None else replace(done, seconds=())
