"""The interface between the coordinator and an engine, and the simplest engine: one worker inside this process."""

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
    """A message about a worker.

    "ready": it waits for its first task. "done": its shard is done. "elsewhere": another process holds that shard.
    "died": `text` says how, and what to do. "refused": it met the error in `text`, which every worker would meet.
    """

    worker: int
    kind: Kind
    done: Done | None = None
    text: str = ""

    @staticmethod
    def of(worker: int, done: Done | None) -> Report:
        return Report(worker, "elsewhere" if done is None else "done", done)


class Crew(Protocol):
    """The workers of one engine. It moves tasks and reports; the ledger records what is done."""

    def start(self) -> int:
        """Start another worker and return its number. Its first report is "ready", "died" or "refused"."""

    def give(self, worker: int, task: Task) -> None:
        """Give a task to a worker that has none."""

    def wait(self, seconds: float) -> list[Report]:
        """Return the reports since the last call; wait at most `seconds` for the first one."""

    def close(self) -> None:
        """Stop the workers at once, also in the middle of a task."""


class Inline:
    """One worker in this process: slow, and easy to follow with a debugger."""

    def __init__(self, job: Job, out: Path) -> None:
        self._job, self._out, self._threads = job, out, torch.get_num_threads()
        self._worker: Worker | None = None
        self._task: Task | None = None
        self._reports: list[Report] = []

    def start(self) -> int:
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
        torch.set_num_threads(self._threads)  # a worker sets its own, and this process belongs to the caller
