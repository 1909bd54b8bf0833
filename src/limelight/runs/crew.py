"""The interface between the coordinator and an engine, and the engines of one machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import PurePath
from typing import Literal, Protocol

import torch

from .in_hand import InHand
from .job import Job
from .ledger import Done
from .work import Task, Worker


@dataclass(frozen=True)
class Report:
    """A message about a worker.

    "ready": it waits for its first task. "working": what it has done of its shard. "done": its shard is done.
    "elsewhere": another process holds that shard.
    "died": `text` says how, and what to do. "refused": it met the error in `text`, which every worker would meet.
    """

    worker: int
    kind: Literal["ready", "working", "done", "elsewhere", "died", "refused"]
    done: Done | None = None
    in_hand: InHand | None = None
    text: str = ""

    @staticmethod
    def of(worker: int, done: Done | None) -> Report:
        return Report(worker, "elsewhere" if done is None else "done", done)

    @staticmethod
    def refused(worker: int, error: BaseException) -> Report:
        return Report(worker, "refused", text=f"{type(error).__name__}: {error}")


Receive = Callable[[Report], None]


class Crew(Protocol):
    """The workers of one engine. It moves tasks and reports; the ledger records finished shards."""

    def start(self) -> int:
        """Start another worker and return its number. Its first report is "ready", "died" or "refused"."""

    def give(self, worker: int, task: Task) -> None:
        """Give a task to a worker that has none."""

    def wait(self, seconds: float, receive: Receive) -> None:
        """Pass on the reports since the last call; wait at most `seconds` for the first one."""

    def close(self) -> None:
        """Stop the workers at once, also in the middle of a task."""


class Inline:
    """One worker in this process: slow, and easy to follow with a debugger."""

    def __init__(self, job: Job, out: PurePath) -> None:
        self._job, self._out, self._threads = job, out, torch.get_num_threads()
        self._worker: Worker | None = None
        self._task: Task | None = None
        self._is_new = False
        self._receive: Receive = _ignore
        self._error: Exception | None = None

    def start(self) -> int:
        self._worker, self._is_new = Worker(self._job, self._out, self._report), True
        return 0

    def give(self, worker: int, task: Task) -> None:
        self._task = task

    def wait(self, seconds: float, receive: Receive) -> None:
        if self._is_new:
            self._is_new = False
            receive(Report(0, "ready"))
        elif self._task is not None and self._worker is not None:
            task, self._task, self._receive = self._task, None, receive
            done = self._worker.work(task)
            if self._error is not None:
                raise self._error
            receive(Report.of(0, done))
        else:
            time.sleep(seconds)

    def _report(self, in_hand: InHand) -> None:
        """Report in the middle of a pass, where an error would count as one of the example: it is raised later."""
        if self._error is None:
            try:
                self._receive(Report(0, "working", in_hand=in_hand))
            except Exception as error:  # noqa: BLE001  whatever the caller's listener raises; `wait` raises it
                self._error = error

    def close(self) -> None:
        self._worker, self._receive = None, _ignore
        torch.set_num_threads(self._threads)  # a worker sets its own, and this process belongs to the caller


class Local:
    """Worker processes, each with its own model and `job.threads` threads, so that they do not fight for cores.

    They end when the coordinator does.
    """

    def __init__(self, job: Job, out: PurePath) -> None:
        self._job, self._out = job, out
        self._context = multiprocessing.get_context("spawn")  # a fork would break torch's threads
        self._numbers = count()
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}

    def start(self) -> int:
        number = next(self._numbers)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, number, self._job, self._out), name=f"limelight worker {number}", daemon=True
        )
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


def _serve(connection: Connection, number: int, job: Job, out: PurePath) -> None:
    """Work in a worker process until the coordinator closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator, which ends the workers
    os.dup2(2, 1)  # the output of a model must not mix with the results on standard output
    try:
        worker = Worker(job, out, lambda in_hand: _report(connection, number, in_hand))
        connection.send(Report(number, "ready"))
        while True:
            connection.send(Report.of(number, worker.work(connection.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the coordinator is gone; finished shards are in the ledger
    except Exception as error:  # noqa: BLE001  reported to the coordinator, which ends the run with it
        traceback.print_exc()
        connection.send(Report.refused(number, error))


def _report(connection: Connection, number: int, in_hand: InHand) -> None:
    """Send what is done, unless the coordinator does not read or is gone: no row waits for it, none fails by it."""
    writable = select.poll()
    writable.register(connection, select.POLLOUT)
    if any(events == select.POLLOUT for _, events in writable.poll(0)):
        with contextlib.suppress(ConnectionError):  # the coordinator ended just now
            connection.send(Report(number, "working", in_hand=in_hand))


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
