"""The report: its figures by hand, and the view in which a planted shortcut comes out on top."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import limelight as ll
from limelight.cli.main import app
from limelight.models.pictures import Preprocessing
from limelight.runs import Summary, write_report
from limelight.runs.class_maps import GroupMaps
from limelight.runs.clusters import clusters_of, features_of
from limelight.studies.ground_truth.scenes import CLASSES, scenes
from limelight.studies.ground_truth.trained import SceneCNN

from .helpers import pictures, start

pytest.importorskip("sklearn", reason="the clusters of a report need the extra 'report'")
TAGGED = CLASSES.index("square")


def _tag(x: Tensor) -> None:
    """A tag in the lower right corner: a white frame around black."""
    x[:, :, -5:-1, -5:-1] = 1
    x[:, :, -4:-2, -4:-2] = 0


def _with_tags(count: int, seed: int, of_three: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Scenes, their classes, and which bear the tag: so many of three squares."""
    data = scenes(count, seed=seed)
    tagged = (data.y == TAGGED) & (torch.arange(count) % 3 < of_three)
    x = data.x.clone()
    marked = x[tagged]
    _tag(marked)
    x[tagged] = marked
    return x, data.y, tagged


@pytest.fixture(scope="module")
def shortcut() -> ll.ImageModel:
    """A small network that had a tag in the corner of one class's training pictures."""
    x, y, _ = _with_tags(1500, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SceneCNN(width=8)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        model.train()
        for step in range(120):
            chosen = torch.from_numpy(np.random.default_rng(step).integers(0, len(x), 32))
            loss = F.cross_entropy(model(x[chosen]), y[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return ll.ImageModel(model.eval(), Preprocessing(size=32, crop_fraction=1.0), CLASSES, "scenes")


def test_the_planted_shortcut_comes_out_on_top(shortcut: ll.ImageModel, tmp_path: Path) -> None:
    x, y, tagged = _with_tags(240, seed=4, of_three=2)
    for i, picture in enumerate(x):
        place = tmp_path / "images" / CLASSES[y[i]] / f"{i:04d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * picture).round().byte().permute(1, 2, 0).numpy()).save(place)
    run = ll.run(
        tmp_path / "images",
        shortcut,
        [ll.IntegratedGradients(ll.GaussLegendre(8))],
        output=tmp_path / "out",
        target="label",
        workers=0,
        store="heatmap-float16",
    )
    clusters = Summary.of(run).clusters["integrated-gradients"]

    def bears(example: int) -> bool:
        return bool(tagged[int(Path(run[example].entry.path).stem)])

    # How many clusters the tagged make may turn on the last bits; that they come before all others may not.
    top = list(itertools.takewhile(lambda each: each.group == "square", clusters))
    found = [i for each in top for i in each.ids]
    assert np.mean([bears(i) for i in top[0].ids]) > 0.9 and all(bears(each.medoid) for each in top)
    assert np.mean([bears(i) for i in found]) > 0.9 and len(found) > 0.75 * int(tagged.sum())
    assert top[0].coherence > 1.3 * clusters[len(top)].coherence


def test_clusters_of_three_places() -> None:
    """Thirty maps, a block in one of three places, and noise: three clusters, each of one place."""
    random = np.random.default_rng(0)
    heatmaps = torch.from_numpy(0.05 * random.random((30, 32, 32)))
    for i in range(30):
        row = 10 * (i % 3)
        heatmaps[i, row : row + 6, row : row + 6] += 1
    found = clusters_of("a", features_of(heatmaps), list(range(100, 130)))
    assert sorted(sorted(each.ids) for each in found) == [list(range(100 + k, 130, 3)) for k in range(3)]
    assert all(each.coherence > 0.95 and each.medoid in each.ids for each in found)


def test_mean_maps_aligned_and_not() -> None:
    """A point in two places: half its height in each; aligned, one point of full height in the middle."""
    heatmaps = torch.zeros(2, 9, 9, dtype=torch.float64)
    heatmaps[0, 1, 7] = heatmaps[1, 6, 2] = 5
    maps = GroupMaps()
    maps.add(heatmaps)
    here, aligned = maps.means()
    assert here[1, 7] == here[6, 2] == 0.5 and here.sum() == 1
    assert aligned[4, 4] == 1 and aligned.sum() == 1


def test_figures_of_a_summary(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 12, bad=(5,))
    run = start(images, tmp_path / "out", checks=["completeness", "gini"], shard_size=5)
    rows = [row for row in run.table().to_pylist() if not row["error"]]
    summary = Summary.of(run)
    whole, *parts = summary.accuracy
    ours = [row["correct"] for row in rows if row["method"] == "grad-cam"]
    assert (whole.count, whole.total) == (sum(ours), 11) and [each.total for each in parts] == [4, 3, 4]
    gini = {row["id"]: row["gini"] for row in rows if row["method"] == "grad-cam" and row["label"] == "b"}
    spread = next(each for each in summary.spreads["gini"] if (each.method, each.group) == ("grad-cam", "b"))
    assert spread.count == 3 and spread.quantiles[2] == sorted(gini.values())[1]
    ends = next(each for each in summary.extremes if (each.method, each.column) == ("grad-cam", "gini"))
    of_all = {row["id"]: row["gini"] for row in rows if row["method"] == "grad-cam"}
    assert ends.largest[0] == max(of_all.items(), key=lambda item: item[1])
    failing = next(each for each in summary.failing if each.name == "integrated-gradients: completeness")
    passed = [row["completeness passed"] for row in rows if row["method"] == "integrated-gradients"]
    assert (failing.count, failing.total) == (passed.count(False), 11)


def test_accuracy_counts_each_example_once(tmp_path: Path) -> None:
    """Also where the first method refuses the model, and for a class that is called as all of them are."""
    images = pictures(tmp_path / "images", 6)
    (images / "a").rename(images / "all")
    (images / "b").rename(images / "all examples")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))  # no layer for Grad-CAM
    labels = ("all", "all examples", "c")
    model = ll.ImageModel(network, Preprocessing(size=16, crop_fraction=1.0), labels, "flat")
    run = ll.run(images, model, ["grad-cam", "gradient"], output=tmp_path / "out", workers=0)
    rows = [row for row in run.table().to_pylist() if row["method"] == "gradient"]
    right = {label: sum(row["correct"] for row in rows if row["label"] == label) for label in labels}
    found = [(each.name, each.count, each.total) for each in Summary.of(run).accuracy]
    assert found == [("all examples", sum(right.values()), 6), *((label, right[label], 2) for label in labels)]


@pytest.mark.parametrize("store", ["values", "scores"])
def test_page(store: str, tmp_path: Path) -> None:
    images = pictures(tmp_path / "images <b>", 12, bad=(5,))
    run = start(images, tmp_path / "out", checks=["gini"], store=store)
    (images / "a" / "00000.png").unlink()  # the page still shows its map
    (images / "a" / "00001.png").write_bytes((images / "c" / "00011.png").read_bytes())
    made = CliRunner().invoke(app, ["report", str(run.out)])
    assert made.exit_code == 0, made.output
    page = (run.out / "report.html").read_text()
    assert "<script" not in page and "images <b>" not in page and "images &lt;b&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for heading in ("Accuracy", "Distributions", "Examples at either end", "Settings"):
        assert f"<h2>{heading}</h2>" in page
    assert ("Mean maps" in page) == ("Clusters of maps" in page) == (store == "values")
    gone = set(re.findall(r'alt="(\S+)[^"]* \(the picture cannot be read: ', page))
    assert gone == {"a/00000.png", "a/00001.png"} and "<li>b/00005.png: ImageError: " in page
    assert write_report(run, tmp_path / "other.html").read_text() == page


def test_report_of_a_run_where_all_failed(tmp_path: Path) -> None:
    run = start(pictures(tmp_path / "images", 2, bad=(0, 1)), tmp_path / "out", checks=["gini"])
    page = write_report(run).read_text()
    assert "2 of 2 examples, 2 failed" in page and page.count("<li>") == 2


def test_report_of_nothing(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 1
