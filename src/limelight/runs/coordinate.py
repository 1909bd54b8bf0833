"""The coordinator: gives shards to workers, and replaces workers that died."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from .crew import Crew, Report
from .leases import NOWHERE
from .ledger import Ledger
from .owner import RunStopped as RunStopped
from .status import Meter
from .work import Task

_WAIT = 0.5  # seconds; also the pause before a shard that another process holds is tried again
_MOST_DEATHS = 4  # in a row, without a finished shard between them, and not while an example was explained


class Coordinator:
    """One start of a run: hands out shards until all are done or the run cannot continue."""

    def __init__(self, ledger: Ledger, crew: Crew, meter: Meter, workers: int, shards: Iterable[int]) -> None:
        self._ledger, self._crew, self._meter = ledger, crew, meter
        self._to_do = deque(Task(shard) for shard in shards)
        self._held_elsewhere: deque[tuple[float, Task]] = deque()  # when to try again, and the task
        self._current: dict[int, Task | None] = {}  # the task of each ready worker
        self._starting = 0
        self._wanted = min(workers, len(self._to_do))
        self._deaths_in_a_row = 0

    def run(self) -> None:
        """Do all shards. Raises RunStopped where every worker meets the same error, or workers keep dying."""
        try:
            while self._left():
                while self._starting + len(self._current) < min(self._wanted, self._left()):
                    self._crew.start()
                    self._starting += 1
                self._crew.wait(_WAIT, self._handle)
                self._hand_out()
                self._meter.workers = len(self._current)
                self._meter.report()
        finally:
            self._crew.close()
            self._meter.workers = 0

    def _left(self) -> int:
        """Count the shards that this coordinator does not know to be done."""
        running = sum(task is not None for task in self._current.values())
        return len(self._to_do) + len(self._held_elsewhere) + running

    def _handle(self, report: Report) -> None:
        task = self._current.get(report.worker)
        match report.kind:
            case "died":
                self._handle_death(report, task)
                return
            case "refused":
                raise RunStopped(f"{report.text}; finished shards are kept: the same command resumes the run")
            case "ready":
                self._starting -= 1
                self._meter.ready()
            case "working":
                assert report.in_hand is not None
                if task is not None and task.shard == report.in_hand.shard:  # else it was late
                    self._meter.working(report.worker, report.in_hand)
                return
            case "done":
                assert report.done is not None
                self._deaths_in_a_row = 0
                self._meter.add(report.done, report.worker)
                self._ledger.finished()
            case "elsewhere":
                assert task is not None
                self._meter.drop(report.worker)
                self._held_elsewhere.append((time.monotonic() + _WAIT, task))
        self._current[report.worker] = None

    def _handle_death(self, report: Report, task: Task | None) -> None:
        """Return the shard of a dead worker to the queue, with the place where it died."""
        self._meter.deaths += 1
        self._meter.drop(report.worker)
        if report.worker in self._current:
            del self._current[report.worker]
        else:
            self._starting -= 1
        place = NOWHERE
        if task is not None:
            place = self._ledger.place(task.shard, bool(task.deaths))
            self._to_do.appendleft(Task(task.shard, (*task.deaths, place)))
        self._deaths_in_a_row = self._deaths_in_a_row + 1 if place == NOWHERE else 0
        if self._deaths_in_a_row >= _MOST_DEATHS:
            raise RunStopped(
                f"{self._deaths_in_a_row} workers in a row died, and not while they explained an example: {report.text}"
            )

    def _hand_out(self) -> None:
        while self._held_elsewhere and self._held_elsewhere[0][0] <= time.monotonic():
            self._to_do.append(self._held_elsewhere.popleft()[1])
        for worker, task in self._current.items():
            if task is None and self._to_do:
                self._current[worker] = given = self._to_do.popleft()
                self._crew.give(worker, given)
