"""The status of a run: its progress, in a file that other processes read."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..base.errors import DamagedFile
from ..base.files import write_whole
from ..base.seals import read_sealed_json, sealed_json
from .ledger import FAILURES_SHOWN, STATUS, Counts, Done, Ledger
from .manifest import Entry

State = Literal["running", "finished", "stopped"]
_EVERY = 1.0  # seconds between two versions of the file


@dataclass(frozen=True)
class Status:
    """A run at a moment: the examples by outcome, and the speed since this start.

    `seconds`: since the start. Speeds count from the moment when the first worker had loaded its model. `rows`,
    `rows_per_second`: model rows, forward and backward. `seconds_left`: at the speed so far, None before there is one.
    `workers`: workers at work now; `deaths`: workers that died. `failures`: the latest few. `reason`: why it stopped.
    `damaged`: the records that are damaged; their examples count as pending.
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

    def line(self) -> str:
        """Describe the status in one line for a terminal."""
        counts = self.counts
        total = counts.total - counts.skipped
        parts = [f"{counts.ok + counts.failed} of {total} examples", f"{counts.failed} failed"]
        if self.state == "running":
            parts += [f"{self.rows_per_second:,.0f} rows/s"] if self.rows else ["starting"]
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

    out: Path
    counts: Counts
    listener: Callable[[Status], None] | None = None
    failures: deque[str] = field(default_factory=lambda: deque(maxlen=FAILURES_SHOWN))
    workers: int = 0
    deaths: int = 0
    config: str = ""  # the hash of the plan, once there is one
    _rows: int = 0
    _examples: int = 0
    _began: float = field(default_factory=time.monotonic)
    _ready: float | None = None  # when the first worker was ready
    _reported: float = 0.0

    def ready(self) -> None:
        """Record that a worker has loaded its model."""
        self._ready = self._ready or time.monotonic()

    def add(self, done: Done) -> None:
        old, examples = self.counts, done.ok + done.failed
        self.counts = Counts(old.ok + done.ok, old.failed + done.failed, old.skipped, old.pending - examples)
        self._rows += done.rows
        self._examples += examples
        self.failures += done.failures

    def status(self, state: State, reason: str = "") -> Status:
        now = time.monotonic()
        at_work = now - (self._ready or now)
        row_speed, speed = (count / at_work if at_work else 0.0 for count in (self._rows, self._examples))
        left = round(self.counts.pending / speed, 1) if speed else None
        figures = (round(now - self._began, 3), self._rows, round(row_speed, 3), round(speed, 3), left)
        return Status(state, self.counts, *figures, self.workers, self.deaths, tuple(self.failures), reason)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Report an error that ends the work inside."""
        try:
            yield
        except BaseException as error:
            self.report("stopped", f"{type(error).__name__}: {error}".rstrip(": "))
            raise

    def listing(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Count the entries in the status, which other processes can read before the manifest is written."""
        for entry in entries:
            self.counts = replace(self.counts, pending=self.counts.pending + 1)
            self.report()
            yield entry

    def report(self, state: State = "running", reason: str = "") -> None:
        """Report the status to the listener and the file; while running at most once a second."""
        now = time.monotonic()
        if state == "running" and now - self._reported < _EVERY:
            return
        self._reported = now
        status = self.status(state, reason)
        process = {"pid": os.getpid(), "born": _born(os.getpid()), "host": socket.gethostname(), "updated": time.time()}
        write_whole(self.out / STATUS, sealed_json({**status.to_dict(), **process, "config": self.config}, indent=1))
        if self.listener:
            self.listener(status)


def read_status(out: Path) -> Status:
    """Read the status of a run from any process: counts from the ledger, the speed as last written.

    A damaged status is not believed: the examples are counted. Raises FileNotFoundError where there is no run,
    DamagedFile for a damaged plan or manifest.
    """
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
        return Status("stopped" if counts.pending else "finished", counts, reason=why, damaged=damaged)
    if written.state == "finished" and counts.pending:
        written = replace(written, state="stopped", reason="not all examples are done; the same command does them")
    return replace(written, counts=counts, damaged=damaged)


def require_own_status(out: Path, ledger: Ledger | None) -> dict[str, Any]:
    """Read the status file of the run of a ledger, or of a start that has no plan yet.

    Raises FileNotFoundError, and DamagedFile for a damaged one or one of another run.
    """
    found, is_sealed = read_sealed_json(out / STATUS)
    needs_digest = ledger is None or ledger.is_sealed
    if (needs_digest and not is_sealed) or (ledger and found.get("config", "") not in ("", ledger.config)):
        raise DamagedFile(out / STATUS, "it is not the status of this run")
    return found


def _written(out: Path, ledger: Ledger | None) -> tuple[Status | None, str]:
    """Read the status as last written; None with the reason where it cannot be believed."""
    try:
        found = require_own_status(out, ledger)
        if found["state"] == "running" and not _alive(found):
            found |= {"state": "stopped", "reason": "its process is gone; the same command resumes the run"}
        found |= {"counts": Counts(**found["counts"]), "failures": tuple(found["failures"]), "damaged": ()}
        return Status(**{name: found[name] for name in Status.__dataclass_fields__}), ""
    except FileNotFoundError:
        return None, "not begun"
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, f"{STATUS} is damaged; the examples are counted"


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
