"""The engine of many machines: Ray actors that hold the model, each with one shard at a time."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any

from .crew import Report
from .job import Job
from .tables import need
from .work import Task, Worker


class Cluster:
    """Workers as Ray actors: each on one GPU if `job.device` is "cuda", else on `job.threads` cores.

    Ray places the actors and reports their deaths. No actor has more than one task, so a lost actor or machine costs
    one shard. Every machine must mount the output folder.
    """

    def __init__(self, job: Job, out: Path, workers: int | None) -> None:
        self._ray: Any = need("ray", "ray", "engine: 'ray'")
        self._own = not self._ray.is_initialized()
        if self._own:
            address = os.environ.get("RAY_ADDRESS")
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

    def start(self) -> int:
        number = next(self._numbers)
        actor = self._actor.remote(number, self._job, self._out)
        self._actors[number] = actor
        self._waiting[actor.ready.remote()] = number
        return number

    def give(self, worker: int, task: Task) -> None:
        self._waiting[self._actors[worker].work.remote(task)] = worker

    def wait(self, seconds: float) -> list[Report]:
        if not self._waiting:
            return []
        ready, _ = self._ray.wait(list(self._waiting), timeout=seconds)
        return [self._receive(each) for each in ready]

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
        if self._own:
            self._ray.shutdown()


class Actor:
    """A worker as a Ray actor."""

    def __init__(self, number: int, job: Job, out: Path) -> None:
        self._number, self._job, self._out = number, job, out

    def ready(self) -> Report:
        """Load the model here, not in `__init__`: Ray reports an error there as the actor's death."""
        self._worker = Worker(self._job, self._out)
        return Report(self._number, "ready")

    def work(self, task: Task) -> Report:
        return Report.of(self._number, self._worker.work(task))
