"""The interface between the coordinator and an engine, and the engines of one machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import PurePath
from typing import Protocol

import torch

from .in_hand import InHand
from .job import Job
from .plan import Plan
from .serving import Behind, Line, Report
from .work import Task, Worker

Receive = Callable[[Report], None]


class Crew(Protocol):
    """The workers of one engine. It moves tasks and reports; the ledger records finished shards."""

    def most(self) -> int:
        """Return the number of workers to have now; it may change."""

    def start(self) -> int:
        """Start another worker and return its number. Its first report is "ready", "died" or "refused"."""

    def give(self, worker: int, task: Task) -> None:
        """Give a task to a worker that has none, or one besides the task that it has begun."""

    def wait(self, seconds: float, receive: Receive) -> None:
        """Pass on the reports since the last call; wait at most `seconds` for the first one."""

    def close(self) -> None:
        """Stop the workers at once, also in the middle of a task."""


class Inline:
    """One worker in this process: slow, and easy to follow with a debugger."""

    def __init__(self, job: Job, out: PurePath, plan: Plan | None = None) -> None:
        self._job, self._out, self._plan, self._threads = job, out, plan, torch.get_num_threads()
        self._worker: Worker | None = None
        self._tasks: deque[Task] = deque()
        self._is_new = self._is_begun = False
        self._receive: Receive = _ignore
        self._error: Exception | None = None

    def most(self) -> int:
        return 1

    def start(self) -> int:
        self._worker = Worker(self._job, self._out, self._plan, self._report, self._upcoming)
        self._is_new = True
        return 0

    def give(self, worker: int, task: Task) -> None:
        self._tasks.append(task)

    def _upcoming(self) -> Task | None:
        return self._tasks[0] if self._tasks else None

    def wait(self, seconds: float, receive: Receive) -> None:
        if self._is_new:
            self._is_new = False
            receive(Report(0, "ready"))
        elif self._tasks and not self._is_begun:
            self._is_begun = True
            receive(Report(0, "begun", self._tasks[0].shard))  # and may get the next task, to read ahead
        elif self._tasks and self._worker is not None:
            task, self._receive, self._is_begun = self._tasks.popleft(), receive, False
            done = self._worker.work(task)
            if self._error is not None:
                raise self._error
            receive(Report.of(0, task.shard, done))
        else:
            time.sleep(seconds)

    def _report(self, in_hand: InHand) -> None:
        """Report in the middle of a pass, where an error would count as one of the example: it is raised later."""
        if self._error is None:
            try:
                self._receive(Report.working(0, in_hand))
            except Exception as error:  # noqa: BLE001  whatever the caller's listener raises; `wait` raises it
                self._error = error

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker, self._receive = None, _ignore
        torch.set_num_threads(self._threads)  # a worker sets its own, and this process belongs to the caller


class Local:
    """Worker processes, each with its own model and `job.threads` threads, so that they do not fight for cores.

    They end when the coordinator does. `plan`: that of a run that is being listed.
    """

    def __init__(self, job: Job, out: PurePath, workers: int, plan: Plan | None = None) -> None:
        self._job, self._out, self._many, self._plan = job, out, workers, plan
        self._context = multiprocessing.get_context("spawn")  # a fork would break torch's threads
        self._numbers = count()
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}

    def most(self) -> int:
        return self._many

    def start(self) -> int:
        number = next(self._numbers)
        ours, theirs = self._context.Pipe()
        given = theirs, number, self._job, self._out, self._plan
        name = f"limelight worker {number}"
        process = self._context.Process(target=_serve, args=given, name=name, daemon=True)
        process.start()
        theirs.close()
        self._workers[number] = (process, ours)
        return number

    def give(self, worker: int, task: Task) -> None:
        with contextlib.suppress(BrokenPipeError):  # the worker died just now: wait() reports it
            self._workers[worker][1].send(task)

    def wait(self, seconds: float, receive: Receive) -> None:
        numbers = {connection: number for number, (_, connection) in self._workers.items()}
        for each in wait(numbers, seconds):
            if isinstance(each, Connection):
                receive(self._receive(numbers[each]))

    def _receive(self, number: int) -> Report:
        process, connection = self._workers[number]
        try:
            report = connection.recv()
            assert isinstance(report, Report)
        except (EOFError, ConnectionResetError):
            process.join()
            report = Report(number, "died", text=_ending(process.exitcode))
        if report.kind in ("died", "refused"):
            connection.close()
            del self._workers[number]
        return report

    def close(self) -> None:
        for process, _ in self._workers.values():
            process.terminate()
        for process, connection in self._workers.values():
            process.join()
            connection.close()
        self._workers.clear()


def _serve(connection: Connection, number: int, job: Job, out: PurePath, plan: Plan | None) -> None:
    """Work in a worker process until the coordinator closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator, which ends the workers
    os.dup2(2, 1)  # the output of a model must not mix with the results on standard output
    line = Line(connection, number)
    try:
        worker = Worker(job, out, plan, line.tell, line.upcoming)
        line.send(Report(number, "ready"))
        with Behind(worker, number, line.send) as behind:
            while True:
                behind.explain(line.next())
    except EOFError:
        return  # the coordinator is gone; finished shards are in the ledger
    except Exception as error:  # noqa: BLE001  reported to the coordinator, which ends the run with it
        traceback.print_exc()
        line.send(Report.refused(number, error))


def _ignore(report: Report) -> None:
    pass


def _ending(code: int | None) -> str:
    """Describe how a worker died, and what to do if all workers die in this way."""
    if code is None or code >= 0:
        return (
            f"exit code {code}; start the run below `if __name__ == '__main__':`, keep the model's class in a module "
            "that workers can import (no notebook, no standard input), or use workers=0"
        )
    return (
        f"killed by {signal.Signals(-code).name}; is there memory for the model in each? "
        "Use fewer workers; the same command resumes the run"
    )
