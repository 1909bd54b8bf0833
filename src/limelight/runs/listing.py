"""Listing: the examples are listed in a thread, and each shard can be explained as soon as it is listed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from threading import Event, Thread
from typing import Protocol

from ..base.errors import DamagedFile
from .ledger import DONE, INDEX, MANIFEST, SHARDS, Done, Ledger, file_sha256
from .manifest import Entry, write_manifest
from .status import Meter
from .work import Task

_PATIENCE = 5.0  # seconds for a listing to notice that the run has ended
_MOST_WAITING = 256  # shards whose entries are in memory; later ones wait for the manifest


class Source(Protocol):
    """Where a coordinator gets the shards to do."""

    @property
    def is_over(self) -> bool:
        """Whether all shards are known."""

    @property
    def waiting(self) -> int:
        """The number of shards that can be done now."""

    def next(self) -> Task | None:
        """Return a task that can be done now; None where there is none."""

    def look(self, meter: Meter) -> None:
        """Report what was listed since the last call. Raises what listing raised."""

    def close(self) -> None:
        """Stop listing."""


class Listed:
    """The shards to do of a run that was listed before."""

    is_over = True

    def __init__(self, shards: Iterable[int]) -> None:
        self._shards = deque(shards)

    @property
    def waiting(self) -> int:
        return len(self._shards)

    def next(self) -> Task | None:
        return Task(self._shards.popleft()) if self._shards else None

    def look(self, meter: Meter) -> None:
        pass

    def close(self) -> None:
        pass


class Stopped(Exception):
    """The run ended while it was listing."""


class Listing:
    """Lists the examples of a run that begins, in a thread, and writes its manifest and then its plan.

    `plan`: what is known before. `entries`: all examples, beyond the limit too. `labels`: those of the model; without
    any, classes are numbered by the order of all labels, so that shards with a label that is no number wait for the
    end. `held` is closed at the end: the lock on the folder. A shard that an interrupted start has done is kept if its
    record is of the same entries; where `hashed`, files are compared with their SHA-256.
    """

    def __init__(
        self, ledger: Ledger, entries: Iterator[Entry], labels: Sequence[str], held: ExitStack, hashed: bool = False
    ) -> None:
        self._ledger, self._entries, self._labels, self._hashed = ledger, entries, labels, hashed
        self._ready: deque[Task] = deque()
        self._later: deque[int] = deque()  # shards to do once the manifest is written
        self._news: deque[int | Done] = deque()  # examples that were listed, and records that are kept
        self._listed = 0
        self._is_stopped = self._is_sealed = False
        self._error: BaseException | None = None
        self._first = Event()
        self._thread = Thread(target=self._run, args=(held,), daemon=True, name="limelight listing")
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        return len(self._ready) + (len(self._later) if self._is_sealed else 0)

    def next(self) -> Task | None:
        if self._ready:
            return self._ready.popleft()
        return Task(self._later.popleft()) if self._is_sealed and self._later else None

    def look(self, meter: Meter) -> None:
        is_over = self.is_over
        while self._news:
            news = self._news.popleft()
            if isinstance(news, Done):
                meter.keep(news)
            else:
                meter.list_more(news, self._ledger.plan.settings["limit"])
        if is_over and self._error is not None:
            raise self._error
        meter.is_listing = not is_over

    def wait(self) -> None:
        """Wait for the first example. Raises what listing raised before it."""
        self._first.wait()
        if not self._listed and self._error is not None:
            raise self._error

    def complete(self) -> Ledger:
        """Wait for the end, and open the run's ledger. Raises what listing raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return Ledger.open(self._ledger.out)

    def close(self) -> None:
        self._is_stopped = True
        self._thread.join(_PATIENCE)

    def _run(self, held: ExitStack) -> None:
        with held:
            try:
                self._list()
            except BaseException as error:  # noqa: BLE001  raised by `look`, in the thread of the coordinator
                self._error = error
            finally:
                self._first.set()

    def _list(self) -> None:
        draft, out = self._ledger.plan, self._ledger.out
        of_texts = draft.settings.get("text_column") is not None
        count, labels = write_manifest(out / MANIFEST, self._watched(), draft.division, of_texts, self._add)
        plan = replace(draft, entries=count, labels=labels, manifest=file_sha256(out / MANIFEST))
        ledger = Ledger(out, plan)
        _forget_beyond(ledger)
        ledger.write_plan()
        self._is_sealed = True

    def _watched(self) -> Iterator[Entry]:
        for entry in self._entries:
            if self._is_stopped:
                raise Stopped("the run ended while it was listing")
            self._news.append(1)
            self._listed += 1
            self._first.set()
            yield entry

    def _add(self, shard: int, entries: Sequence[Entry]) -> None:
        """Add a shard that was listed."""
        ids = self._ledger.plan.division.ids(shard)
        limit = self._ledger.plan.settings["limit"]
        found = tuple(entries[: None if limit is None else max(0, limit - ids.start)])
        if not found:
            return
        task = Task(shard, first=ids.start, entries=found)
        done = self._kept(task)
        if done is not None:
            self._news.append(done)
        elif len(self._ready) >= _MOST_WAITING or self._needs_all_labels(found):
            self._later.append(shard)
        else:
            self._ready.append(task)

    def _kept(self, task: Task) -> Done | None:
        """Return the record of an interrupted start if it is of the same entries, else delete it."""
        ledger, done = task.ledger(self._ledger), None
        try:
            done = ledger.done(task.shard)
            if done is None:
                return None
            if done.entries == task.digest and not done.again and not ledger.damages(done, self._hashed):
                return done
        except DamagedFile:
            pass
        ledger.forget(task.shard, done)
        return None

    def _needs_all_labels(self, entries: Iterable[Entry]) -> bool:
        return not self._labels and any(each.label and not each.label.isdecimal() for each in entries)


def _forget_beyond(ledger: Ledger) -> None:
    """Delete what an interrupted start wrote of shards that are not in the plan, because files were removed since."""
    for folder in (DONE, INDEX, SHARDS):  # a record goes before its files
        for name in ledger.storage.files(folder):
            number = name.rpartition("/")[2].partition(".")[0]
            if number.isdecimal() and int(number) >= ledger.plan.shards:
                ledger.storage.delete(name)
