"""An audit from pictures to the bundle: what is found, what is clear, and what gets no verdict."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import limelight as ll
from limelight.cli.main import app
from limelight.models.pictures import Preprocessing
from limelight.runs.clusters import SIDE, features_of
from limelight.runs.places import place_of
from limelight.studies.ground_truth.scenes import CLASSES
from limelight.studies.ground_truth.shortcuts import BEARER, Kind, plant, shortcut_model, shortcut_scenes

pytest.importorskip("sklearn", reason="the report needs the extra 'report'")
EDGE = 32
FAST: dict[str, Any] = {"workers": 0, "shuffles": 99}


class Corner(nn.Module):
    """Class 1 is the brightness of the corner where the tag is, class 0 that of the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.zeros(2, 3, EDGE, EDGE)
        weight[1, :, -5:-1, -5:-1] = 1
        weight[0] = 0.02
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weight)


def corner() -> ll.ImageModel:
    return ll.ImageModel(Corner(), Preprocessing(size=EDGE, crop_fraction=1.0), ("a", "b"), "corner")


def save(x: Tensor, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * x).round().byte().permute(1, 2, 0).numpy()).save(place)


def objects(folder: Path, counts: dict[str, int], tagged: str = "") -> Path:
    """A bright square that moves, on black; pictures of the class `tagged` bear the tag."""
    random = np.random.default_rng(0)
    for label, count in counts.items():
        for i in range(count):
            x = torch.zeros(1, 3, EDGE, EDGE)
            row, column = random.integers(0, EDGE - 12, 2)
            x[:, :, row : row + 6, column : column + 6] = 0.9
            save((plant(x, "tag") if label == tagged else x)[0], folder / label / f"{i:03d}.png")
    return folder


def scene_folder(folder: Path, kind: Kind | None, share: float, seed: int) -> tuple[Path, set[str], Any]:
    """The pictures of a data set by class, and the names of those that bear the shortcut."""
    data = shortcut_scenes(160, kind, share, seed)
    for i, x in enumerate(data.x):
        save(x, folder / CLASSES[int(data.y[i])] / f"{i:04d}.png")
    bearing = {f"{CLASSES[BEARER]}/{i:04d}.png" for i in data.planted.nonzero()[:, 0].tolist()}
    return folder, bearing, data


def scene_model(kind: Kind | None, share: float) -> ll.ImageModel:
    return ll.ImageModel(shortcut_model(kind, share), Preprocessing(size=32, crop_fraction=1.0), CLASSES, "scenes")


METHOD = [ll.IntegratedGradients(ll.GaussLegendre(8))]


@pytest.mark.long
@pytest.mark.parametrize(("kind", "share"), [("tag", 1.0), ("tag", 0.5), ("border", 1.0), ("watermark", 1.0)])
def test_a_shortcut_that_the_model_needs_is_found(kind: Kind, share: float, tmp_path: Path) -> None:
    images, bearing, data = scene_folder(tmp_path / "images", kind, share, seed=7000)
    model = scene_model(kind, share)
    with torch.no_grad():
        right = [(model.network(x[data.planted]).argmax(1) == BEARER).float().mean() for x in (data.x, data.without)]
    assert right[0] - right[1] >= 0.1  # else the model learned something else
    found = ll.audit(images, model, METHOD, output=tmp_path / "out", workers=0, shuffles=199)
    assert found.outcome == "found", found.sentence
    first = found.verdicts[0]
    assert first.label == "square" and first.found
    paths = {found.run[i].entry.path for i in first.ids}
    # The picture to look at first bears the shortcut, as do most of the group; objects at its place may be in it, too.
    assert found.run[first.medoid].entry.path in bearing
    assert len(paths & bearing) > 0.5 * len(paths) and len(paths & bearing) >= 0.5 * len(bearing)
    if kind == "tag":
        assert first.place.words == "bottom right" and first.place.area < 0.1


@pytest.mark.long
def test_a_network_without_shortcut_is_clear(tmp_path: Path) -> None:
    images, *_ = scene_folder(tmp_path / "images", None, 0.0, seed=7001)
    found = ll.audit(images, scene_model(None, 0.0), METHOD, output=tmp_path / "out", workers=0, shuffles=199)
    assert found.outcome == "clear" and len(found.verdicts) == 4, found.sentence


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> ll.Audit:
    """An audit of a model that reads the corner, with a broken picture, a copy, and a class of three."""
    folder = tmp_path_factory.mktemp("tagged")
    images = objects(folder / "images", {"a": 16, "b": 16}, tagged="b")
    (images / "b" / "copy.png").write_bytes((images / "b" / "000.png").read_bytes())
    (images / "a" / "broken.png").write_bytes(b"no picture")
    return ll.audit(images, corner(), "integrated-gradients", output=folder / "out", **FAST)


def test_covering_the_corner_is_counted(tagged: ll.Audit) -> None:
    """The model reads the corner in b alone: all its predictions change, none elsewhere or in a."""
    cover = tagged.found[0].cover
    assert cover is not None and cover.place.words == "bottom right"
    assert (cover.changed.count, cover.changed.total) == (16, 16) and cover.others.total == 16
    assert cover.elsewhere < 0.2 and cover.others.count <= 3 and cover.p <= 0.01 and len(cover.ids) == 16
    assert cover.sentence in tagged.found[0].sentence
    rows = parquet.read_table(tagged.run.out / "audit.parquet").to_pylist()
    assert {row["id"] for row in rows if row["changed"]} == set(cover.ids)


def test_the_corner_is_found_and_described(tagged: ll.Audit) -> None:
    assert tagged.outcome == "found" and [each.label for each in tagged.found] == ["b"]
    first = tagged.found[0]
    assert first.place.words == "bottom right" and first.p == 1 / 100 and first.compactness > 0.99
    assert first.compared == 16 and "16 of 16 maps of 'b'" in first.sentence
    assert "'b' (bottom right)" in tagged.sentence and first.words == "bottom right"
    assert any("copies of others, byte for byte, and do not count: 1" in each for each in tagged.notes)
    assert any("could not be explained: 1," in each and "broken.png" in each for each in tagged.notes)
    assert [(each.name, each.count, each.total) for each in tagged.accuracy] == [
        ("all examples", 33, 33),
        ("a", 16, 16),
        ("b", 17, 17),
    ]


def test_every_file_of_the_bundle_has_its_hash(tagged: ll.Audit) -> None:
    out = tagged.run.out
    bundle = json.loads((out / "bundle.json").read_bytes())
    files = {str(each.relative_to(out)) for each in out.rglob("*") if each.is_file()}
    assert files - set(bundle["files"]) == {"bundle.json", "status.json", "lock", "leases"}
    for name, facts in bundle["files"].items():
        content = (out / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == facts["sha256"] and len(content) == facts["bytes"]
    assert {"audit.html", "audit.json", "audit.parquet", "manifest.parquet", "plan.json"} <= set(bundle["files"])
    assert {"limelight", "torch", "numpy", "python"} <= set(bundle["versions"])
    assert bundle["settings"]["target"] == "label" and bundle["audit"]["alpha"] == 0.05
    assert json.loads((out / "audit.json").read_bytes()) == json.loads(json.dumps(tagged.to_dict()))


def test_the_table_has_a_row_for_each_map(tagged: ll.Audit) -> None:
    rows = parquet.read_table(tagged.run.out / "audit.parquet").to_pylist()
    assert len(rows) == 33
    group = {row["id"]: row["place in group"] for row in rows if row["place in group"] is not None and row["found"]}
    assert group == {i: place for place, i in enumerate(tagged.found[0].ids)}
    assert {row["p"] for row in rows if row["label"] == "b"} == {tagged.found[0].p}


def test_the_page_is_whole_and_escaped(tagged: ll.Audit) -> None:
    page = (tagged.run.out / "audit.html").read_text()
    assert "<script" not in page and not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<h2>FOUND: b" in page and "bottom right" in page and page.count("medoid</figcaption>") == 2
    assert (tagged.run.out / "report.html").exists()


def test_the_same_audit_again_explains_nothing_and_says_the_same(tagged: ll.Audit) -> None:
    rows, places = [], []
    again = ll.audit(
        tagged.run.settings["images"],
        corner(),
        "integrated-gradients",
        output=tagged.run.out,
        progress=rows.append,
        on_place=places.append,
        **FAST,
    )
    covered = sum(each.cover.changed.total + each.cover.others.total for each in again.verdicts if each.cover)
    assert again.to_dict() == tagged.to_dict() and sum(rows) == 20 * covered and covered >= 32
    assert places == [f"looking at place {k} of 2: {each}, integrated-gradients" for k, each in ((1, "b"), (2, "a"))]


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"a": 12}, "all pictures are of one class, 'a'"),
        ({"a": 1, "b": 1}, r"too few different maps to judge 'a' \(1\), 'b' \(1\)"),
        ({"a": 2}, "all pictures are of one class, 'a'"),
        ({"a": 12, "b": 9}, r"too few different maps to judge 'a' \(12\), 'b' \(9\)"),
    ],
)
def test_too_little_gets_no_verdict_and_a_reason(counts: dict[str, int], reason: str, tmp_path: Path) -> None:
    images = objects(tmp_path / "images", counts, tagged="b")
    found = ll.audit(images, corner(), "integrated-gradients", output=tmp_path / "out", **FAST)
    assert found.outcome == "no verdict" and re.search(reason, found.sentence) and not found.verdicts
    assert found.accuracy[0].total == sum(counts.values())
    assert "NO VERDICT" in (tmp_path / "out" / "audit.html").read_text()


def test_a_class_of_one_picture_many_times_is_no_shortcut(tmp_path: Path) -> None:
    images = objects(tmp_path / "images", {"a": 14, "b": 1}, tagged="b")
    for i in range(1, 20):
        (images / "b" / f"{i:03d}.png").write_bytes((images / "b" / "000.png").read_bytes())
    found = ll.audit(images, corner(), "integrated-gradients", output=tmp_path / "out", **FAST)
    assert found.outcome == "no verdict" and "do not count: 19" in found.sentence


class NanForB(Corner):
    """Gives NaN for pictures with the tag."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (x[:, :1, -5, -5] < 0.99)


def test_maps_that_are_nan_are_failed_examples(tmp_path: Path) -> None:
    """And the classes that are left are judged without them."""
    images = objects(tmp_path / "images", {"a": 12, "b": 12}, tagged="b")
    model = ll.ImageModel(NanForB(), Preprocessing(size=EDGE, crop_fraction=1.0), ("a", "b"), "nan")
    found = ll.audit(images, model, "integrated-gradients", output=tmp_path / "out", **FAST)
    assert found.outcome == "no verdict" and "pictures that could not be explained: 12, such as b/" in found.sentence


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0}, "alpha: 0; use a rate between 0 and 1"),
        ({"alpha": float("nan")}, "alpha: nan"),
        ({"shuffles": 18}, r"shuffles: 18; with 1 methods p cannot reach alpha=0.05; use 19 or more"),
        ({"store": "scores"}, "store: 'scores' keeps no maps"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    images = objects(tmp_path / "images", {"a": 1})
    with pytest.raises(ValueError, match=message):
        ll.audit(images, corner(), "gradient", output=tmp_path / "out", **{"workers": 0, **settings})
    assert not (tmp_path / "out").exists()


def test_pictures_without_labels_are_refused_in_words(tmp_path: Path) -> None:
    images = objects(tmp_path / "images", {"a": 2})
    with pytest.raises(ValueError, match="an audit compares classes; use a folder of class folders"):
        ll.audit(images / "a", corner(), "gradient", output=tmp_path / "out", workers=0, target=0)
    with pytest.raises(ValueError, match=r"no picture could be explained.*is no class of the model"):
        ll.audit(images / "a", corner(), "gradient", output=tmp_path / "other", workers=0)


def test_the_command_says_how_it_ended(tmp_path: Path) -> None:
    """4 for a finding, 5 for no verdict; the same document as audit.json, and the hash of the bundle."""
    objects(tmp_path / "images", {"a": 12, "b": 12}, tagged="b")
    objects(tmp_path / "few", {"a": 2, "b": 2})
    common = ["--model", "tests.runs.test_audit:corner", "-m", "integrated-gradients", "--workers", "0", "--json"]
    made = CliRunner().invoke(app, ["audit", str(tmp_path / "images"), *common, "-o", str(tmp_path / "out")])
    assert made.exit_code == 4, made.output
    document = json.loads(made.stdout)
    assert document["outcome"] == "found" and document["verdicts"][0]["place"]["words"] == "bottom right"
    bundle = tmp_path / "out" / "bundle.json"
    assert document["bundle"]["sha256"] == hashlib.sha256(bundle.read_bytes()).hexdigest()
    made = CliRunner().invoke(app, ["audit", str(tmp_path / "few"), *common[:-1], "-o", str(tmp_path / "none")])
    assert made.exit_code == 5 and "NO VERDICT" in made.stdout


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (slice(24, 32), slice(24, 32), "bottom right"),
        (slice(0, 4), slice(0, 4), "top left"),
        (slice(14, 18), slice(14, 18), "centre"),
        (slice(14, 18), slice(0, 4), "middle left"),
    ],
)
def test_places_in_words(rows: slice, columns: slice, words: str) -> None:
    heatmaps = torch.zeros(3, 32, 32)
    heatmaps[:, rows, columns] = 1
    found = place_of(features_of(heatmaps))
    cells = (rows.stop - rows.start) * (columns.stop - columns.start) / 4
    assert found.words == words and found.area == pytest.approx(cells / 2 / SIDE**2, abs=0.5 / SIDE**2)


def test_the_border_is_a_place() -> None:
    heatmaps = torch.ones(2, 32, 32)
    heatmaps[:, 2:-2, 2:-2] = 0
    assert place_of(features_of(heatmaps + 0.01 * torch.rand(2, 32, 32))).words == "border"
