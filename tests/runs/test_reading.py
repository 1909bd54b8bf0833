"""Reading ahead and writing behind: the same bytes, sooner."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import limelight as ll
from limelight.runs import work
from limelight.runs.examples import Pictures
from limelight.runs.manifest import Entry
from limelight.runs.plan import Counts
from limelight.runs.reading import AT_ONCE, Ahead, Found, read_example
from limelight.runs.serving import Behind, Report
from limelight.runs.work import Task, Worker

from .helpers import assert_whole, pictures, results, start
from .networks import plain

READ = 0.02  # seconds


def _entries(images: Path) -> list[tuple[int, Entry]]:
    paths = sorted(images.rglob("*.png"))
    return [(i, Entry(path.name, "", str(path))) for i, path in enumerate(paths)]


def test_a_group_is_read_at_once_and_one_more_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a group are being read together before any read ends; of two groups the other is read before it is asked
    for, and a third one only afterwards."""
    examples = _entries(pictures(tmp_path, 3 * AT_ONCE))
    groups = [examples[i : i + AT_ONCE] for i in range(0, len(examples), AT_ONCE)]
    together, read = threading.Barrier(AT_ONCE, timeout=20), list[str]()
    own = Entry.read

    def reading(entry: Entry, elsewhere: bool = False) -> bytes:
        together.wait()
        content = own(entry, elsewhere)
        read.append(entry.path)
        return content

    monkeypatch.setattr(Entry, "read", reading)
    ahead = Ahead(Pictures(plain(), None, False), decoders=1)
    assert [each.entry.path for each in ahead.take(groups[0])] == [entry.path for _, entry in groups[0]]
    ahead.begin(groups[1])
    while len(read) < 2 * AT_ONCE:
        time.sleep(0.001)
    found = ahead.take(groups[1])
    ahead.close()
    assert [each.entry.path for each in found] == [entry.path for _, entry in groups[1]]
    assert all(each.opened is not None and each.entry.content for each in found) and len(read) == 2 * AT_ONCE


def test_one_picture_is_decoded_at_a_time(tmp_path: Path) -> None:
    """A decoded picture may take far more memory than its file."""
    examples, now, most = _entries(pictures(tmp_path, 16)), 0, 0

    class Watched(ll.ImageModel):
        def prepare(self, picture: Any) -> Any:
            nonlocal now, most
            now += 1
            most = max(most, now)
            time.sleep(0.002)
            now -= 1
            return super().prepare(picture)

    model = plain()
    ahead = Ahead(Pictures(Watched(model.network, model.preprocessing), None, False), decoders=1)
    assert len(ahead.take(examples)) == 16 and most == 1
    ahead.close()


def test_examples_that_were_read_elsewhere_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(tmp_path / "images", 6, bad=(3,))
    start(images, tmp_path / "done")
    out = start(images, tmp_path / "out").out
    for path in (out / "done").iterdir():
        path.unlink()
    job = _job_of(images, out, monkeypatch)
    worker = Worker(job, out)
    contents = [[read_example(worker.reader, entry) for entry in worker._manifest.shard(i)] for i in range(3)]
    assert isinstance(contents[1][1].error, ValueError) and contents[1][1].entry.content
    monkeypatch.setattr(Entry, "read", lambda *anything: pytest.fail("it was read already"))
    assert all(worker.work(Task(i), contents[i]) for i in range(3))
    assert results(out) == results(tmp_path / "done")


def _job_of(images: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the job of a run, as its worker gets it."""
    jobs: list[Any] = []
    own = work.Worker.__init__

    def begun(worker: Worker, job: Any, *rest: Any, **more: Any) -> None:
        jobs.append(job)
        own(worker, job, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(work.Worker, "__init__", begun)
        (out / "done" / "000000.json").unlink(missing_ok=True)
        start(images, out, limit=None)
    for path in (out / "done").iterdir():
        path.unlink()
    return jobs[0]


def test_a_shard_is_written_while_the_next_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record comes last, and until then nobody else gets the shard."""
    images = pictures(tmp_path / "images", 6)
    start(images, tmp_path / "done")
    out = start(images, tmp_path / "out").out
    worker = Worker(_job_of(images, out, monkeypatch), out)
    explained, own = threading.Event(), worker.ledger.finish

    def finish(shard: int, *rest: Any, **more: Any) -> Any:
        if shard == 0:
            assert explained.wait(60)
            with worker.ledger.lease(0) as lease:
                assert lease is None
        return own(shard, *rest, **more)

    monkeypatch.setattr(worker.ledger, "finish", finish)
    told: list[Report] = []

    def send(report: Report) -> None:
        told.append(report)
        if (report.kind, report.shard) == ("begun", 1):
            explained.set()

    with Behind(worker, 3, send) as behind:
        for shard in range(3):
            behind.explain(Task(shard))
    assert [each.shard for each in told if each.kind == "done"] == [0, 1, 2]
    kinds = [(each.kind, each.shard) for each in told]
    assert kinds.index(("begun", 1)) < kinds.index(("done", 0)) and {each.worker for each in told} == {3}
    assert results(out) == results(tmp_path / "done")


@pytest.mark.long
def test_a_picture_that_kills_workers_while_it_is_read_is_given_up(tmp_path: Path) -> None:
    """Whether it is read at its own place or ahead of another group or shard; its neighbours are explained."""
    images = pictures(tmp_path / "images", 12, marked=(6,))
    run = start(images, tmp_path / "out", "lethal_to_open", workers=1)
    assert run.counts == Counts(ok=11, failed=1)
    assert run[6].error == "ChildProcessError: 2 workers died while they explained it"
    assert 4 <= run.status.deaths <= 5
    assert_whole(tmp_path / "out")


@pytest.mark.long
@pytest.mark.release
def test_slow_reads_cost_a_tenth_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 pictures at 20 ms a read, beside reads from memory; rows a second from the first worker's start."""
    names = sorted(pictures(tmp_path / "images", 20).rglob("*.png"))
    table = tmp_path / "table.csv"
    table.write_text("path\n" + "".join(f"{names[i % 20]}\n" for i in range(1000)))
    contents = {str(name): name.read_bytes() for name in names}
    wait = 0.0

    def read(entry: Entry, elsewhere: bool = False) -> bytes:
        time.sleep(wait)
        return contents[entry.file]

    monkeypatch.setattr(Entry, "read", read)
    seconds, first = {}, list[float]()

    def look(status: ll.runs.Status) -> None:
        if status.rows and not first:
            first.append(time.monotonic())

    options: dict[str, Any] = {"shard_size": None, "group": 16, "methods": ["gradient"], "on_status": look}
    for wait in (0.0, READ):
        first.clear()
        assert start(table, tmp_path / f"{wait}", "sleepy", **options).counts == Counts(ok=1000)
        seconds[wait] = time.monotonic() - first[0]
    assert results(tmp_path / "0.0") == results(tmp_path / f"{READ}")
    assert seconds[0.0] / seconds[READ] >= 0.9, seconds


def test_found_is_sent_between_machines(tmp_path: Path) -> None:
    (example,) = _entries(pictures(tmp_path, 1))
    found = read_example(Pictures(plain(), None, False), example[1])
    again: Found = pickle.loads(pickle.dumps(found))
    assert again.opened is not None and found.opened is not None
    assert (again.opened.inputs == found.opened.inputs).all() and again.entry == found.entry
