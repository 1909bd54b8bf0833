"""Progress of runs: in model evaluations from the first pass on, with a steady time left, and at no cost to rows."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pty
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import limelight as ll
from limelight.cli.main import app
from limelight.runs import Status, read_status
from limelight.runs.in_hand import InHand, Reporter
from limelight.runs.ledger import Done
from limelight.runs.plan import Counts
from limelight.runs.serving import Line, Report
from limelight.runs.shards import Shards
from limelight.runs.status import Meter

from .helpers import command, pictures, results, start

RISE = 1.2  # of the time left over its smallest value so far
SLOW = {"methods": ["integrated-gradients(GaussLegendre(4))"], "rows_per_pass": 1, "shard_size": 8, "group": 4}


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("status", "in_hand"):
        monkeypatch.setattr(f"limelight.runs.{module}.time", clock)
    return clock


def test_a_worker_reports_the_first_pass_at_once_and_then_four_times_a_second(clock: Clock) -> None:
    """Two pictures of 10 rows forward and 10 backward: 8 rows of the second group are four tenths of it."""
    sent: list[InHand] = []
    reporter = Reporter(sent.append)
    reporter.begin_shard(7)
    reporter.begin_group(2)
    for rows in (8, 8, 4):
        reporter.add_pass(rows)
    assert sent == [InHand(7, rows=8)]  # no time has passed since, and no share is known yet
    clock.now += 0.3
    reporter.end_group(2, 40, ["a: broken"])
    assert sent[-1] == InHand(7, 2, 1, 40, 2.0, ("a: broken",))
    reporter.begin_group(2)
    clock.now += 0.3
    reporter.add_pass(8)
    assert sent[-1] == InHand(7, 2, 1, 56, 2.8, ("a: broken",))
    reporter.begin_shard(8)
    clock.now += 0.3
    reporter.begin_group(1)
    reporter.add_pass(20)  # twice as many as a picture took: no more than all of it
    assert sent[-1] == InHand(8, 0, 0, 40, 1.0) and len(sent) == 4


def test_the_rows_of_methods_are_known_before_the_first_picture_is_done(clock: Clock) -> None:
    sent: list[InHand] = []
    reporter = Reporter(sent.append, passes=10)
    reporter.begin_shard(0)
    reporter.begin_group(4)
    reporter.add_pass(8)
    assert sent[-1].work == 4 * 8 / 40


def _simulated(clock: Clock, meter: Meter, workers: int, shards: int) -> Iterator[Status]:
    """A steady run: shards of 3 groups of 4 pictures, each with 5 passes of a second, a second to read and one to write
    a shard; workers begin one second after another."""
    reporters = []
    for worker in range(workers):
        reporters.append(Reporter(lambda found, number=worker: meter.working(number, found)))  # type: ignore[misc]

    def steps(worker: int) -> Iterator[None]:
        for shard in range(worker, shards, workers):
            reporter, rows = reporters[worker], 0
            reporter.begin_shard(shard)
            for _ in range(3):
                reporter.begin_group(4)
                yield
                for _ in range(5):
                    yield
                    reporter.add_pass(8)
                reporter.end_group(4, rows := rows + 80, [])
            yield
            meter.add(Done(shard, "", 0, 12, 12, 0, {}, rows=240), worker)

    at_work = [steps(worker) for worker in range(workers)]
    meter.ready()
    for second in itertools.count():
        running = at_work[: second + 1]
        if all([next(each, "over") == "over" for each in running]) and len(running) == workers:
            return
        yield meter.status("running")
        clock.now += 1


@pytest.mark.parametrize(("workers", "shards"), [(1, 5), (2, 8), (2, 9), (8, 40), (8, 41)])
def test_time_left_of_a_steady_run_does_not_rise(workers: int, shards: int, clock: Clock, tmp_path: Path) -> None:
    meter = Meter(tmp_path, Counts(pending=12 * shards))
    seen = list(_simulated(clock, meter, workers, shards))
    left = [each.seconds_left for each in seen if each.seconds_left is not None]
    assert len(left) >= len(seen) - 9  # from the first group on
    assert all(each <= RISE * min(left[: i + 1]) for i, each in enumerate(left))
    whole = len(seen)
    halfway = [each.seconds_left for each in seen][whole // 2]
    assert halfway is not None and abs(halfway - whole / 2) < 0.25 * whole
    rows, shares = [each.rows for each in seen], [each.share for each in seen]
    assert rows == sorted(rows) and shares == sorted(shares)
    assert meter.status("finished").rows == 240 * shards and meter.status("finished").share == 1


def _growing(clock: Clock, meter: Meter, workers: int, examples: int, listing: int) -> Iterator[Status]:
    """A steady run: shards that grow with their position, a second a picture in groups of at most 16, each shard
    written within a second while the next is explained; 16 pictures listed a second while it goes on for so long."""
    shards, waiting = list(Shards().cut(range(examples))), deque(range(Shards().number(examples)))

    def steps(worker: int) -> Iterator[None]:
        reporter = Reporter(lambda found: meter.working(worker, found))
        written: Done | None = None
        while waiting:
            shard, rows = waiting.popleft(), 0
            size = len(shards[shard])
            reporter.begin_shard(shard)
            for first in range(0, size, 16):
                group = min(16, size - first)
                reporter.begin_group(group)
                for _ in range(group):
                    yield
                    if written is not None:
                        meter.add(written, worker)
                        written = None
                    reporter.add_pass(8)
                reporter.end_group(group, rows := rows + 16 * group, [])
            written = Done(shard, "", 0, size, size, 0, {}, rows=16 * size)
        yield
        if written is not None:
            meter.add(written, worker)

    at_work = [steps(worker) for worker in range(workers)]
    meter.ready()
    for second in itertools.count():
        meter.is_listing = second < listing
        listed = examples if second == listing else min(16 * second, examples)
        meter.list_more(max(0, listed - meter.counts.total), None)
        if all([next(each, "over") == "over" for each in at_work]):
            return
        yield meter.status("running")
        clock.now += 1


@pytest.mark.parametrize(("workers", "examples", "listing"), [(1, 200, 0), (2, 1000, 10), (8, 1000, 30), (2, 100, 3)])
def test_time_left_does_not_rise_where_shards_grow_and_are_written_behind(
    workers: int, examples: int, listing: int, clock: Clock, tmp_path: Path
) -> None:
    meter = Meter(tmp_path, Counts())
    seen = list(_growing(clock, meter, workers, examples, listing))
    assert all(each.seconds_left is None and each.share == 0 for each in seen[:listing])
    left = [each.seconds_left for each in seen[listing:] if each.seconds_left is not None]
    assert len(left) >= len(seen) - listing - 17  # from the first group on
    assert all(each <= RISE * min(left[: i + 1]) for i, each in enumerate(left))
    rows, shares = [each.rows for each in seen], [each.share for each in seen]
    assert rows == sorted(rows) and shares == sorted(shares)
    assert meter.status("finished").counts == Counts(ok=examples) and meter.status("finished").rows == 16 * examples


def test_line_in_model_evaluations(clock: Clock, tmp_path: Path) -> None:
    """In 10 seconds 5 of 50 pictures with 100 evaluations: 1,000 for all, 90 seconds for the other 45."""
    meter = Meter(tmp_path, Counts(pending=50))
    meter.ready()
    clock.now += 10
    meter.working(3, InHand(0, 5, 1, 100, 5.0, ("b.png: broken",)))
    status = meter.status("running")
    said = "5 of 50 examples, 1 failed, 100 of about 1,000 model evaluations, 10/s, about 1 min 30 s left"
    assert status.line() == said and status.failures == ("b.png: broken",)
    assert (status.counts.pending, status.share) == (50, 0.1)
    meter.drop(3)  # the worker died: its pictures are explained again
    assert meter.status("running").line().startswith("0 of 50 examples, 0 failed, 100 model evaluations, 10/s")


def test_the_first_evaluations_are_reported_at_once(clock: Clock, tmp_path: Path) -> None:
    told: list[Status] = []
    meter = Meter(tmp_path, Counts(pending=50), told.append)
    meter.report()
    for rows in (8, 16):
        clock.now += 0.1
        meter.working(0, InHand(0, rows=rows))
    assert [each.rows for each in told] == [0, 8]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
def test_progress_of_a_slow_network(workers: int, tmp_path: Path) -> None:
    """The first status is that of the first pass, of one row; another process reads the same; bytes are as ever."""
    images = pictures(tmp_path / "images", 12, bad=(1,))
    seen: list[tuple[Status, Status]] = []

    def look(status: Status) -> None:
        if status.rows:
            seen.append((status, read_status(tmp_path / "out")))

    rows: list[int] = []
    start(images, tmp_path / "out", "slow", workers=workers, on_status=look, progress=rows.append, **SLOW)
    first, last = seen[0][0], seen[-1][0]
    assert first.rows == 1 and first.counts == Counts(pending=12) and first.rows_per_second > 0
    running = [each for each in seen if each[0].state == "running"]
    assert any(status.in_hand and status.failed_in_hand == 1 and status.seconds_left for status, _ in running)
    for status, read in running:
        assert read == status or workers  # a worker may have finished its shard between the two
        assert sum((read.counts.ok, read.counts.failed, read.in_hand)) >= status.in_hand
    assert last.line() == "12 of 12 examples, 1 failed, finished" and last.rows == sum(rows)
    start(images, tmp_path / "fast", **SLOW)
    assert results(tmp_path / "out") == results(tmp_path / "fast")


def test_an_error_of_the_listener_ends_the_run_and_no_example(tmp_path: Path) -> None:
    def listen(status: Status) -> None:
        if status.rows:
            raise KeyError("a fault of the listener")

    images = pictures(tmp_path / "images", 4)
    with pytest.raises(KeyError, match="a fault of the listener"):
        start(images, tmp_path / "out", on_status=listen)
    assert start(images, tmp_path / "out").counts == Counts(ok=4)


def test_no_worker_waits_for_a_coordinator_that_does_not_read() -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    line = Line(theirs, 1)
    for i in range(20_000):  # far more than a pipe holds
        line.tell(InHand(0, i, failures=("x" * 100,)))
    assert ours.recv() == Report.working(1, InHand(0, 0, failures=("x" * 100,)))
    ours.close()
    line.tell(InHand(0))  # nor does one fail because the coordinator is gone
    theirs.close()


def test_plain_lines(tmp_path: Path) -> None:
    """One as it starts, one with the first evaluations, one at the end."""
    arguments = command(pictures(tmp_path / "images", 4), tmp_path / "out", "plain", workers=0)[3:]
    made = CliRunner().invoke(app, arguments)
    lines = made.stderr.splitlines()
    assert made.exit_code == 0 and len(lines) == 3, made.stderr
    assert re.fullmatch(
        r"limelight: 0 of 4 examples, 0 failed, \d+( of about \d+)? model evaluations, [\d,]+/s(, about \d+ s left)?",
        lines[1],
    )


@pytest.mark.long
def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 4)
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "150", "TERM": "xterm"}
        arguments = command(images, tmp_path / "out", "slow", workers=0)
        os.execv(arguments[0], arguments)
    shown = b""
    while True:
        try:
            shown += (found := os.read(terminal, 1 << 16))
        except OSError:  # what Linux says at the end
            break
        if not found:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert "starting" in shown.decode() and re.search(r"\d+ model evaluations", shown.decode()), shown.decode()


def test_a_clock_that_is_set_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour forward, then two back, at every look at it."""
    images = pictures(tmp_path / "images", 6)
    real, steps = time.time, itertools.cycle((3600.0, -7200.0, 0.0))
    stepping: Any = SimpleNamespace(time=lambda: real() + next(steps), monotonic=time.monotonic)
    monkeypatch.setattr("limelight.runs.status.time", stepping)
    monkeypatch.setattr("limelight.runs.status._EVERY", 0)
    seen: list[Status] = []
    run = start(images, tmp_path / "out", on_status=lambda status: seen.append(read_status(tmp_path / "out")))
    assert all(each.state == "running" for each in seen[:-1]) and seen[-1].state == "finished"
    assert [each.seconds for each in seen] == sorted(each.seconds for each in seen)
    assert all(each.seconds_left is None or 0 <= each.seconds_left < 60 for each in seen)
    monkeypatch.undo()
    assert run.counts == Counts(ok=6)
    start(images, tmp_path / "undisturbed")
    assert results(tmp_path / "out") == results(tmp_path / "undisturbed")
    assert isinstance(ll.open_run(tmp_path / "out"), ll.Run)
