"""The coordinator: hands out shards, replaces workers that died, and asks the ledger what is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from .crew import Crew, Report
from .ledger import Ledger
from .status import Meter
from .work import Task

_WAIT = 0.5  # seconds; also how soon a shard that another process has is asked for again
_FRUITLESS = 4  # deaths in a row without a finished shard between them, at no example


class RunStopped(RuntimeError):
    """The run cannot go on; what is done is kept, and the same command goes on from there."""


class Coordinator:
    """One start of a run, until nothing is left to do or nothing more can be done."""

    def __init__(self, ledger: Ledger, crew: Crew, meter: Meter, workers: int, shards: Iterable[int]) -> None:
        self._ledger, self._crew, self._meter = ledger, crew, meter
        self._to_do = deque(Task(shard) for shard in shards)
        self._elsewhere: deque[tuple[float, Task]] = deque()  # when to ask again, and for what
        self._at: dict[int, Task | None] = {}  # what each worker that is ready is at
        self._hiring = 0
        self._wanted = min(workers, len(self._to_do))
        self._fruitless = 0

    def run(self) -> None:
        """Raises RunStopped where every worker meets the same error, or workers keep dying."""
        try:
            while self._left():
                while self._hiring + len(self._at) < min(self._wanted, self._left()):
                    self._crew.hire()
                    self._hiring += 1
                for report in self._crew.wait(_WAIT):
                    self._hear(report)
                self._hand_out()
                self._meter.workers = len(self._at)
                self._meter.tell()
        finally:
            self._crew.close()
            self._meter.workers = 0

    def _left(self) -> int:
        """Shards that are not done, as far as this coordinator knows."""
        return len(self._to_do) + len(self._elsewhere) + sum(task is not None for task in self._at.values())

    def _hear(self, report: Report) -> None:
        task = self._at.get(report.worker)
        match report.kind:
            case "ready":
                self._hiring -= 1
                self._at[report.worker] = None
                self._meter.ready()
            case "done":
                assert report.done is not None
                self._at[report.worker] = None
                self._fruitless = 0
                self._meter.add(report.done)
            case "elsewhere":
                assert task is not None
                self._at[report.worker] = None
                self._elsewhere.append((time.monotonic() + _WAIT, task))
            case "died":
                self._bury(report, task)
            case "refused":
                raise RunStopped(f"{report.text}; what is done is kept: the same command goes on from here")

    def _bury(self, report: Report, task: Task | None) -> None:
        """Put the shard of a dead worker back, with word of where it died."""
        self._meter.deaths += 1
        if report.worker in self._at:
            del self._at[report.worker]
        else:
            self._hiring -= 1
        place = -1
        if task is not None:
            place = self._ledger.place(task.shard)
            self._to_do.appendleft(Task(task.shard, (*task.deaths, place)))
        self._fruitless = self._fruitless + 1 if place == -1 else 0
        if self._fruitless >= _FRUITLESS:
            raise RunStopped(
                f"{self._fruitless} workers in a row died, and not while they explained an example: {report.text}"
            )

    def _hand_out(self) -> None:
        while self._elsewhere and self._elsewhere[0][0] <= time.monotonic():
            _, task = self._elsewhere.popleft()
            self._to_do.append(task)
        for worker in [worker for worker, task in self._at.items() if task is None]:
            if self._to_do:
                task = self._to_do.popleft()
                self._at[worker] = task
                self._crew.give(worker, task)
