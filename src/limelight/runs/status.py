"""The status of a run: its progress, in a file that other processes read."""

from __future__ import annotations

import math
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from ..base.errors import DamagedFile
from ..base.seals import parse_sealed_json, sealed_json
from .in_hand import InHand
from .ledger import FAILURES_SHOWN, STATUS, Done, Ledger
from .owner import Owner
from .plan import Counts
from .storage import as_place, storage_at

State = Literal["running", "finished", "stopped"]
_EVERY = 1.0  # seconds between two reports


@dataclass(frozen=True)
class Status:
    """A run at a moment: the examples by outcome, and the speed since this start.

    `counts`: of finished shards, which a kill leaves as they are. `in_hand`, `failed_in_hand`: examples of other shards
    that are explained, or that failed. `share`: of the examples, from 0 to 1, with parts of those being explained.
    `seconds`: since the start. Speeds count from the moment when the first worker had loaded its model. `rows`,
    `rows_per_second`: model evaluations, forward and backward. `rows_left`, `seconds_left`: by what the examples took
    so far, None before that is known. `workers`: workers at work now; `deaths`: workers that died. `failures`: the
    latest few. `reason`: why it stopped. `damaged`: the records that are damaged; their examples count as pending.
    """

    state: State
    counts: Counts
    seconds: float = 0.0
    rows: int = 0
    rows_per_second: float = 0.0
    examples_per_second: float = 0.0
    seconds_left: float | None = None
    workers: int = 0
    deaths: int = 0
    failures: tuple[str, ...] = ()
    reason: str = ""
    damaged: tuple[str, ...] = ()
    in_hand: int = 0
    failed_in_hand: int = 0
    share: float = 0.0
    rows_left: int | None = None

    def line(self) -> str:
        """Describe the status in one line for a terminal."""
        counts = self.counts
        total = counts.total - counts.skipped
        explained, failed = counts.ok + counts.failed + self.in_hand, counts.failed + self.failed_in_hand
        parts = [f"{explained} of {total} examples", f"{failed} failed"]
        if self.state == "running":
            whole = "" if self.rows_left is None else f" of about {self.rows + self.rows_left:,}"
            parts += [f"{self.rows:,}{whole} model evaluations" if self.rows else "starting"]
            parts += [f"{self.rows_per_second:,.0f}/s"] if self.rows else []
            parts += [f"about {_duration(self.seconds_left)} left"] if self.seconds_left else []
        else:
            parts.append(self.state + (f": {self.reason}" if self.reason else ""))
        parts += [f"{len(self.damaged)} damaged records, such as {self.damaged[0]}"] if self.damaged else []
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"manifest": self.counts.total}


@dataclass
class Meter:
    """Counts the progress of a run, and reports it to `listener` and to the status file."""

    out: PurePath
    counts: Counts
    listener: Callable[[Status], None] | None = None
    failures: deque[str] = field(default_factory=lambda: deque(maxlen=FAILURES_SHOWN))
    workers: int = 0
    deaths: int = 0
    config: str = ""  # the hash of the plan
    is_listing: bool = False  # then the number of examples is not known yet, nor the time left
    owner: Owner = field(default_factory=Owner)
    _in_hand: dict[tuple[int, int], InHand] = field(default_factory=dict)  # by worker and shard
    _rows: int = 0
    _most_rows: int = 0  # that were reported: a worker that dies takes its own with it
    _examples: int = 0
    _began: float = field(default_factory=time.monotonic)
    _ready: float | None = None  # when the first worker was ready
    _reported: float = 0.0
    _written: float = -math.inf

    def ready(self) -> None:
        """Record that a worker has loaded its model."""
        self._ready = self._ready or time.monotonic()

    def working(self, worker: int, in_hand: InHand) -> None:
        """Record what a worker has done of its shard, and report the first evaluations at once."""
        is_first = not self._most_rows and in_hand.rows
        self._in_hand[worker, in_hand.shard] = in_hand
        if is_first:
            self._reported, self._written = -_EVERY, -math.inf
        self.report()

    def drop(self, worker: int, shard: int | None = None) -> None:
        """Forget what a worker had in hand, of all shards or of one."""
        for each in [each for each in self._in_hand if each[0] == worker and shard in (None, each[1])]:
            del self._in_hand[each]

    def add(self, done: Done, worker: int = 0) -> None:
        self.drop(worker, done.shard)
        self.keep(done)
        self._rows += done.rows
        self._examples += done.ok + done.failed

    def status(self, state: State, reason: str = "") -> Status:
        now = time.monotonic()
        at_work = now - (self._ready or now)
        in_hand, counts = list(self._in_hand.values()) if state == "running" else [], self.counts
        self._most_rows = rows = max(self._most_rows, self._rows + sum(each.rows for each in in_hand))
        parts = sum(each.work for each in in_hand)
        work, work_left, total = self._examples + parts, counts.pending - parts, counts.total - counts.skipped
        failures = [*self.failures, *(failure for each in in_hand for failure in each.failures)]
        return Status(
            state,
            counts,
            seconds=round(now - self._began, 3),
            rows=rows,
            rows_per_second=round(rows / at_work, 3) if at_work else 0.0,
            examples_per_second=round(work / at_work, 3) if at_work else 0.0,
            seconds_left=round(work_left * at_work / work, 1) if work and at_work and not self.is_listing else None,
            workers=self.workers,
            deaths=self.deaths,
            failures=tuple(failures[-FAILURES_SHOWN:]),
            reason=reason,
            in_hand=sum(each.examples for each in in_hand),
            failed_in_hand=sum(each.failed for each in in_hand),
            share=0.0 if self.is_listing else _share(total - work_left, total),
            rows_left=round(work_left * rows / work) if work and not self.is_listing else None,
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Report an error that ends the work inside."""
        try:
            yield
        except BaseException as error:
            self.report("stopped", f"{type(error).__name__}: {error}".rstrip(": "))
            raise

    def list_more(self, entries: int, limit: int | None) -> None:
        """Count examples that were listed; those beyond the limit are skipped."""
        total = self.counts.total + entries
        skipped = 0 if limit is None else max(0, total - limit)
        pending = self.counts.pending + entries - (skipped - self.counts.skipped)
        self.counts = replace(self.counts, skipped=skipped, pending=pending)

    def keep(self, done: Done) -> None:
        """Count the shard of an earlier start."""
        old, examples = self.counts, done.ok + done.failed
        self.counts = replace(old, ok=old.ok + done.ok, failed=old.failed + done.failed, pending=old.pending - examples)
        self.failures += done.failures

    def report(self, state: State = "running", reason: str = "") -> None:
        """Report the status to the listener and the file; while running at most once a second.

        A bucket's file is written less often. Raises RunStopped while running if another start has taken the run.
        """
        if state == "running":
            self.owner.require()
        now = time.monotonic()
        if state == "running" and now - self._reported < _EVERY:
            return
        self._reported = now
        status = self.status(state, reason)
        self._write(status)
        if self.listener:
            self.listener(status)

    def _write(self, status: Status) -> None:
        storage = storage_at(self.out)
        is_early = status.state == "running" and self._reported - self._written < storage.status_every
        if self.owner.lost or is_early:
            return
        self._written = self._reported
        process = {"pid": os.getpid(), "born": _born(os.getpid()), "host": socket.gethostname(), "updated": time.time()}
        document = {**status.to_dict(), **process, "config": self.config}
        storage.replace(STATUS, sealed_json(document, indent=1))


def read_status(output: str | os.PathLike[str]) -> Status:
    """Read the status of a run from any process: counts from the ledger, the speed as last written.

    Examples in hand count as such until the ledger has their shard. A damaged status is not believed: the examples are
    counted. Raises FileNotFoundError where there is no run, DamagedFile for a damaged plan or manifest.
    """
    out = as_place(output)
    try:
        ledger = Ledger.open(out)
    except FileNotFoundError:
        written, _ = _written(out, None)
        if written is None or written.state == "finished":
            raise
        return written  # this start is listing the pictures, or stopped while it listed them
    records, errors = ledger.records()
    counts, damaged = ledger.counts_of(records), tuple(str(each.path.relative_to(out)) for each in errors)
    written, why = _written(out, ledger)
    if written is None:
        share = _share(counts.ok + counts.failed, counts.total - counts.skipped)
        return Status("stopped" if counts.pending else "finished", counts, reason=why, damaged=damaged, share=share)
    if written.state == "finished" and counts.pending:
        written = replace(written, state="stopped", reason="not all examples are done; the same command does them")
    finished = written.counts.pending - counts.pending  # since it was written: no longer in hand
    runs = written.state == "running"
    in_hand = max(0, written.in_hand - finished) if runs else 0
    share = max(written.share if runs else 0.0, _share(counts.ok + counts.failed, counts.total - counts.skipped))
    failed = min(written.failed_in_hand, in_hand)
    return replace(written, counts=counts, damaged=damaged, in_hand=in_hand, failed_in_hand=failed, share=share)


def require_own_status(out: PurePath, ledger: Ledger | None) -> dict[str, Any]:
    """Read the status file of the run of a ledger, or of a start that has no plan yet.

    Raises FileNotFoundError, and DamagedFile for a damaged one or one of another run.
    """
    found, is_sealed = parse_sealed_json(storage_at(out).read(STATUS), out / STATUS)
    needs_digest = ledger is None or ledger.is_sealed
    if (needs_digest and not is_sealed) or (ledger and found.get("config", "") not in ("", ledger.config)):
        raise DamagedFile(out / STATUS, "it is not the status of this run")
    return found


def _written(out: PurePath, ledger: Ledger | None) -> tuple[Status | None, str]:
    """Read the status as last written; None with the reason where it cannot be believed."""
    try:
        found = require_own_status(out, ledger)
        if found["state"] == "running" and not _alive(found):
            found |= {"state": "stopped", "reason": "its process is gone; the same command resumes the run"}
        found |= {"counts": Counts(**found["counts"]), "failures": tuple(found["failures"]), "damaged": ()}
        return Status(**{name: found[name] for name in Status.__dataclass_fields__ if name in found}), ""
    except FileNotFoundError:
        return None, f"{STATUS} is missing; the examples are counted"
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, f"{STATUS} is damaged; the examples are counted"


def _share(work: float, total: int) -> float:
    return round(work / total, 6) if total else 0.0


def _alive(found: Mapping[str, Any]) -> bool:
    """Whether the process that wrote the status still runs; on another machine, whether it wrote within a minute."""
    if found["host"] != socket.gethostname():
        return bool(time.time() - found["updated"] < 60 * _EVERY)
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, for another user
        pass
    return bool(found.get("born") == _born(found["pid"]))  # else another process has this id now


def _born(pid: int) -> int | None:
    """Return the start of a process in clock ticks since boot; None where it is not known."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(facts.rpartition(")")[2].split()[19])  # the name in brackets may hold spaces and brackets


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
