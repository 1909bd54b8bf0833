"""Runs at their limits: full and read-only disks, long manifests, threads on one folder, lost nodes, two engines."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import limelight as ll
from limelight.runs import RunStopped, read_status
from limelight.runs.ledger import Ledger
from limelight.runs.plan import Counts

from .helpers import assert_whole, pictures, results, start

LEAST = {"methods": ["gradient"], "store": "heatmap-float16"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system was refused: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_full_disk_ends_the_run_and_room_resumes_it(workers: int, small_disk: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 12)
    ballast, out = small_disk / "ballast", small_disk / "out"
    start(images, tmp_path / "undisturbed")
    start(images, out, limit=12, workers=workers).counts  # noqa: B018  it fits
    assert_whole(out)
    for path in [*(out / "done").iterdir(), *(out / "shards").iterdir(), *(out / "index").iterdir()]:
        path.unlink()
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError) as full:
        while True:
            file.write(b"x" * 4096)
    assert full.value.errno == errno.ENOSPC
    os.truncate(ballast, ballast.stat().st_size - 12 * 1024)  # room for a shard, not for all
    with pytest.raises((RunStopped, OSError), match="No space left on device"):
        start(images, out, limit=12, workers=workers)
    ballast.unlink()
    assert ll.open_run(out).counts.failed == 0
    assert start(images, out, limit=12, workers=workers).counts == Counts(ok=12)
    assert_whole(out, tmp_path / "undisturbed")


def test_a_disk_that_is_full_before_the_start(small_disk: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 4)
    with (small_disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(OSError, match="No space left on device"):
        start(images, small_disk / "out")
    (small_disk / "ballast").unlink()
    assert start(images, small_disk / "out").counts == Counts(ok=4)


def test_output_that_cannot_be_written(small_disk: Path, tmp_path: Path) -> None:
    """Readers need no write access; a start says that the file system is read-only."""
    images, out = pictures(tmp_path / "images", 4), small_disk / "out"
    start(images, out)
    (out / "done" / "000001.json").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert ll.open_run(out).counts == Counts(ok=2, pending=2) and ll.open_run(out)[0].values.isfinite().all()
    assert read_status(out).counts.pending == 2 and ll.runs.verify(out).outcome == "to be made again"
    with pytest.raises(OSError, match="Read-only file system"):
        start(images, out)
    with pytest.raises(OSError, match="Read-only file system"):
        start(images, small_disk / "new")
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert start(images, out).counts == Counts(ok=4)


def _table(folder: Path, count: int) -> Path:
    """Write a table of so many entries over 20 pictures."""
    names = sorted(pictures(folder / "images", 20).rglob("*.png"))
    table = folder / "table.csv"
    table.write_text("path,label\n" + "".join(f"{names[i % 20]},{i % 3}\n" for i in range(count)))
    return table


@pytest.mark.long
def test_twenty_thousand_entries(tmp_path: Path, record_property: Any) -> None:
    """To open, ask and resume takes seconds, by the CPU's clock, because other processes run here."""
    table, out = _table(tmp_path, 20_000), tmp_path / "out"
    options = {**LEAST, "shard_size": 128, "group": 16}
    run = start(table, out, **options)
    assert run.counts == Counts(ok=20_000)

    def seconds(name: str, do: Any) -> float:
        began = time.process_time()
        do()
        spent = time.process_time() - began
        print(f"{name}: {spent:.2f} CPU seconds")
        record_property(name, spent)
        return spent

    assert seconds("open", lambda: ll.open_run(out)[19_999]) < 3
    assert seconds("status", lambda: read_status(out)) < 3
    assert seconds("resume", lambda: start(table, out, **options)) < 5
    (out / "done" / "000156.json").unlink()
    assert start(table, out, **options).counts == Counts(ok=20_000)


def test_two_threads_on_one_folder(tmp_path: Path) -> None:
    """Each thread is a coordinator with its own worker; file locks belong to the process, so more is needed."""
    images = pictures(tmp_path / "images", 24, bad=(5,))
    start(images, tmp_path / "undisturbed")
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: start(images, tmp_path / "out"), range(3)))
    assert all(run.counts == Counts(ok=23, failed=1) for run in runs)
    assert_whole(tmp_path / "out", tmp_path / "undisturbed")


def test_one_holder_of_a_shard_in_a_process(tmp_path: Path) -> None:
    start(pictures(tmp_path / "images", 4), tmp_path / "out")
    one, other = Ledger.open(tmp_path / "out"), Ledger.open(tmp_path / "out")
    with one.lease(0) as first, other.lease(0) as second, other.lease(1) as another:
        assert first is not None and second is None and another is not None
    with other.lease(0) as second:
        assert second is not None


@pytest.mark.long
@pytest.mark.release
def test_a_lost_machine_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two machines with a worker each one is lost in the middle of its shard; the other does everything."""
    ray: Any = pytest.importorskip("ray", reason="the Ray engine needs the extra 'ray'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # of a machine that does much else
    images = pictures(tmp_path / "images", 24, bad=(9,))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    lost: list[int] = []

    def lose(status: ll.runs.Status) -> None:
        if not lost and status.workers == 2 and status.rows:
            lost.append(status.counts.pending)
            cluster.remove_node(second, allow_graceful=False)

    try:
        ray.init(address=cluster.address, logging_level="warning")
        run = start(images, tmp_path / "ray", "slow", engine="ray", workers=2, on_status=lose)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost and lost[0] and run.status.deaths >= 1
    start(images, tmp_path / "local")
    assert run.counts == Counts(ok=23, failed=1)
    assert_whole(tmp_path / "ray", tmp_path / "local")


@pytest.mark.long
def test_a_machine_that_joins_late_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray: Any = pytest.importorskip("ray", reason="the Ray engine needs the extra 'ray'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # of a machine that does much else
    table = _table(tmp_path, 4000)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    alone: list[int] = []

    def join(status: ll.runs.Status) -> None:
        if status.rows and not alone:
            alone.append(status.workers)
            cluster.add_node(num_cpus=1)
        if status.workers == 2:
            raise KeyboardInterrupt

    try:
        ray.init(address=cluster.address, logging_level="warning")
        with pytest.raises(KeyboardInterrupt):
            start(table, tmp_path / "ray", "slow", engine="ray", workers=None, on_status=join)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert alone == [1]


@pytest.mark.long
@pytest.mark.release
def test_a_run_that_begins_on_ray_and_ends_here(tmp_path: Path) -> None:
    """About half of 50,000 entries on Ray, then the driver is stopped; the local engine does the rest, bytes equal."""
    ray: Any = pytest.importorskip("ray", reason="the Ray engine needs the extra 'ray'")
    table, out = _table(tmp_path, 50_000), tmp_path / "out"
    options = {**LEAST, "shard_size": 512, "group": 64, "workers": 2}

    def stop(status: ll.runs.Status) -> None:
        if status.counts.ok >= 25_000:
            raise KeyboardInterrupt

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning")
    try:
        with pytest.raises(KeyboardInterrupt):
            start(table, out, engine="ray", on_status=stop, **options)
    finally:
        ray.shutdown()
    halfway = ll.open_run(out).counts
    assert 25_000 <= halfway.ok < 45_000
    assert start(table, out, **options).counts == Counts(ok=50_000)
    start(table, tmp_path / "local", **options)
    assert results(out) == results(tmp_path / "local")
