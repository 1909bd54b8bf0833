"""Runs in a bucket whose workers and drivers are killed: nothing is lost, doubled or wrong, whoever finishes them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import limelight as ll
from limelight.runs import owner, read_status

from .buckets import assert_like, new_place, serving, stored
from .helpers import finish, launch, pictures, start

pytestmark = [pytest.mark.long, pytest.mark.release]

COUNT, BAD = 16, (7,)
STEPS = ("begun", "lasting")  # an object is put at once
LONGER = (*STEPS[:1], "written", *STEPS[1:])  # of the manifest, which grows in a file here before it is put


@pytest.fixture(scope="module", autouse=True)
def bucket() -> Iterator[str]:
    with serving() as root:
        yield root


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), COUNT, BAD)


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(start(images, tmp_path_factory.mktemp("runs") / "folder").out)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The starts of this process take over a second after a driver was killed; those of others renew as ever."""
    monkeypatch.setattr(owner, "BEAT", 0.2)
    monkeypatch.setattr(owner, "DEAD_AFTER", 1.0)


def _points(place: Path, names: list[str]) -> Path:
    place.mkdir()
    for i, name in enumerate(names):
        (place / f"{i:02d}").write_text(name)
    return place


def test_worker_killed_at_every_write_point(bucket: str, images: Path, folder: Path, tmp_path: Path) -> None:
    out = new_place(bucket)
    points = _points(tmp_path / "points", [f"{file} {step}" for file in ("shards", "index", "done") for step in STEPS])
    code, output = finish(launch(images, out, "killed", LIMELIGHT_TEST_KILL=f"worker,{points}"))
    assert code == 3, output
    assert not list(points.iterdir()) and read_status(out).deaths == 6
    assert_like(out, folder)


@pytest.mark.parametrize("point", [*(f"manifest {each}" for each in LONGER), *(f"plan {each}" for each in STEPS)])
def test_driver_killed_at_every_write_point(
    point: str, bucket: str, images: Path, folder: Path, tmp_path: Path
) -> None:
    out = new_place(bucket)
    points = _points(tmp_path / "points", [point])
    code, output = finish(launch(images, out, "killed", LIMELIGHT_TEST_KILL=f"driver,{points}"))
    assert code == -signal.SIGKILL and not list(points.iterdir()), output
    time.sleep(1)
    start(images, out, "killed" if point == "plan lasting" else "plain")  # that plan stands, and names its model
    assert_like(out, folder)


@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_driver_ended_among_its_workers(
    how: signal.Signals, code: int, engine: Any, bucket: str, images: Path, folder: Path
) -> None:
    """Another engine finishes the run; after Ctrl-C at once, after a kill once the owner's record is old."""
    out = new_place(bucket)
    process = launch(images, out, "slow", workers=2)
    while len(stored(out).files("done")) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    ended, output = finish(process)
    assert ended == code, output
    assert ll.open_run(out).counts.pending
    if how == signal.SIGKILL:
        time.sleep(1)
    if engine == "ray":
        _finish_on_ray(images, out)
    else:
        start(images, out, "slow", workers=1)
    assert_like(out, folder)


def _finish_on_ray(images: Path, out: str) -> None:
    ray: Any = pytest.importorskip("ray", reason="the Ray engine needs the extra 'ray'")
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning")
    try:
        start(images, out, "slow", engine="ray", workers=2)  # type: ignore[arg-type]
    finally:
        ray.shutdown()


def test_a_picture_that_kills_workers_is_given_up(bucket: str, tmp_path: Path) -> None:
    """The first death in a shard leaves no place, so that it takes five."""
    images, out = pictures(tmp_path / "images", 6, marked=(2,)), new_place(bucket)
    run = start(images, out, "lethal", workers=1)
    assert (run.counts.ok, run.counts.failed, run.status.deaths) == (5, 1, 5)
    assert run[2].error == "ChildProcessError: 2 workers died while they explained it"
    assert not stored(out).files("leases")
    assert_like(out, start(images, tmp_path / "folder", "lethal", workers=1).out)


def test_an_upload_in_parts_that_is_cut_leaves_nothing(bucket: str, images: Path, folder: Path) -> None:
    """The store refuses the second part of the shard; nothing is there under its name, and nothing is believed."""
    import s3fs

    out, call = new_place(bucket), s3fs.S3FileSystem._call_s3
    start(images, out)
    storage = stored(out)
    content = storage.read("shards/000001.safetensors")
    storage.delete("shards/000001.safetensors")
    asked: list[str] = []

    async def cut(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        asked.append(method)
        if method == "upload_part" and options["PartNumber"] == 2:
            raise OSError("the line is cut")
        return await call(self, method, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="the line is cut"):
        patch.setattr(s3fs.S3FileSystem, "_call_s3", cut)
        storage.write("shards/000001.safetensors", content + b"\0" * (110 << 20), "shards")
    assert "create_multipart_upload" in asked and "complete_multipart_upload" not in asked
    assert storage.facts("shards/000001.safetensors") is None
    assert ll.runs.verify(out).shards == (1,)
    start(images, out)
    assert_like(out, folder)
