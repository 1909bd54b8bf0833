"""The figures of a report equal their definitions, written out over the rows of the index one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import limelight as ll
from limelight.runs import Summary, write_report
from limelight.runs.clusters import clusters_of, features_of
from limelight.runs.columns import Groups
from tests.runs.networks import plain

from .helpers import pictures, start

pytest.importorskip("sklearn", reason="the clusters of a report need the extra 'report'")
METHODS = ("integrated-gradients(2)", "gradient", "grad-cam")
CHECKS = ("completeness", "gini")
Line = dict[str, Any]


@pytest.fixture(scope="module", params=["labels", "no labels", "a method that fails"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ll.Run:
    """A run of several shards with pictures that fail, and columns that are empty for some methods."""
    folder = tmp_path_factory.mktemp("summary")
    images = pictures(folder / "images", 40, bad=(3, 17))
    options: dict[str, Any] = {"methods": METHODS, "checks": CHECKS, "shard_size": 7, "group": 4}
    if request.param == "labels":
        return start(images, folder / "out", target="margin(0, other=1)", store="heatmap-float16", **options)
    if request.param == "no labels":
        for place in sorted(images.rglob("*.png")):
            place.rename(images / place.name)
        return start(images, folder / "out", **options)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))  # no layer for Grad-CAM
    model = ll.ImageModel(network, plain().preprocessing, ("a", "b", "c"), "flat")
    return ll.run(images, model, target="label", output=folder / "out", workers=0, **options)


@pytest.fixture(scope="module")
def summary(run: ll.Run) -> Summary:
    return Summary.of(run, most=3)


@pytest.fixture(scope="module")
def lines(run: ll.Run) -> list[Line]:
    found: list[Line] = [row for row in run.table().to_pylist() if not row["error"]]
    return found


def explained(lines: list[Line]) -> list[str]:
    """The class that each line explains."""
    names = {line["prediction"]: line["predicted"] for line in lines}
    targets = [line["target"] for line in lines]
    return ["the target" if each is None else names.get(each, f"class {each}") for each in targets]


def groups_of(lines: list[Line]) -> list[str]:
    labels = [line["label"] for line in lines]
    return labels if any(labels) else explained(lines)


def quantile(values: list[float], share: float) -> float:
    """Of n values in order, that at the place `share * (n - 1)`; between two, on the line between them."""
    ordered = sorted(values)
    low, part = divmod(share * (len(values) - 1), 1)
    after = ordered[min(int(low) + 1, len(values) - 1)]
    return ordered[int(low)] + part * (after - ordered[int(low)])


def known(lines: list[Line], method: str, column: str) -> list[Line]:
    return [line for line in lines if line["method"] == method and line[column] is not None]


@pytest.mark.parametrize("column", ["gini", "completeness", "probability"])
def test_spreads(run: ll.Run, summary: Summary, lines: list[Line], column: str) -> None:
    groups, found = groups_of(lines), {(each.method, each.group): each for each in summary.spreads[column]}
    for method in run.methods:
        for group in sorted(set(groups)):
            own = [line for line, name in zip(lines, groups, strict=True) if name == group]
            values = [line[column] for line in known(own, method, column)]
            assert ((method, group) in found) == bool(values)
            if values:
                each = found.pop((method, group))
                wanted = [quantile(values, share) for share in (0, 0.25, 0.5, 0.75, 1)]
                assert each.count == len(values) and each.quantiles == pytest.approx(wanted, rel=1e-13)
    assert not found


def test_extremes(run: ll.Run, summary: Summary, lines: list[Line]) -> None:
    found = {(each.method, each.column): (each.smallest, each.largest) for each in summary.extremes}
    wanted = {}
    for method in run.methods:
        for column in ("probability", "score", "delta", "seconds", *run.checks, "agreement"):
            ordered = sorted(known(lines, method, column), key=lambda line: line[column])
            if ordered:
                ends = ordered[:3], ordered[::-1][:3]
                wanted[method, column] = tuple(tuple((line["id"], line[column]) for line in end) for end in ends)
    assert found == wanted and len(wanted) > 8


def test_shares(run: ll.Run, summary: Summary, lines: list[Line]) -> None:
    groups = groups_of(lines)
    first: dict[int, tuple[bool, str]] = {}
    for line, group in zip(lines, groups, strict=True):
        if line["correct"] is not None:
            first.setdefault(line["id"], (line["correct"], group))
    wanted = [("all examples", sum(right for right, _ in first.values()), len(first))]
    for name in sorted({group for _, group in first.values()}):
        own = [right for right, group in first.values() if group == name]
        wanted.append((name, sum(own), len(own)))
    assert [(each.name, each.count, each.total) for each in summary.accuracy] == wanted

    wanted = []
    for method in run.methods:
        own_lines = [line for line in lines if line["method"] == method]
        tested = [check for check in run.checks if known(lines, method, f"{check} passed")]
        if tested:
            failed = [any(line[f"{check} passed"] is False for check in tested) for line in own_lines]
            wanted.append((f"{method}: any hard test", sum(failed), len(failed)))
        for check in tested:
            passed = [line[f"{check} passed"] for line in known(lines, method, f"{check} passed")]
            wanted.append((f"{method}: {check}", passed.count(False), len(passed)))
    assert [(each.name, each.count, each.total) for each in summary.failing] == wanted and wanted


def test_correlations(run: ll.Run, summary: Summary, lines: list[Line]) -> None:
    for method, found in zip(run.methods, summary.correlations, strict=True):
        for other, (mean, count) in zip(run.methods, found, strict=True):
            column = f"correlation with {other}"
            values = [line[column] for line in known(lines, method, column)]
            assert count == len(values)
            assert mean == pytest.approx(math.fsum(values) / count, rel=1e-14) if count else math.isnan(mean)


def heatmaps(run: ll.Run, lines: list[Line]) -> Iterator[tuple[str, str, list[int], torch.Tensor]]:
    """Of each method and class: the ids, and all maps as they are stored, summed over channels."""
    files = [load_file(path) for path in sorted((run.out / "shards").iterdir())]
    for method in run.methods:
        of_method = [pair for pair in zip(lines, explained(lines), strict=True) if pair[0]["method"] == method]
        for group in sorted({name for _, name in of_method}):
            ids = [line["id"] for line, name in of_method if name == group]
            places = [(line["shard"], line["offset"]) for line, name in of_method if name == group]
            values = [files[shard][method][offset].double() for shard, offset in places]
            yield method, group, ids, torch.stack([each.sum(0) if each.ndim == 3 else each for each in values])


def test_clusters(run: ll.Run, summary: Summary, lines: list[Line]) -> None:
    wanted = []
    for method, group, ids, maps in heatmaps(run, lines):
        wanted += [(method, each) for each in clusters_of(group, features_of(maps), ids) if len(each.ids) > 1]
    for method in run.methods:
        found = summary.clusters[method]
        own = [each for name, each in wanted if name == method]
        assert {(each.group, each.ids) for each in found} == {(each.group, each.ids) for each in own}
        medoids = {each.ids: each.medoid for each in own}  # of two maps, either: their sums are equal but for rounding
        assert all(each.medoid == medoids[each.ids] for each in found if len(each.ids) > 2)
        coherences = [each.coherence for each in found]
        assert coherences == pytest.approx(sorted((each.coherence for each in own), reverse=True), abs=1e-12)
        assert coherences == sorted(coherences, reverse=True)


def test_mean_maps_of_the_largest_classes(run: ll.Run, summary: Summary, lines: list[Line]) -> None:
    two = Summary.of(run, classes=2)
    for method in run.methods:
        own = [(group, maps) for name, group, _, maps in heatmaps(run, lines) if name == method]
        own.sort(key=lambda each: (-len(each[1]), each[0]))
        found = summary.maps[method]
        assert list(found.means) == [group for group, _ in own] and found.left_out == 0
        for group, maps in own:
            mean = (maps / maps.abs().sum((1, 2), keepdim=True).clamp(min=1e-300)).mean(0)
            torch.testing.assert_close(found.means[group].means()[0], mean, rtol=0, atol=1e-13)
            assert found.means[group].count == len(maps)
        assert list(two.maps[method].means) == [group for group, _ in own[:2]]
        assert two.maps[method].left_out == max(0, len(own) - 2)
        assert two.maps[method].clusters == found.clusters


def test_groups_join_equal_names() -> None:
    groups = Groups.of(np.asarray([2, 0, 1, 2, 0]), ("b", "a", "b", "unused"))
    assert groups.names == ("a", "b") and groups.codes.tolist() == [1, 1, 0, 1, 1]
    parts = [(name, part.tolist()) for name, part in groups.parts(np.asarray([4, 2, 0]))]
    assert parts == [("a", [2]), ("b", [4, 0])] and groups.are("c").tolist() == [False] * 5


def test_the_page_says_how_many_classes_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three classes the largest, of four maps."""
    run = start(pictures(tmp_path / "images", 10), tmp_path / "out", methods=["gradient"], target="label")
    monkeypatch.setattr("limelight.runs.page._MEANS", 1)
    page = write_report(run).read_text()
    assert "2 others are left out" in page and page.count(", aligned of 4") == page.count(", aligned of ")


def test_few_maps_of_each_class_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four maps of all classes are compared, and three of a class are in its mean."""
    run = start(pictures(tmp_path / "images", 20), tmp_path / "out", methods=["gradient"], target="label")
    for name, value in {"MOST_OF_ALL": 4, "FEWEST": 2, "MOST": 3}.items():
        monkeypatch.setattr(f"limelight.runs.class_maps.{name}", value)
    read: list[int] = []
    whole = run.shard_maps
    monkeypatch.setattr(run, "shard_maps", lambda *given: (read.append(len(given[2])), whole(*given))[1])
    found = Summary.of(run, classes=1).maps["gradient"]
    assert [len(each.ids) for each in found.clusters] == [2, 2, 2] and found.compared == 2
    assert [each.count for each in found.means.values()] == [3] and sum(read) == 3 + 2 + 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("examples", "side", "store"),
    [(50_000, 16, "heatmap-float16"), (50_000, 16, "scores"), (2000, 224, "heatmap-float16")],
)
@pytest.mark.release
def test_a_report_over_a_thousand_classes(examples: int, side: int, store: str, tmp_path: Path) -> None:
    """100,000 rows of the index, and 4,000 maps of 224 x 224: below a minute of CPU time and 1 GB of memory."""
    from benchmarks.run_scale import Made, spent, write_table

    made = Made(str(tmp_path / "out"), examples, 1000, side, store)  # type: ignore[arg-type]
    write_table(made)
    spent("listing", made)
    spent("records", made)
    found = spent("report", made)
    print(f"{examples} examples, maps of {side}, {store}: {found.cpu:.1f} CPU s, {found.peak / 2**20:.0f} MiB")
    assert found.cpu < 60 and found.peak < 1e9
    page = (tmp_path / "out" / "report.html").read_text()
    assert ("976 others are left out" in page) == (store != "scores")
