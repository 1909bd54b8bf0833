"""A bounded queue of jobs: a job beyond the bound is refused at once, and a job without a client stops.

Jobs are asked to stop at each pass of the model. One that makes none within `GRACE` is interrupted wherever it is, as
Ctrl-C would, and one that a single long operation keeps from that is given up by its client.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Event = tuple[str, dict[str, Any]]

PROGRESS_EVERY = 0.1  # seconds
GRACE = 5.0  # seconds that a job may go on after its time or its client's leaving, to its next pass of the model


class Full(Exception):
    """The queue is full."""


class Stopped(Exception):
    """The job ends early: it was cancelled or reached a limit. The message is for the client."""


class Interrupted(BaseException):
    """Raised in the thread of a job that came to no pass of the model; a BaseException, which no method catches."""


class Job:
    """One job and the events that it sends. Methods are called from the job's thread, unless they say otherwise."""

    def __init__(self, most_rows: int, patience: float) -> None:
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self.rows = 0
        self.future: Future[None] | None = None
        self._most_rows = most_rows
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()
        self._end = time.monotonic() + patience
        self._progress_sent = 0.0
        self._thread: int | None = None  # while the work runs
        self._lock = threading.Lock()
        self._sent, self._arrived = False, threading.Event()  # an interruption, once at most
        self._timers: list[threading.Timer] = []

    def cancel(self) -> None:
        """Stop at the next pass of the model, or before the first one. From any thread."""
        if not self._cancelled.is_set() and not (self.future is not None and self.future.done()):
            self._interrupt_after(GRACE)
        self._cancelled.set()
        if self.future is not None:
            self.future.cancel()

    def send(self, name: str, **data: Any) -> None:
        """Send an event to the client. Raises Stopped if the job must end."""
        self.check()
        self._post((name, data))

    def progress(self, rows: int) -> None:
        """Count rows that the model has run on, and send the count from time to time. Raises Stopped."""
        self.rows += rows
        self.check()
        if self.rows > self._most_rows:
            raise Stopped(f"stopped after {self.rows} model evaluations; one request may use {self._most_rows}")
        now = time.monotonic()
        if now - self._progress_sent > PROGRESS_EVERY:
            self._progress_sent = now
            self._post(("progress", {"rows": self.rows}))

    def check(self) -> None:
        """Raise Stopped if the job was cancelled or has used its time."""
        if self._cancelled.is_set():
            raise Stopped("cancelled")
        if time.monotonic() > self._end:
            raise Stopped(f"stopped after {self._patience:.0f} seconds, the longest that one request may take")

    @property
    def overdue(self) -> str:
        """Say why a client should wait no longer, "" if it should. From any thread."""
        late = time.monotonic() - self._end
        if self.future is None or self.future.done() or late < 0:
            return ""
        if not self.future.running():
            return "waited too long for its turn; try again"
        return f"stopped after {self._patience:.0f} seconds; its last step still ends" if late > 2 * GRACE else ""

    def run(self, work: Callable[[Job], None]) -> None:
        """Do the work in the job's thread, and send an event for its end or failure."""
        try:
            try:
                self._run(work)
            finally:
                self._leave()
        except Interrupted:  # as it left
            self._thread = None

    def _run(self, work: Callable[[Job], None]) -> None:
        try:
            self.check()  # the job may have waited for its whole time
            self._end = time.monotonic() + self._patience
            self._thread = threading.get_ident()
            self._interrupt_after(self._patience + GRACE)
            work(self)
            self.send("done", rows=self.rows)
        except Stopped as error:
            self._post(("stopped", {"message": str(error)}))
        except Interrupted:
            self._arrived.set()
            said = "cancelled" if self._cancelled.is_set() else f"stopped after {self._patience:.0f} seconds"
            self._post(("stopped", {"message": said}))
        except Exception:
            self._post(("stopped", {"message": "limelight failed; its server's standard error says how"}))
            raise

    def _leave(self) -> None:
        """Let an interruption that has been sent arrive: the thread goes on to other jobs.

        It cannot be taken back: Python 3.11 would look for it in every thread from then on, and hang in traced ones.
        """
        with self._lock:
            self._thread = None
        while self._sent and not self._arrived.is_set():
            time.sleep(0.001)

    def _interrupt(self) -> None:
        """Raise Interrupted in the job's thread, at the next instruction of Python, if the work still runs."""
        with self._lock:
            if self._thread is not None and _imports(self._thread):
                self._interrupt_after(0.2)  # a module that is cut off stays broken for everybody after
            elif self._thread is not None and not self._sent:
                self._sent = True
                raised = ctypes.py_object(Interrupted)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), raised)

    def _interrupt_after(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._interrupt)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def end(self, *, unstarted: bool) -> None:
        """Close the events. From any thread, once all resources of the work are free."""
        for timer in self._timers:
            timer.cancel()
        if unstarted:
            self._post(("stopped", {"message": "cancelled"}))
        self._post(None)

    def _post(self, event: Event | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


def _imports(thread: int) -> bool:
    """Return whether a thread is in the middle of an import."""
    frame = sys._current_frames().get(thread)
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


class Queue:
    """A queue with `workers` jobs at once and `places` waiting. Used from the event loop's thread."""

    def __init__(self, workers: int, places: int, most_rows: int, patience: float) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="limelight")
        self._room = workers + places
        self._most_rows, self._patience = most_rows, patience
        self._jobs: set[Job] = set()
        self._lock = threading.Lock()

    def start(self, work: Callable[[Job], None]) -> tuple[Job, int]:
        """Add a job; return it and the number of jobs before it. Raises Full."""
        with self._lock:
            if len(self._jobs) >= self._room:
                raise Full
            job = Job(self._most_rows, self._patience)
            before = len(self._jobs)
            self._jobs.add(job)
        job.future = self._pool.submit(job.run, work)
        job.future.add_done_callback(lambda future: self._finished(job, future))
        return job, before

    def _finished(self, job: Job, future: Future[None]) -> None:
        with self._lock:
            self._jobs.discard(job)
        if not future.cancelled() and (error := future.exception()) is not None:
            threading.excepthook(
                threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
            )
        job.end(unstarted=future.cancelled())

    def cancel(self) -> None:
        """Stop every job; the clients get an event."""
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            job.cancel()

    def close(self) -> None:
        """Stop every job, and wait until all have stopped."""
        self.cancel()
        self._pool.shutdown(cancel_futures=True)
