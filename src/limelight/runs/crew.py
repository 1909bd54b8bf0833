"""What the coordinator needs of an engine, and the simplest one: a single worker inside this process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from .job import Job
from .ledger import Done
from .work import Task, Worker

Kind = Literal["ready", "done", "elsewhere", "died", "refused"]


@dataclass(frozen=True)
class Report:
    """What became of a worker: it is ready for its first task, its shard is done, or another process has that shard;
    it died, `text` says how and what to do; or it refused, with an error in `text` that all others would meet too."""

    worker: int
    kind: Kind
    done: Done | None = None
    text: str = ""

    @staticmethod
    def of(worker: int, done: Done | None) -> Report:
        return Report(worker, "elsewhere" if done is None else "done", done)


class Crew(Protocol):
    """Workers of one engine. It moves tasks and reports; what is complete, the ledger knows."""

    def hire(self) -> int:
        """Start another worker; its number. It reports itself ready, or that it died or refused."""

    def give(self, worker: int, task: Task) -> None:
        """Hand a task to a worker that has none."""

    def wait(self, seconds: float) -> list[Report]:
        """What has been reported since; waits for something at most so long."""

    def close(self) -> None:
        """Let the workers go: at once, whatever they are at."""


class Inline:
    """One worker in this process: slow, and easy to follow with a debugger."""

    def __init__(self, job: Job, out: Path) -> None:
        self._job, self._out, self._threads = job, out, torch.get_num_threads()
        self._worker: Worker | None = None
        self._task: Task | None = None
        self._reports: list[Report] = []

    def hire(self) -> int:
        self._worker = Worker(self._job, self._out)
        self._reports.append(Report(0, "ready"))
        return 0

    def give(self, worker: int, task: Task) -> None:
        self._task = task

    def wait(self, seconds: float) -> list[Report]:
        found, self._reports = self._reports, []
        if self._task is not None and self._worker is not None:
            task, self._task = self._task, None
            found.append(Report.of(0, self._worker.work(task)))
        elif not found:
            time.sleep(seconds)
        return found

    def close(self) -> None:
        self._worker = None
        torch.set_num_threads(self._threads)  # a worker sets its own, and this process is not ours
