"""The division of a run's examples into shards: by the position alone, small shards first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import limelight as ll
from limelight.base.seals import sealed_json
from limelight.runs.plan import Counts
from limelight.runs.shards import Shards

from .helpers import METHODS, assert_whole, pictures, start


@pytest.mark.parametrize("size", [None, 1, 5, 128])
def test_every_example_has_one_shard(size: int | None) -> None:
    shards, sizes = Shards(size), [len(Shards(size).ids(shard)) for shard in range(80)]
    assert [i for shard in range(80) for i in shards.ids(shard)] == list(range(sum(sizes)))
    assert all(shards.of(i) == shard for shard in range(80) for i in shards.ids(shard))
    assert sizes == ([size] * 80 if size else [8] * 16 + [16] * 16 + [32] * 16 + [64] * 16 + [128] * 16)
    cut = list(shards.cut(range(1001)))
    assert [i for each in cut for i in each] == list(range(1001)) and len(cut) == shards.number(1001)
    assert [len(each) for each in cut[:-1]] == [len(shards.ids(i)) for i in range(len(cut) - 1)]
    assert shards.number(0) == 0 and shards.number(8) == (1 if size in (None, 128) else -(-8 // size))
    far = shards.of(10**12)
    assert 10**12 in shards.ids(far)


def test_the_default_begins_with_eight(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 140)
    run = ll.run(images, "tests.runs.networks:plain", "gradient", output=tmp_path / "out", workers=0)
    assert run.counts == Counts(ok=140)
    assert [len(run.shard_maps(shard, "gradient")) for shard in range(17)] == [8] * 16 + [12]
    assert [run[i].entry.path for i in (0, 8, 139)] == ["a/00000.png", "a/00008.png", "c/00139.png"]
    assert [run[i].first.row["id"] for i in (7, 8, 128, -1)] == [7, 8, 128, 139]
    assert_whole(tmp_path / "out")


def test_a_run_that_was_begun_with_a_size_keeps_it(tmp_path: Path) -> None:
    """Also one of an older version, whose default was 128 and whose plan says so."""
    images, out = pictures(tmp_path / "images", 12), tmp_path / "out"
    start(images, out, shard_size=5, group=4)
    plan = json.loads((out / "plan.json").read_text())
    assert plan.pop("digest") and plan["settings"]["shard_size"] == 5
    (out / "plan.json").write_bytes(sealed_json(plan, indent=1))
    (out / "done" / "000001.json").unlink()
    assert start(images, out, shard_size=None, group=4).counts == Counts(ok=12)
    assert_whole(out, start(images, tmp_path / "undisturbed", shard_size=5, group=4).out)
    with pytest.raises(ValueError, match="shard_size was 5 and is now 8"):
        start(images, out, shard_size=8, group=4)
    assert ll.open_run(out).methods == tuple(each.partition("(")[0] for each in METHODS)


@pytest.mark.long
@pytest.mark.release
def test_a_hundred_pictures_occupy_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rows of each, which take equally long: 13 shards are 7 and 6, so neither has more than six tenths."""
    flags = tmp_path / "flags"
    flags.mkdir()
    monkeypatch.setenv("LIMELIGHT_TEST_FLAG", str(flags))
    images = pictures(tmp_path / "images", 100)
    options = {"methods": ["gradient"], "shard_size": None, "group": 16, "workers": 2}
    assert start(images, tmp_path / "out", "among_two", **options).counts == Counts(ok=100)
    rows = [sum(map(int, path.read_text().split())) for path in flags.iterdir()]
    assert len(rows) == 2 and all(abs(each / sum(rows) - 0.5) <= 0.1 for each in rows), rows
