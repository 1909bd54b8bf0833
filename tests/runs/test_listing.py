"""Work from the first shard listed, and starts that are interrupted while they list."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import limelight as ll
from limelight.base.errors import DamagedFile
from limelight.base.seals import sealed_json
from limelight.models.pictures import Preprocessing
from limelight.runs import read_status, verify
from limelight.runs.manifest import Entry
from limelight.runs.plan import Counts
from limelight.runs.sources import find_examples

from .helpers import METHODS, assert_whole, finish, launch, pictures, results, start
from .networks import plain

WHERE = "limelight.runs.beginning.find_examples"


def _until(done: Any) -> None:
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def _records(out: Path) -> int:
    return len(list((out / "done").glob("*.json")))


def _flat(folder: Path, count: int, bad: tuple[int, ...] = ()) -> Path:
    """Pictures without labels, of which no shard waits for the labels of others."""
    for path in sorted(pictures(folder, count, bad).rglob("*.png")):
        path.rename(folder / path.name)
    return folder


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Listing stops before the seventh example until the event is set."""
    event = threading.Event()

    def listed(*asked: Any) -> Iterator[Entry]:
        for i, entry in enumerate(find_examples(*asked)):
            assert i != 6 or event.wait(120)
            yield entry

    monkeypatch.setattr(WHERE, listed)
    yield event
    event.set()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.long)])
def test_shards_are_done_while_others_are_listed(workers: int, held: threading.Event, tmp_path: Path) -> None:
    images, out = _flat(tmp_path / "images", 12, bad=(1,)), tmp_path / "out"
    thread = threading.Thread(target=lambda: start(images, out, workers=workers))
    thread.start()
    _until(lambda: _records(out) == 3)
    assert not (out / "plan.json").exists() and not held.is_set()
    _until(lambda: read_status(out).counts == Counts(ok=5, failed=1))
    status = read_status(out)
    assert status.state == "running" and status.seconds_left is None and status.share == 0
    held.set()
    thread.join()
    assert ll.open_run(out).counts == Counts(ok=11, failed=1) and not (out / "begun.json").exists()
    assert verify(out).outcome == "whole"
    start(images, tmp_path / "undisturbed")
    assert_whole(out, tmp_path / "undisturbed")


def test_shards_of_labels_without_numbers_wait_for_all_labels(held: threading.Event, tmp_path: Path) -> None:
    """The model has no labels, so that the classes are the places among all labels, and known at the end."""
    images, out = pictures(tmp_path / "images", 12), tmp_path / "out"
    for path in sorted(images.rglob("*.png"))[:2]:
        path.rename(images / path.name)  # two without a label: the first shard
    labelled = threading.Thread(target=lambda: start(images, out, target="label"))
    labelled.start()
    _until(lambda: _records(out) == 1)
    time.sleep(0.5)
    assert _records(out) == 1
    held.set()
    labelled.join()
    run = ll.open_run(out)
    assert run.counts == Counts(ok=10, failed=2) and run[2].first.row["target"] == 0
    assert_whole(out)


def test_shards_of_labels_of_the_model_do_not_wait(held: threading.Event, tmp_path: Path) -> None:
    images, out = pictures(tmp_path / "images", 12), tmp_path / "out"
    model = ll.ImageModel(plain().network, Preprocessing(size=16, crop_fraction=1.0), ("a", "b", "c"), "small")
    options: dict[str, Any] = {"target": "label", "shard_size": 2, "group": 2, "workers": 0}
    thread = threading.Thread(target=lambda: ll.run(images, model, METHODS, output=out, **options))
    thread.start()
    _until(lambda: _records(out) == 3)
    held.set()
    thread.join()
    assert ll.open_run(out).counts == Counts(ok=12)


def _interrupted(images: Path, out: Path, count: int, **options: Any) -> None:
    """A start whose listing breaks off once the shards of the first `count` examples are done."""

    def broken(*asked: Any) -> Iterator[Entry]:
        for i, entry in enumerate(find_examples(*asked)):
            if i == count:
                _until(lambda: _records(out) == count // 2)
                raise OSError("the bucket is away")
            yield entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WHERE, broken)
        with pytest.raises(OSError, match="the bucket is away"):
            start(images, out, **options)


def test_a_start_that_was_interrupted_while_it_listed_keeps_what_it_did(tmp_path: Path) -> None:
    images, out = _flat(tmp_path / "images", 12), tmp_path / "out"
    _interrupted(images, out, 6)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        ll.open_run(out)
    found = verify(out)
    assert found.outcome == "to be made again" and [each.path for each in found.damaged] == [out / "plan.json"]
    before = {path.name: path.stat().st_mtime_ns for path in (out / "done").iterdir()}
    with pytest.raises(ValueError, match=r"other settings: seed was 0 and is now 1; go on with the old ones"):
        start(images, out, seed=1)
    run = start(images, out)
    after = {path.name: path.stat().st_mtime_ns for path in (out / "done").iterdir()}
    assert run.counts == Counts(ok=12) and before.items() <= after.items() and len(before) == 3
    start(images, tmp_path / "undisturbed")
    assert_whole(out, tmp_path / "undisturbed")


def test_damage_to_what_an_interrupted_listing_began_with_is_no_success(tmp_path: Path) -> None:
    images, out = _flat(tmp_path / "images", 12), tmp_path / "out"
    _interrupted(images, out, 6)
    begun = (out / "begun.json").read_bytes()
    (out / "begun.json").write_bytes(begun.replace(b"plain", b"plane"))
    assert verify(out).outcome == "damaged"
    with pytest.raises(DamagedFile, match=r"begun\.json' is damaged"):
        start(images, out)


def test_what_changed_since_an_interrupted_listing_is_done_again(tmp_path: Path) -> None:
    """A new picture moves all later ones; of those that are gone nothing is left."""
    images, out = _flat(tmp_path / "images", 12), tmp_path / "out"
    _interrupted(images, out, 10)
    (images / "00003.png").rename(images / "00002a.png")
    for i in range(5, 12):
        (images / f"{i:05d}.png").unlink()
    kept = (out / "done" / "000000.json").stat().st_mtime_ns
    assert start(images, out).counts == Counts(ok=5)
    assert (out / "done" / "000000.json").stat().st_mtime_ns == kept
    start(images, tmp_path / "undisturbed")
    assert_whole(out, tmp_path / "undisturbed")


def test_a_start_that_did_nothing_binds_nobody(tmp_path: Path) -> None:
    images, out = _flat(tmp_path / "images", 12), tmp_path / "out"
    _interrupted(images, out, 0)
    assert start(images, out, seed=1, limit=4).counts == Counts(ok=4, skipped=8)


def test_a_limit_skips_what_is_listed_beyond_it(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 12)
    run = start(images, tmp_path / "out", limit=5)
    assert run.counts == Counts(ok=5, skipped=7) and len(run) == 5 and run.status.counts == run.counts
    assert_whole(tmp_path / "out")


def test_a_run_of_an_older_version_is_finished(tmp_path: Path) -> None:
    """Its plan has no format, and each of its records a hash of the whole plan, and none of its entries."""
    images, out = pictures(tmp_path / "images", 12), tmp_path / "out"
    start(images, out)
    plan = json.loads((out / "plan.json").read_text())
    assert plan.pop("digest") and plan.pop("format") == 2
    (out / "plan.json").write_bytes(sealed_json(plan, indent=1))
    config = ll.runs.ledger.Ledger.open(out).config
    for path in (out / "done").iterdir():
        record = json.loads(path.read_text())
        assert record.pop("digest") and len(record.pop("entries")) == 32 and record["config"] != config
        path.write_bytes(sealed_json({**record, "config": config}))
    (out / "done" / "000003.json").unlink()
    assert ll.open_run(out).counts == Counts(ok=10, pending=2)
    assert start(images, out).counts == Counts(ok=12)
    start(images, tmp_path / "undisturbed")
    assert_whole(out, tmp_path / "undisturbed")


def test_first_work_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 pictures, and 20 ms for each question and each read."""
    folder = pictures(tmp_path / "images", 20)
    names = sorted(folder.rglob("*.png"))
    table = tmp_path / "table.csv"
    table.write_text("path\n" + "".join(f"{names[i % 20]}\n" for i in range(1000)))
    own, facts = Entry.read, ll.runs.sources.facts_of
    began, first = list[float](), list[float]()

    def read(entry: Entry, elsewhere: bool = False) -> bytes:
        time.sleep(0.02)
        return own(entry, elsewhere)

    def asked(place: str, elsewhere: bool = False) -> Any:
        if place.endswith(".png"):
            began.append(time.monotonic())
            time.sleep(0.02)
        return facts(place, elsewhere)

    class Enough(Exception):
        pass

    def look(status: ll.runs.Status) -> None:
        if status.rows:
            first.append(time.monotonic())
            raise Enough

    monkeypatch.setattr(Entry, "read", read)
    monkeypatch.setattr("limelight.runs.sources.facts_of", asked)
    with pytest.raises(Enough):
        start(table, tmp_path / "out", methods=["gradient"], shard_size=None, group=16, on_status=look)
    assert first[0] - began[0] < 1


@pytest.mark.long
def test_a_driver_killed_while_it_lists(tmp_path: Path) -> None:
    images, out = _flat(tmp_path / "images", 40), tmp_path / "out"
    process = launch(images, out, "listing_slowly", workers=2)
    _until(lambda: _records(out) >= 3 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    code, output = finish(process)
    assert code == -signal.SIGKILL, output
    assert not (out / "plan.json").exists()
    assert start(images, out, "listing_slowly").counts == Counts(ok=40)
    start(images, tmp_path / "undisturbed", "listing_slowly")
    assert_whole(out, tmp_path / "undisturbed")
    assert results(out).keys() and os.path.exists(out / "plan.json")
