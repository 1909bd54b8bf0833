"""The engine for one machine: a process for each worker, which ends when the coordinator does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from .crew import Report
from .job import Job
from .work import Task, Worker


class Local:
    """Worker processes, each with its own model and `job.threads` threads, so that they do not fight for cores."""

    def __init__(self, job: Job, out: Path) -> None:
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

    def wait(self, seconds: float) -> list[Report]:
        numbers = {connection: number for number, (_, connection) in self._workers.items()}
        return [self._receive(numbers[each]) for each in wait(numbers, seconds) if isinstance(each, Connection)]

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


def _serve(connection: Connection, number: int, job: Job, out: Path) -> None:
    """Work in a worker process until the coordinator closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator, which ends the workers
    os.dup2(2, 1)  # what a model prints must not mix with the results on standard output
    try:
        worker = Worker(job, out)
        connection.send(Report(number, "ready"))
        while True:
            connection.send(Report.of(number, worker.work(connection.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the coordinator is gone; what was done is in the ledger
    except Exception as error:  # noqa: BLE001  reported to the coordinator, which ends the run with it
        traceback.print_exc()
        connection.send(Report(number, "refused", text=f"{type(error).__name__}: {error}"))


def _ending(code: int | None) -> str:
    """Say how a worker died, and what to do where all die in this way."""
    if code is None or code >= 0:
        return (
            f"exit code {code}; start the run below `if __name__ == '__main__':`, keep the model's class in a module "
            "that workers can import (no notebook, no standard input), or use workers=0"
        )
    return (
        f"killed by {signal.Signals(-code).name}; is there memory for the model in each? "
        "Use fewer workers; the same command goes on from here"
    )
