"""Faults injected from outside: whatever dies or fills up, nothing is lost, doubled or wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

import limelight as ll
from limelight.runs import RunStopped, read_status
from limelight.runs.durable import STEPS

from .helpers import assert_whole, finish, launch, pictures, results, start

pytestmark = pytest.mark.long

COUNT, BAD = 40, (7, 30)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), COUNT, BAD)


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    run = start(images, out)
    assert (run.counts.ok, run.counts.failed) == (COUNT - len(BAD), len(BAD))
    assert_whole(out)
    return out


def _points(folder: Path, files: tuple[str, ...]) -> Path:
    folder.mkdir()
    for i, point in enumerate(f"{file} {step}" for file in files for step in STEPS):
        (folder / f"{i:02d}").write_text(point)
    return folder


def test_worker_killed_at_every_write_point(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    points = _points(tmp_path / "points", ("shards", "index", "done"))
    code, output = finish(launch(images, tmp_path / "out", "killed", LIMELIGHT_TEST_KILL=f"worker,{points}"))
    assert code == 3, output
    assert not list(points.iterdir())
    assert json.loads((tmp_path / "out" / "status.json").read_text())["deaths"] == 15
    assert_whole(tmp_path / "out", undisturbed)


@pytest.mark.parametrize("file", ["manifest", "plan"])
def test_driver_killed_at_every_write_point(file: str, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    points = _points(tmp_path / "points", (file,))
    processes = []
    for i in range(len(STEPS)):
        processes.append(launch(images, tmp_path / f"{i}", "killed", LIMELIGHT_TEST_KILL=f"driver,{points}"))
        code, output = finish(processes[-1])
        assert code == -signal.SIGKILL, output
        start(images, tmp_path / f"{i}", "plain" if i == 0 and file == "manifest" else "killed")
        assert_whole(tmp_path / f"{i}", undisturbed)
    assert not list(points.iterdir())


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_driver_ended_among_its_workers(
    how: signal.Signals, code: int, images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The workers finish their shards and go; the next coordinator waits for those shards, or finds them done."""
    out = tmp_path / "out"
    process = launch(images, out, "slow", workers=2)
    while not (out / "done").is_dir() or len(list((out / "done").glob("*.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    ended, output = finish(process)
    assert ended == code, output
    assert read_status(out).state == "stopped" and read_status(out).counts.pending
    start(images, out, "slow")
    assert_whole(out, undisturbed)


def test_two_coordinators_on_one_folder(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [launch(images, out, "plain"), launch(images, out, "plain")]
    for process in both:
        code, output = finish(process)
        assert code == 3, output
    assert_whole(out, undisturbed)


def test_damaged_shards_are_made_again(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    start(images, out)
    shards = sorted((out / "shards").iterdir())
    index = sorted((out / "index").iterdir())
    shards[1].write_bytes(shards[1].read_bytes()[:-5])
    flipped = bytearray(shards[2].read_bytes())
    flipped[-9] ^= 4
    shards[2].write_bytes(flipped)
    index[4].unlink()
    (out / "done" / "000005.json").write_text('{"shard": 5')
    with pytest.raises(ValueError, match=r"path: .*000002.safetensors' is damaged .*; the same command with --verify"):
        _ = ll.open_run(out)[5].values
    assert results(out) != results(undisturbed)
    start(images, out)  # by records and sizes alone
    assert {name for name, content in results(out).items() if content != results(undisturbed)[name]} == {
        "shards/000002.safetensors"
    }
    start(images, out, verify=True)
    assert_whole(out, undisturbed)


def test_worker_out_of_memory(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    """What failed for want of memory is recorded, and another start, with enough of it, does it over."""
    out = tmp_path / "out"
    code, output = finish(launch(images, out, "limited"))
    assert code in (1, 3), output
    if code == 3:
        assert_whole(out)
    code, output = finish(launch(images, out, "limited", LIMELIGHT_TEST_PLENTY="1"))
    assert code == 3, output
    assert_whole(out, undisturbed)


def test_one_example_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(tmp_path / "images", 6, marked=(3,))
    assert start(images, tmp_path / "out", "hungry").counts.failed == 1
    assert "Memory" in ll.open_run(tmp_path / "out")[3].error
    monkeypatch.setenv("LIMELIGHT_TEST_PLENTY", "1")
    assert start(images, tmp_path / "out", "hungry").counts.failed == 0
    start(images, tmp_path / "at once", "hungry")
    assert_whole(tmp_path / "out", tmp_path / "at once")


def test_full_disk(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, output = finish(launch(images, out, "small_disk"))
    assert code == 1 and "File too large" in output
    assert "the same command resumes the run" in json.loads((out / "status.json").read_text())["reason"]
    assert ll.open_run(out).counts.pending == COUNT
    code, output = finish(launch(images, out, "small_disk", LIMELIGHT_TEST_PLENTY="1"))
    assert code == 3, output
    assert_whole(out, undisturbed)


def test_a_picture_that_kills_workers_is_given_up(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 6, marked=(2,))
    run = start(images, tmp_path / "out", "lethal", workers=1)
    assert (run.counts.ok, run.counts.failed, run.status.deaths) == (5, 1, 4)
    assert run[2].error == "ChildProcessError: 2 workers died while they explained it"
    assert_whole(tmp_path / "out")


def test_a_fault_of_the_model_is_the_examples_own(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 6, marked=(2,))
    run = start(images, tmp_path / "out", "breaking")
    assert run.counts.failed == 1 and run[2].error == "KeyError: 'a fault of the model'"
    with pytest.raises(ValueError, match=r"example 2 \(b/00002.png\) failed: KeyError"):
        _ = run[2].values


def test_a_picture_changed_since_the_start_is_refused(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 4)
    out = tmp_path / "out"
    start(images, out)
    (out / "done" / "000001.json").unlink()
    (images / "b" / "00002.png").write_bytes((images / "c" / "00003.png").read_bytes())
    assert start(images, out)[2].error == "ValueError: the file has changed since the start of the run"


def test_an_outage_of_the_pictures_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not read while the folder was away fails in that start; the next one does it.

    One shard was done then, and the second one perhaps read ahead: its bad picture fails in any case.
    """
    monkeypatch.setattr("limelight.runs.status._EVERY", 0)
    images = pictures(tmp_path / "images", 6, bad=(3,))
    out, away = tmp_path / "out", tmp_path / "away"

    def leave(status: ll.runs.Status) -> None:
        if status.counts.ok == 2 and images.exists():
            while not (out / "plan.json").exists():
                time.sleep(0.01)
            images.rename(away)

    for _ in range(2):
        assert start(images, out, on_status=leave).counts.failed in (3, 4)
        assert_whole(out)
    away.rename(images)
    assert start(images, out).counts.failed == 1
    start(images, tmp_path / "undisturbed")
    assert_whole(out, tmp_path / "undisturbed")


@pytest.mark.parametrize("key", ["sha256", "bytes", "files"])
def test_a_damaged_record_is_made_again(key: str, images: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    start(images, out)
    record = out / "done" / "000002.json"
    record.write_text(record.read_text().replace(f'"{key}"', f'"{key[:-1]}~"', 1))
    start(images, out)
    assert json.loads(record.read_text())["files"]["shards/000002.safetensors"].keys() == {"bytes", "sha256"}
    assert_whole(out, undisturbed)


def test_one_bad_picture_in_each_hundred(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 300, bad=(13, 140, 299))
    run = start(images, tmp_path / "out", shard_size=64, group=16)
    assert (run.counts.ok, run.counts.failed) == (297, 3)
    assert all(run[i].error.startswith("ImageError: ") for i in (13, 140, 299))
    assert_whole(tmp_path / "out")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", r"exit code 9; start the run below `if __name__ == '__main__':`, .* or use workers=0$"),
        ("kill", r"killed by SIGKILL; is there memory for the model in each\? Use fewer workers; the same command"),
    ],
)
def test_workers_that_cannot_start_end_the_run(
    how: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(tmp_path / "images", 2)
    monkeypatch.setattr("limelight.runs.crew._serve", {"exit": _exit, "kill": _die}[how])
    with pytest.raises(RunStopped, match=f"4 workers in a row died, and not while they explained an example: {said}"):
        start(images, tmp_path / "out", workers=1)
    assert not multiprocessing.active_children()


def _exit(*anything: object) -> None:
    os._exit(9)


def _die(*anything: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _processes(driver: int) -> list[int]:
    """The driver, and all that it started: workers, and what Python starts for them."""
    return [driver, *map(int, Path(f"/proc/{driver}/task/{driver}/children").read_text().split())]


@pytest.mark.release
def test_fifty_random_kills(tmp_path: Path) -> None:
    """Of the driver or any process that it started, at any moment: files, shards and counts as if nothing had been."""
    images, at_random, killed = pictures(tmp_path / "images", 120, BAD), random.Random(0), Counter[str]()
    start(images, tmp_path / "undisturbed", "slow")
    outs = [tmp_path / "0"]
    process = launch(images, outs[-1], "slow", workers=2)
    while killed.total() < 50:
        time.sleep(at_random.uniform(0, 8))
        if process.poll() is not None:
            code, output = finish(process)
            assert code in (3, -signal.SIGKILL), output
            outs += [tmp_path / f"{len(outs)}"] * (code == 3)
            process = launch(images, outs[-1], "slow", workers=2)
            continue
        victim = at_random.choice(_processes(process.pid))
        os.kill(victim, signal.SIGKILL)
        killed["driver" if victim == process.pid else "workers"] += 1
    finish(process)
    code, output = finish(launch(images, outs[-1], "slow", workers=2))
    assert code == 3, output
    assert min(killed["driver"], killed["workers"]) > 10
    for out in outs:
        assert_whole(out, tmp_path / "undisturbed")
