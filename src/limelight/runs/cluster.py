"""The engine of many machines: Ray actors that hold the model, each with one shard at a time."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import PurePath
from typing import Any

from .crew import Receive, Report
from .in_hand import InHand
from .job import Job
from .tables import need
from .work import Task, Worker

_ASK_EVERY = 0.5  # seconds between two questions to the tally


class Cluster:
    """Workers as Ray actors: each on one GPU if `job.device` is "cuda", else on `job.threads` cores.

    Ray places the actors and reports their deaths. No actor has more than one task, so a lost actor or machine costs
    one shard. Every machine must mount the output folder, or reach the bucket.
    """

    def __init__(self, job: Job, out: PurePath, workers: int | None) -> None:
        self._ray: Any = need("ray", "ray", "engine: 'ray'")
        self._own = not self._ray.is_initialized()
        if self._own:
            address = os.environ.get("RAY_ADDRESS", "local")  # None would join whatever cluster it finds here
            self._ray.init(address, include_dashboard=False, log_to_driver=True, logging_level="warning")
        gpu = job.device.startswith("cuda")
        needs = {"num_gpus": 1} if gpu else {"num_cpus": job.threads}
        available = self._ray.cluster_resources().get("GPU" if gpu else "CPU", 0)
        self.workers = workers or max(1, int(available) // (1 if gpu else job.threads))
        self._actor = self._ray.remote(max_restarts=0, **needs)(Actor)
        self._job = self._ray.put(job)  # sent once for all actors
        self._out, self._numbers = out, count()
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}  # the worker of each pending reply
        # Beside the driver, so that no other machine takes it along.
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=True
        )
        tally = self._ray.remote(max_restarts=-1, num_cpus=0, scheduling_strategy=here)(Tally)
        self._tally = tally.remote()
        self._question: Any = None
        self._asked = 0.0

    def start(self) -> int:
        number = next(self._numbers)
        actor = self._actor.remote(number, self._job, self._out, self._tally)
        self._actors[number] = actor
        self._waiting[actor.ready.remote()] = number
        return number

    def give(self, worker: int, task: Task) -> None:
        self._waiting[self._actors[worker].work.remote(task)] = worker

    def wait(self, seconds: float, receive: Receive) -> None:
        if not self._waiting:
            return
        if self._question is None and time.monotonic() - self._asked >= _ASK_EVERY:
            self._question, self._asked = self._tally.take.remote(), time.monotonic()
        questions = [] if self._question is None else [self._question]
        ready, _ = self._ray.wait([*questions, *self._waiting], timeout=seconds)
        for each in ready:
            if each in self._waiting:
                receive(self._receive(each))
            else:
                self._receive_tally(receive)

    def _receive_tally(self, receive: Receive) -> None:
        question, self._question = self._question, None
        try:
            found: dict[int, InHand] = self._ray.get(question)
        except self._ray.exceptions.RayActorError:  # Ray starts it anew, and the workers report again
            return
        for number, in_hand in found.items():
            receive(Report(number, "working", in_hand=in_hand))

    def _receive(self, reference: Any) -> Report:
        number = self._waiting.pop(reference)
        errors = self._ray.exceptions
        try:
            report: Report = self._ray.get(reference)
            return report
        except errors.RayTaskError as error:
            report = Report.refused(number, error.cause)
        except errors.RayActorError as error:
            report = Report(number, "died", text=" ".join(str(error).split()))
        del self._actors[number]
        return report

    def close(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._ray.kill(self._tally)
        if self._own:
            self._ray.shutdown()


class Actor:
    """A worker as a Ray actor."""

    def __init__(self, number: int, job: Job, out: PurePath, tally: Any) -> None:
        self._number, self._job, self._out, self._tally = number, job, out, tally

    def ready(self) -> Report:
        """Load the model here, not in `__init__`: Ray reports an error there as the actor's death."""
        self._worker = Worker(self._job, self._out, self._report)
        return Report(self._number, "ready")

    def work(self, task: Task) -> Report:
        return Report.of(self._number, self._worker.work(task))

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
