"""The coordinator: gives shards to workers, and replaces workers that died."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace

from .crew import Crew
from .leases import NOWHERE, SOMEWHERE
from .ledger import Ledger
from .listing import Source
from .owner import RunStopped as RunStopped
from .serving import Report
from .status import Meter
from .work import Task

_WAIT = 0.5  # seconds; also the pause before a shard that another process holds is tried again
_LISTING = 0.02  # seconds to wait for workers while more shards may be listed
_MOST_DEATHS = 4  # in a row, without a finished shard between them, and not while an example was explained


@dataclass
class _Hand:
    """The tasks of a worker: those it was given by shard, the one it explains, and those that it has not begun."""

    tasks: dict[int, Task] = field(default_factory=dict)
    explains: int | None = None
    not_begun: list[int] = field(default_factory=list)

    @property
    def is_idle(self) -> bool:
        return self.explains is None and not self.not_begun

    @property
    def likely(self) -> int | None:
        """The shard that the worker explains, or that it was about to: its last messages may die with it."""
        return self.explains if self.explains is not None else next(iter(self.not_begun), None)

    def take(self, task: Task) -> None:
        self.tasks[task.shard] = task
        self.not_begun.append(task.shard)

    def begin(self, shard: int) -> None:
        self.leave(shard)
        self.explains = shard

    def leave(self, shard: int) -> None:
        """Note that the worker does not explain the shard any more."""
        self.not_begun = [each for each in self.not_begun if each != shard]
        if self.explains == shard:
            self.explains = None


class Coordinator:
    """One start of a run: hands out shards until all are done or the run cannot continue."""

    def __init__(self, ledger: Ledger, crew: Crew, meter: Meter, source: Source) -> None:
        self._ledger, self._crew, self._meter, self._source = ledger, crew, meter, source
        self._to_do: deque[Task] = deque()  # that came back: a worker died, or another process held the shard
        self._held_elsewhere: deque[tuple[float, Task]] = deque()  # when to try again, and the task
        self._hands: dict[int, _Hand] = {}  # of each ready worker
        self._starting = 0
        self._deaths_in_a_row = 0

    def run(self) -> None:
        """Do all shards. Raises RunStopped where every worker meets the same error, or workers keep dying."""
        try:
            while self._is_left():
                most = self._crew.most()
                while self._starting + len(self._hands) < min(most, self._left()):
                    self._crew.start()
                    self._starting += 1
                self._crew.wait(_WAIT if self._source.is_over else _LISTING, self._handle)
                self._hand_out()
                self._meter.workers = len(self._hands)
                self._meter.report()
        finally:
            self._source.close()
            self._crew.close()
            self._meter.workers = 0

    def _is_left(self) -> bool:
        """Whether shards are left, known or not yet; takes note of what was listed."""
        is_over = self._source.is_over
        self._source.look(self._meter)
        return not is_over or self._left() > 0

    def _left(self) -> int:
        """Count the shards that were listed, and that this coordinator does not know to be done."""
        given = sum(len(hand.tasks) for hand in self._hands.values())
        return self._waiting() + len(self._held_elsewhere) + given

    def _waiting(self) -> int:
        return len(self._to_do) + self._source.waiting

    def _handle(self, report: Report) -> None:
        worker, shard = report.worker, report.shard
        match report.kind:
            case "died":
                self._handle_death(report)
                return
            case "refused":
                raise RunStopped(f"{report.text}; finished shards are kept: the same command resumes the run")
            case "ready":
                self._starting -= 1
                self._meter.ready()
                self._hands[worker] = _Hand()
                return
        hand = self._hands[worker]
        match report.kind:
            case "begun":
                hand.begin(shard)
            case "working":
                assert report.in_hand is not None
                if shard in hand.tasks:  # else it was late
                    self._meter.working(worker, report.in_hand)
            case "explained":
                hand.leave(shard)
            case "done" | "elsewhere":
                hand.leave(shard)
                task = hand.tasks.pop(shard)
                if report.done is not None:
                    self._deaths_in_a_row = 0
                    self._meter.add(report.done, worker)
                    self._ledger.finished()
                else:
                    self._meter.drop(worker, shard)
                    self._held_elsewhere.append((time.monotonic() + _WAIT, task))

    def _handle_death(self, report: Report) -> None:
        """Return the shards of a dead worker to the queue, with the places where it died in them."""
        self._meter.deaths += 1
        self._meter.drop(report.worker)
        hand = self._hands.pop(report.worker, None)
        if hand is None:
            self._starting -= 1
        tasks, place = list(hand.tasks.values()) if hand else [], NOWHERE
        for i, task in enumerate(tasks):  # one is written, one explained, one was not begun: one has a place
            place = self._forget_place(task, hand)
            if place != NOWHERE:
                tasks[i] = replace(task, deaths=(*task.deaths, place))
                break
        self._to_do.extendleft(reversed(tasks))
        self._deaths_in_a_row = self._deaths_in_a_row + 1 if place == NOWHERE else 0
        if self._deaths_in_a_row >= _MOST_DEATHS:
            raise RunStopped(
                f"{self._deaths_in_a_row} workers in a row died, and not while they explained an example: {report.text}"
            )

    def _forget_place(self, task: Task, hand: _Hand | None) -> int:
        """Return the place where the shard's worker died, NOWHERE for none, so that no later death counts there too."""
        place = self._ledger.place(task.shard, bool(task.deaths))
        if place == SOMEWHERE:  # not recorded: in the shard that it explained
            return place if hand is not None and hand.likely == task.shard else NOWHERE
        if place != NOWHERE:
            with self._ledger.lease(task.shard, bool(task.deaths)) as lease:
                if lease is not None:  # else another coordinator's worker has the shard, and a place of its own
                    lease.at(NOWHERE)
        return place

    def _hand_out(self) -> None:
        """Give each idle worker a task, and then the others one ahead, while there are more tasks than workers.

        A task at which a worker died is not given ahead: it is not read ahead either.
        """
        while self._held_elsewhere and self._held_elsewhere[0][0] <= time.monotonic():
            self._to_do.append(self._held_elsewhere.popleft()[1])
        for worker, hand in self._hands.items():
            if hand.is_idle:
                self._give(worker, hand, self._to_do.popleft() if self._to_do else self._source.next())
        for worker, hand in self._hands.items():
            if not hand.not_begun and not self._to_do and self._source.waiting > self._starting + len(self._hands):
                self._give(worker, hand, self._source.next())

    def _give(self, worker: int, hand: _Hand, task: Task | None) -> None:
        if task is not None:
            hand.take(task)
            self._crew.give(worker, task)
