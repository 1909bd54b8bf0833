"""What a worker's process does besides explaining: receives tasks, sends reports, and writes shards behind."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Queue
from threading import Lock, Thread
from types import TracebackType
from typing import Literal, Self

from .in_hand import InHand
from .ledger import Done
from .work import Task, Worker


@dataclass(frozen=True)
class Report:
    """A message about a worker.

    "ready": it waits for its first task. "begun": it explains the shard. "working": what it has done of the shard.
    "explained": it writes the shard, and can explain another meanwhile. "done": the shard is done. "elsewhere": another
    process holds the shard. "died": `text` says how, and what to do. "refused": it met the error in `text`, which every
    worker would meet.
    """

    worker: int
    kind: Literal["ready", "begun", "working", "explained", "done", "elsewhere", "died", "refused"]
    shard: int = -1
    done: Done | None = None
    in_hand: InHand | None = None
    text: str = ""

    @staticmethod
    def of(worker: int, shard: int, done: Done | None) -> Report:
        return Report(worker, "elsewhere" if done is None else "done", shard, done)

    @staticmethod
    def working(worker: int, in_hand: InHand) -> Report:
        return Report(worker, "working", in_hand.shard, in_hand=in_hand)

    @staticmethod
    def refused(worker: int, error: BaseException) -> Report:
        return Report(worker, "refused", text=f"{type(error).__name__}: {error}")


class Line:
    """The connection of a worker's process to the coordinator.

    A thread receives, so that the coordinator never waits for a worker that is busy.
    """

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection, self._number, self._sending = connection, number, Lock()
        self._tasks: Queue[Task | None] = Queue()
        Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._tasks.put(self._connection.recv())
        self._tasks.put(None)

    def next(self) -> Task:
        """Wait for the next task. Raises EOFError once the coordinator is gone."""
        task = self._tasks.get()
        if task is None:
            raise EOFError("the coordinator is gone")
        return task

    def upcoming(self) -> Task | None:
        """Return the task after this one, if it has come."""
        with self._tasks.mutex:
            return self._tasks.queue[0] if self._tasks.queue else None

    def send(self, report: Report) -> None:
        """Send a report; the coordinator may be gone, and finished shards are in the ledger."""
        with self._sending, contextlib.suppress(ConnectionError):
            self._connection.send(report)

    def tell(self, in_hand: InHand) -> None:
        """Send what is done, unless the coordinator does not read or is gone: no row waits for it, none fails by it."""
        if not self._sending.acquire(blocking=False):
            return
        try:
            writable = select.poll()
            writable.register(self._connection, select.POLLOUT)
            if any(events == select.POLLOUT for _, events in writable.poll(0)):
                with contextlib.suppress(ConnectionError):  # the coordinator ended just now
                    self._connection.send(Report.working(self._number, in_hand))
        finally:
            self._sending.release()


class Behind:
    """Explains shard after shard, and writes each in a thread while the next one is explained.

    At most one shard waits to be written. Leaving the context waits for it. `send` receives the reports, also in that
    thread.
    """

    def __init__(self, worker: Worker, number: int, send: Callable[[Report], None]) -> None:
        self._worker, self._number, self._send = worker, number, send
        self._pool = ThreadPoolExecutor(1, "limelight writer")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown()
        self._worker.close()

    def explain(self, task: Task) -> None:
        """Explain a shard, and begin to write it. Raises what explaining raises, or writing the shard before."""
        self._send(Report(self._number, "begun", task.shard))
        write = self._worker.explain(task)
        if self._writing is not None:
            self._writing.result()
        self._writing = self._pool.submit(self._write, task.shard, write)
        self._send(Report(self._number, "explained", task.shard))

    def _write(self, shard: int, write: Callable[[], Done | None]) -> None:
        try:
            self._send(Report.of(self._number, shard, write()))
        except Exception as error:
            self._send(Report.refused(self._number, error))  # at once: there may be no other shard to explain
            raise
