"""The engine of many machines, on a local cluster of two workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import limelight as ll
from limelight.runs import RunStopped

from .helpers import METHODS, assert_whole, pictures, start
from .networks import plain

ray: Any = pytest.importorskip("ray", reason="the Ray engine needs the extra 'ray'")


@pytest.fixture(scope="module")
def flag(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of two workers; a file there says that one of them has died. Actors inherit the environment."""
    flag = tmp_path_factory.mktemp("flags") / "died"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMELIGHT_TEST_FLAG", str(flag))
        ray.init(num_cpus=2, include_dashboard=False, logging_level="warning")
        yield flag
        ray.shutdown()


@pytest.mark.long
@pytest.mark.release
def test_a_killed_actor_costs_its_shard_alone(flag: Path, tmp_path: Path) -> None:
    """The files are those that local processes write, byte for byte, and the maps those of explain()."""
    images = pictures(tmp_path / "images", 24, bad=(9,), marked=(13,))
    run = start(images, tmp_path / "ray", "lethal_once", engine="ray", workers=2)
    assert (run.counts.ok, run.counts.failed, run.status.deaths) == (23, 1, 1)
    assert flag.exists()
    start(images, tmp_path / "local", "lethal_once", workers=2)
    assert_whole(tmp_path / "ray", tmp_path / "local")
    model = plain()
    a = ll.explain(model, model.preprocess(images / "b" / "00010.png"), METHODS[0])
    torch.testing.assert_close(run[10].values, a.values[0], rtol=1e-5, atol=1e-7)


@pytest.mark.long
@pytest.mark.release
def test_what_every_actor_would_meet_ends_the_run(flag: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 4)
    start(images, tmp_path / "out")
    (tmp_path / "out" / "done" / "000000.json").unlink()
    shard = tmp_path / "out" / "shards" / "000000.safetensors"
    shard.unlink()
    shard.mkdir()
    with pytest.raises(RunStopped, match=r"IsADirectoryError.*the same command resumes the run"):
        start(images, tmp_path / "out", engine="ray", workers=1)


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str, **options: Any) -> None:
        raise ConnectionError(f"nobody at {address}")

    monkeypatch.setenv("RAY_ADDRESS", "far:6379")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    images = pictures(tmp_path / "images", 2)
    with pytest.raises(ConnectionError, match=r"RAY_ADDRESS: .* 'far:6379' .*unset RAY_ADDRESS to start one here"):
        start(images, tmp_path / "out", engine="ray", workers=1)
