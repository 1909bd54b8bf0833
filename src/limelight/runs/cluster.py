"""The engine of many machines: Ray actors that hold the model, on all machines that the cluster has by now."""

from __future__ import annotations

import os
import time
from collections import deque
from itertools import count
from pathlib import PurePath
from threading import Lock
from typing import Any

from .crew import Receive
from .in_hand import InHand
from .job import Job
from .plan import Plan
from .serving import Report
from .tables import need
from .work import Task, Worker

_ASK_EVERY = 0.5  # seconds between two questions to the tally
_COUNT_EVERY = 5.0  # seconds between two looks at the cluster's size


class Cluster:
    """Workers as Ray actors: each on one GPU if `job.device` is "cuda", else on `job.threads` cores.

    Ray places the actors and reports their deaths. An actor has one task to explain, one that it writes meanwhile or
    reads ahead, so a lost actor or machine costs these. `workers` None: as many as the cluster has room for, and more
    when machines join. Every machine must mount the output folder, or reach the bucket. Raises ConnectionError where no
    cluster answers at RAY_ADDRESS.
    """

    def __init__(self, job: Job, out: PurePath, workers: int | None, plan: Plan | None = None) -> None:
        self._ray: Any = need("ray", "ray", "engine: 'ray'")
        self._own = not self._ray.is_initialized()
        if self._own:
            self._join()
        self._gpu, self._threads, self._workers = job.device.startswith("cuda"), job.threads, workers
        self._most, self._counted = 1, -_COUNT_EVERY
        needs = {"num_gpus": 1} if self._gpu else {"num_cpus": job.threads}
        self._actor = self._ray.remote(max_restarts=0, max_concurrency=2, **needs)(Actor)
        self._job = self._ray.put(job)  # sent once for all actors
        self._out, self._plan, self._numbers = out, plan, count()
        self._actors: dict[int, Any] = {}
        self._given: dict[int, list[int]] = {}  # the shards that each worker has
        self._waiting: dict[Any, int] = {}  # the worker of each pending reply
        self._reports: deque[Report] = deque()
        # Beside the driver, so that no other machine takes it along.
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=True
        )
        tally = self._ray.remote(max_restarts=-1, num_cpus=0, scheduling_strategy=here)(Tally)
        self._tally = tally.remote()
        self._question: Any = None
        self._asked = 0.0

    def _join(self) -> None:
        address = os.environ.get("RAY_ADDRESS", "local")  # None would join whatever cluster it finds here
        try:
            self._ray.init(address, include_dashboard=False, log_to_driver=True, logging_level="warning")
        except (ConnectionError, ValueError, RuntimeError) as error:
            if address == "local":
                raise
            raise ConnectionError(
                f"RAY_ADDRESS: no Ray cluster of this version answers at {address!r} ({error}); "
                "start one there with `ray start --head`, or unset RAY_ADDRESS to start one here"
            ) from error

    def most(self) -> int:
        if self._workers is not None:
            return self._workers
        if time.monotonic() - self._counted >= _COUNT_EVERY:
            self._counted = time.monotonic()
            there = int(self._ray.cluster_resources().get("GPU" if self._gpu else "CPU", 0))
            self._most = max(1, there // (1 if self._gpu else self._threads))
        return self._most

    def start(self) -> int:
        number = next(self._numbers)
        actor = self._actor.remote(number, self._job, self._out, self._plan, self._tally)
        self._actors[number], self._given[number] = actor, []
        self._waiting[actor.ready.remote()] = number
        return number

    def give(self, worker: int, task: Task) -> None:
        self._waiting[self._actors[worker].work.remote(task)] = worker
        self._given[worker].append(task.shard)
        self._report_begun(worker)

    def _report_begun(self, worker: int) -> None:
        """Report the task that the worker explains, once it has no other."""
        if len(self._given[worker]) == 1:
            self._reports.append(Report(worker, "begun", self._given[worker][0]))

    def wait(self, seconds: float, receive: Receive) -> None:
        self._receive_own(receive)
        if not self._waiting:
            time.sleep(seconds)
            return
        if self._question is None and time.monotonic() - self._asked >= _ASK_EVERY:
            self._question, self._asked = self._tally.take.remote(), time.monotonic()
        questions = [] if self._question is None else [self._question]
        ready, _ = self._ray.wait([*questions, *self._waiting], timeout=seconds)
        for each in ready:
            if each in self._waiting:
                receive(self._receive(each))
            elif each == self._question:
                self._receive_tally(receive)
        self._receive_own(receive)

    def _receive_own(self, receive: Receive) -> None:
        while self._reports:
            receive(self._reports.popleft())

    def _receive_tally(self, receive: Receive) -> None:
        question, self._question = self._question, None
        try:
            found: dict[int, InHand] = self._ray.get(question)
        except self._ray.exceptions.RayActorError:  # Ray starts it anew, and the workers report again
            return
        for number, in_hand in found.items():
            if number in self._actors:  # else it died since
                receive(Report.working(number, in_hand))

    def _receive(self, reference: Any) -> Report:
        number = self._waiting.pop(reference)
        errors = self._ray.exceptions
        try:
            report: Report = self._ray.get(reference)
        except errors.RayTaskError as error:
            report = Report.refused(number, error.cause)
        except errors.RayActorError as error:
            report = Report(number, "died", text=" ".join(str(error).split()))
        else:
            if report.shard in self._given[number]:
                self._given[number].remove(report.shard)
                self._report_begun(number)
            return report
        del self._actors[number], self._given[number]
        self._waiting = {each: worker for each, worker in self._waiting.items() if worker != number}
        self._reports = deque(each for each in self._reports if each.worker != number)
        return report

    def close(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._ray.kill(self._tally)
        if self._own:
            self._ray.shutdown()


class Actor:
    """A worker as a Ray actor, called in two threads: one shard is written while the next is explained."""

    def __init__(self, number: int, job: Job, out: PurePath, plan: Plan | None, tally: Any) -> None:
        self._number, self._job, self._out, self._plan, self._tally = number, job, out, plan, tally
        self._explaining, self._upcoming = Lock(), deque[Task]()

    def ready(self) -> Report:
        """Load the model here, not in `__init__`: Ray reports an error there as the actor's death."""
        self._worker = Worker(self._job, self._out, self._plan, self._report, self._next)
        return Report(self._number, "ready")

    def work(self, task: Task) -> Report:
        self._upcoming.append(task)
        with self._explaining:
            self._upcoming.remove(task)
            write = self._worker.explain(task)
        return Report.of(self._number, task.shard, write())

    def _next(self) -> Task | None:
        return next(iter(tuple(self._upcoming)), None)

    def _report(self, in_hand: InHand) -> None:
        self._tally.put.remote(self._number, in_hand)  # nothing waits for it


class Tally:
    """What the workers report while they work, as a Ray actor: a worker's own actor is busy, and cannot be asked."""

    def __init__(self) -> None:
        self._in_hand: dict[int, InHand] = {}

    def put(self, number: int, in_hand: InHand) -> None:
        self._in_hand[number] = in_hand

    def take(self) -> dict[int, InHand]:
        """Return what was reported since the last call."""
        found, self._in_hand = self._in_hand, {}
        return found
