"""What a run gives: the results of explain() on each picture, by any division of the work, opened as one data set."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import limelight as ll
from limelight.base.errors import DamagedFile
from limelight.base.seals import sealed_json
from limelight.cli.main import app
from limelight.methods import METHODS as REGISTERED
from limelight.models.catalogue import ImageModel
from limelight.models.pictures import Preprocessing
from limelight.runs import read_status, write_report
from limelight.runs.job import Job, described
from limelight.runs.ledger import Done, Ledger
from limelight.runs.manifest import Entry
from limelight.runs.plan import Counts
from limelight.runs.sources import find_examples
from limelight.runs.status import Meter
from limelight.runs.stored import _view_of
from limelight.runs.work import Worker

from .helpers import METHODS, assert_whole, pictures, results, start
from .networks import Small, plain

NAMES = ("integrated-gradients", "grad-cam")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), 12, bad=(5,))


@pytest.fixture(scope="module")
def done(images: Path, tmp_path_factory: pytest.TempPathFactory) -> ll.Run:
    out = tmp_path_factory.mktemp("runs") / "done"
    return start(images, out, checks=["completeness", "gini"], workers=1, shard_size=5, group=4)


def _single(images: Path, example: int, method: str, **asked: Any) -> ll.Attribution:
    model = plain()
    path = sorted(images.rglob("*.png"))[example]
    return ll.explain(model, model.preprocess(path), method, **asked)


@pytest.mark.parametrize(
    ("workers", "shard_size"),
    [
        (1, 100),
        *(pytest.param(*each, marks=pytest.mark.long) for each in ((2, 5), (1, 1), (5, 1), (5, 5))),
    ],
)
def test_results_are_those_of_explain(workers: int, shard_size: int, images: Path, tmp_path: Path) -> None:
    """SmoothGrad too: its noise depends on the example and the seed, not on the shard."""
    method = "smooth-grad(samples=4)"
    run = start(images, tmp_path / "out", methods=[method], workers=workers, shard_size=shard_size, group=3, seed=7)
    for i in (0, 4, 11):
        torch.testing.assert_close(run[i].values, _single(images, i, method, seed=7).values[0], rtol=1e-5, atol=1e-7)
    assert_whole(tmp_path / "out")


def test_groups_of_one_are_explain_to_the_bit(images: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    run = start(images, tmp_path / "out", group=1, methods=METHODS)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    try:
        for name, method in zip(NAMES, METHODS, strict=True):
            assert torch.equal(run[3][name].values, _single(images, 3, method).values[0])
    finally:
        torch.set_num_threads(threads)


def test_files_do_not_depend_on_the_number_of_workers(done: ll.Run, images: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        start(images, tmp_path / f"{workers}", checks=["completeness", "gini"], workers=workers, shard_size=5, group=4)
        assert results(tmp_path / f"{workers}") == results(done.out)


def test_index(done: ll.Run, images: Path) -> None:
    rows = done.table().to_pylist()
    assert [(row["id"], row["method"]) for row in rows] == [(i, name) for i in range(12) for name in NAMES]
    assert done[8].maps["integrated-gradients"].row == rows[16]
    row, a = rows[16], _single(images, 8, METHODS[0])
    assert (row["path"], row["label"], row["shard"], row["offset"]) == ("c/00008.png", "c", 1, 2)
    assert (row["target"], row["prediction"], row["error"]) == (int(a.target[0]), int(a.target[0]), "")
    assert row["correct"] == (row["prediction"] == 2)  # the place of "c" among the labels
    assert a.outputs is not None
    assert row["probability"] == pytest.approx(float(a.outputs[0].softmax(0)[row["target"]]), rel=1e-5)
    assert row["score"] == pytest.approx(float(a.score[0]), rel=1e-5)
    assert row["delta"] == pytest.approx(float(a.delta[0]), abs=1e-6)
    findings = ll.check(plain(), a.inputs, METHODS[0], ["completeness", "gini"])
    for finding in findings:
        assert row[finding.name] == pytest.approx(float(finding.value[0]), rel=1e-3)
    assert row["completeness passed"] == findings[0].passed and row["gini passed"] is None
    assert row["seconds"] > 0 and len(row["checksum"]) == 32
    failed = rows[10]
    assert failed["error"].startswith("ImageError: b/00005.png: ") and failed["offset"] is failed["target"] is None


def test_run_reads_as_a_data_set(done: ll.Run) -> None:
    assert len(done) == 12 and done.methods == NAMES and done.checks == ("completeness", "gini")
    assert done[0].values.shape == (3, 16, 16) and done[-1]["grad-cam"].values.shape == (1, 16, 16)
    assert done[0].first.heatmap().shape == (16, 16)
    assert len(list(done)) == 12
    assert done.show(3).width > 0
    assert done.view_of(NAMES[0]).reduce == "magnitude" and done.view_of(NAMES[1]) == ll.View()
    assert done.show(3, view="signed(blocks=4)").tobytes() != done.show(3).tobytes()
    assert done.table(["id", "seconds"]).column_names == ["id", "seconds"]
    assert repr(done).endswith("12 of 12 examples, 1 failed, finished)")
    with pytest.raises(IndexError, match="example 12: the run has 12"):
        done[12]
    with pytest.raises(KeyError, match="'lime' is not in the run, which has integrated-gradients, grad-cam"):
        done[0]["lime"]


def test_run_is_readable_while_it_goes_on(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limelight.runs.status._EVERY", 0)
    seen = set[tuple[int, int]]()

    def look(status: ll.runs.Status) -> None:
        while not (tmp_path / "out" / "plan.json").exists():
            time.sleep(0.01)
        run = ll.open_run(tmp_path / "out")
        counts = run.counts
        if 0 < counts.pending < 12:
            seen.add((counts.pending, run.table(["id"]).num_rows))
            with pytest.raises(LookupError, match="example 11 is not done yet; the run has"):
                run[11]

    start(images, tmp_path / "out", shard_size=1, on_status=look)
    assert len(seen) == 11 and all(rows == 2 * (12 - pending) for pending, rows in seen)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"methods": ["gradient"]}, r"method was \[.*\] and is now \['Gradient\(\)'\]"),
        ({"checks": ["gini"]}, r"check was .* and is now \['Gini\(\)'\]"),
        ({"baseline": 0.5}, r"baseline was 'Constant\(value=0.0\)' and is now 'Constant\(value=0.5\)'"),
        ({"target": 1}, "target was None and is now 1"),
        ({"store": "scores"}, "store was 'values' and is now 'scores'"),
        ({"group": 3}, "group was 4 and is now 3"),
        ({"limit": 3}, "limit was None and is now 3"),
        ({"arithmetic": "plain"}, "arithmetic was None and is now 'plain'"),
        ({"threads": 2}, "threads was 1 and is now 2"),
        ({"model": "wider"}, "model was 'tests.runs.networks:plain' and is now .*; weights was"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_resume_with_other_settings_is_refused(options: dict[str, Any], said: str, done: ll.Run, images: Path) -> None:
    same = {"checks": ["completeness", "gini"], "workers": 1, "shard_size": 5, "group": 4}
    with pytest.raises(ValueError, match=f"output: .* holds a run with other settings: .*{said}"):
        start(images, done.out, **{**same, **options})


def test_other_weights_of_the_same_model_are_refused(images: Path, tmp_path: Path) -> None:
    model = plain()
    ll.run(images, model, METHODS, output=tmp_path / "out", workers=0)
    with torch.no_grad():
        model.network.head.bias[0] += 1  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"weights was '[0-9a-f]{32}' and is now"):
        ll.run(images, model, METHODS, output=tmp_path / "out", workers=0)


def _job(**options: Any) -> Job:
    settings: dict[str, Any] = {
        "images": "",
        "model": plain(),
        "weights": None,
        "methods": (ll.Gradient(),),
        "checks": (),
        "target": None,
        "baseline": ll.Constant(0.0),
        "layer": None,
        "seed": 0,
        "store": "values",
        "shard_size": 1,
        "group": 1,
        "rows_per_pass": None,
        "threads": 1,
        "device": "cpu",
        "limit": None,
    }
    return Job(**{**settings, **options})


@dataclass(frozen=True)
class _Leveled(ll.checks.Gini):
    """A check with fields that hold arrays."""

    levels: tuple[Any, ...] = ()
    named: Any = None


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("baseline", ll.Constant),
        ("baseline", lambda x: ll.Mean(x[None])),
        ("baseline", lambda x: ll.Samples(x[None], 1)),
        ("methods", lambda x: (ll.SmoothGrad(ll.XRAI(segments=(1e6 * x[0]).long())),)),
        ("checks", lambda x: (_Leveled(levels=(1, [x])),)),
        ("checks", lambda x: (_Leveled(named={"a": x.numpy()}),)),
    ],
)
def test_every_number_of_a_tensor_is_a_setting(name: str, of: Callable[[torch.Tensor], Any]) -> None:
    """`repr` would write both of each pair alike: it leaves out the middle of many numbers, and digits of each."""
    model, one = plain(), torch.full((3, 32, 32), 0.5)
    middle, digit = one.clone(), one + 1e-6
    middle[:, 12:20, 12:20] = 1
    settings = [_job(**{name: of(each)}).settings(model) for each in (one, one.clone(), middle, digit)]
    assert settings[0] == settings[1] and len({json.dumps(each) for each in settings}) == 3


def test_methods_that_differ_in_a_tensor_are_two() -> None:
    first, second = torch.zeros(64, 64).long(), torch.zeros(64, 64).long()
    second[20:40, 20:40] = 1
    assert len(set(_job(methods=(ll.XRAI(segments=first), ll.XRAI(segments=second))).method_names)) == 2


def test_resume_with_another_tensor_or_other_labels_is_refused(images: Path, tmp_path: Path) -> None:
    def again(baseline: float, *labels: str) -> ll.Run:
        model = ll.ImageModel(plain().network, plain().preprocessing, labels)
        given = torch.full((3, 16, 16), baseline)
        return ll.run(
            images, model, METHODS, output=tmp_path / "out", baseline=given, target="label", workers=0, limit=2
        )

    again(0.5, "a", "b", "c")
    again(0.5, "a", "b", "c")
    with pytest.raises(ValueError, match=r"baseline was 'Constant.value=Tensor\(.* and is now"):
        again(0.5 + 1e-6, "a", "b", "c")
    with pytest.raises(ValueError, match=r"labels was '3 labels, [0-9a-f]{32}' and is now '3 labels, "):
        again(0.5, "b", "a", "c")


def test_resume_with_another_network_in_a_check_or_another_attribute_is_refused(images: Path, tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor, self.network = factor, plain().network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.factor * self.network(x)
            return found

    def again(factor: float, other: float) -> ll.Run:
        model = ll.ImageModel(Scaled(factor), plain().preprocessing)
        check = ll.ImplementationInvariance(ll.ImageModel(Scaled(other), plain().preprocessing))
        return ll.run(images, model, METHODS, [check], output=tmp_path / "out", workers=0, limit=2)

    again(1.0, 1.0)
    again(1.0, 1.0)
    with pytest.raises(ValueError, match="weights was"):
        again(2.0, 1.0)
    with pytest.raises(ValueError, match="check was"):
        again(1.0, 2.0)


def test_a_worker_whose_model_has_other_labels_is_refused(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine of a cluster."""
    run = start(images, tmp_path / "out", limit=2)
    job = _job(model=ll.ImageModel(plain().network, plain().preprocessing, ("a", "b", "c"), "small"))
    with pytest.raises(ValueError, match=r"model: small is another than that of the run's plan: .*'0 labels, "):
        Worker(job, run.out)


def test_a_model_is_given_back_as_it_came(images: Path, tmp_path: Path) -> None:
    network = Small().train()
    network.head.eval()
    ll.run(images, network, METHODS, output=tmp_path / "out", workers=0, limit=2)
    assert network.training and network.features.training and not network.head.training
    with pytest.raises(ValueError, match=r"device: 'cuda:77' cannot be used here .*; use 'cpu'"):
        ll.run(images, network, METHODS, output=tmp_path / "other", workers=0, device="cuda:77")
    assert network.training and not network.head.training


def test_notes_tell_of_conversions_and_of_checks_without_a_figure(tmp_path: Path) -> None:
    pictures(tmp_path / "images", 2)
    Image.open(tmp_path / "images" / "a" / "00000.png").convert("L").save(tmp_path / "images" / "a" / "00000.png")
    run = start(tmp_path / "images", tmp_path / "out", methods=["gradient"], checks=["completeness", "gini"])
    grey, colour = (example.first.row["notes"] for example in run)
    assert grey.startswith("grey repeated into three channels; completeness: no sum is promised: ")
    assert colour.startswith("completeness: no sum is promised: ") and run[0].first.row["completeness"] is None


def test_a_reason_names_no_place_in_a_batch(images: Path, tmp_path: Path) -> None:
    class Refusing(ll.checks.Gini):
        def run(self, case: Any) -> Any:
            raise ValueError("example 0: no")

    run = start(images, tmp_path / "out", methods=["gradient"], checks=[Refusing()], limit=2)
    assert [example.first.row["notes"] for example in run] == ["refusing: no"] * 2


def test_equal_methods_written_differently_keep_their_names(images: Path, tmp_path: Path) -> None:
    methods = [ll.SmoothGrad(samples=2, noise=1), ll.SmoothGrad(samples=2, noise=1.0)]
    run = start(images, tmp_path / "out", methods=methods, limit=2)
    assert len(set(run.methods)) == 2
    assert [row["method"] for row in run.table().to_pylist()] == [*run.methods, *run.methods]


def test_a_picture_changed_since_is_not_shown(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 2)
    run = start(images, tmp_path / "out")
    run.show(0)
    (images / "a" / "00000.png").write_bytes((images / "b" / "00001.png").read_bytes())
    for look in (run.picture, run.show):
        with pytest.raises(ValueError, match="the file has changed since the start of the run"):
            look(0)


def test_stores(images: Path, tmp_path: Path, done: ll.Run) -> None:
    half = start(images, tmp_path / "half", store="heatmap-float16")
    whole = done[2].first.heatmap()
    assert half[2].values.shape == (16, 16)
    torch.testing.assert_close(half[2].values, whole, rtol=0, atol=float(whole.abs().max()) / 1000)
    scores = start(images, tmp_path / "scores", store="scores")
    found, expected = ([row["score"] for row in run.table().to_pylist() if not row["error"]] for run in (scores, done))
    assert found == pytest.approx(expected, rel=1e-5)
    assert not list((tmp_path / "scores" / "shards").iterdir())
    with pytest.raises(ValueError, match="this run keeps scores alone"):
        _ = scores[2].values


def test_limit_skips_the_rest(images: Path, tmp_path: Path) -> None:
    run = start(images, tmp_path / "out", limit=4, shard_size=3)
    counts = run.counts
    assert (counts.ok, counts.failed, counts.skipped, counts.total, len(run)) == (4, 0, 8, 12, 4)
    assert_whole(tmp_path / "out")


def test_target_label(images: Path, tmp_path: Path) -> None:
    run = start(images, tmp_path / "out", target="label")
    rows = [row for row in run.table().to_pylist() if not row["error"]]
    assert all(row["target"] == "abc".index(row["label"]) for row in rows)


def test_tables_and_tars_give_what_the_folder_gives(images: Path, tmp_path: Path, done: ll.Run) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    paths = sorted(images.rglob("*.png"))
    names = [str(path.relative_to(images)) for path in paths]
    with (images / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("filename", "class"), *((name, name[0]) for name in names)])
    pa.parquet.write_table(pa.table({"path": [str(path) for path in paths]}), tmp_path / "table.parquet")
    for part in range(2):
        with tarfile.open(tmp_path / f"train-{part:03d}.tar", "w") as tar:
            for i, path in list(enumerate(paths))[6 * part : 6 * part + 6]:
                for name, content in ((f"{i:04d}.png", path.read_bytes()), (f"{i:04d}.cls", path.parent.name.encode())):
                    told = tarfile.TarInfo(name)
                    told.size = len(content)
                    tar.addfile(told, io.BytesIO(content))
    same = {"checks": ["completeness", "gini"], "shard_size": 5, "group": 4}
    shards = {name: content for name, content in results(done.out).items() if name.startswith("shards")}
    labels = done.table(["label"])["label"].to_pylist()
    for i, source in enumerate((images / "table.csv", tmp_path / "table.parquet", tmp_path / "train-{000..001}.tar")):
        run = start(source, tmp_path / f"{i}", **same)
        assert shards.items() <= results(run.out).items()
        assert run.table(["label"])["label"].to_pylist() == ([""] * 24 if i == 1 else labels)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("nowhere", "images: .*nowhere' does not exist"),
        ("empty", "images: .*empty' holds no pictures"),
        ("table.csv", "images: .*table.csv' has columns a, b; call that of the paths 'path'"),
        ("text.txt", "images: .*text.txt'; use a folder"),
    ],
)
def test_wrong_images(images: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images: '' is empty; name a folder"):  # an unset variable in a shell
        ll.run("", "tests.runs.networks:plain", METHODS, output=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "text.txt").write_text("")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        start(tmp_path / images, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"store": "png"}, "store: 'png'; use 'values', 'heatmap-float16', 'scores'"),
        ({"engine": "spark"}, "engine: 'spark'; use 'local' or 'ray'"),
        ({"workers": -1}, "workers: -1; use 1 or more"),
        ({"workers": 1.5}, r"workers: 1\.5; use 1 or more"),
        ({"limit": 2.5}, r"limit: 2\.5; use 1 or more, a whole number"),
        ({"group": "2"}, "group: '2'; use 1 or more, a whole number"),
        ({"threads": True}, "threads: True; use 1 or more, a whole number"),
        ({"seed": None}, "seed: None; use a whole number"),
        ({"seed": 1.5}, r"seed: 1\.5; use a whole number"),
        ({"white": -1}, "white: -1; use the value of white in the files"),
        ({"layer": "nowhere"}, "layer: 'nowhere' is not a module of the model; nearest: "),
        ({"mask": torch.ones(3, 3)}, r"mask: shape \(3, 3\); use \(16, 16\), one region of the model's input"),
        ({"workers": 0, "engine": "ray"}, "workers: 0 is this process, which is no actor of Ray"),
        ({"shard_size": 0}, "shard_size: 0; use 1 or more"),
        ({"rows_per_pass": 0}, "rows_per_pass: 0; use 1 or more"),
        ({"arithmetic": "fast"}, "arithmetic: 'fast'; use 'plain', 'packed'"),
        ({"methods": []}, "method: an empty sequence; name at least one"),
        ({"methods": ["gradient", "gradient"]}, "the same one twice"),
        ({"target": "cat"}, "target: 'cat'.*use the number of a class"),
    ],
    ids=str,
)
def test_wrong_arguments(options: dict[str, Any], said: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        start(images, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_run_whose_methods_hold_arrays_is_shown(wrapped: bool, images: Path, tmp_path: Path) -> None:
    """The plan has the hash of an array alone, which no reader can read."""
    method: ll.Method = ll.KernelShap(players=ll.Segments(torch.arange(256).view(16, 16) // 64), samples=16)
    if wrapped:
        method = ll.SmoothGrad(method, samples=2)
    run = start(images, tmp_path / "out", methods=[method], limit=3)
    assert run.view_of(run.methods[0]) == method.view and run.show(0).width > 0
    assert write_report(run).exists()  # type: ignore[attr-defined]


def test_the_view_of_every_method_is_known_from_the_plan() -> None:
    for kind in REGISTERED:
        if kind.has_defaults():
            for method in (kind(), ll.SmoothGrad(kind()), ll.VarGrad(ll.SmoothGrad(kind()))):
                assert _view_of(described(method)) == method.view


def test_an_option_that_belongs_to_one_call_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^given: there is no such option; use "):
        start(images, tmp_path / "out", given={})


def test_labels_that_utf_8_cannot_write(images: Path, tmp_path: Path) -> None:
    model = ImageModel(Small(), Preprocessing(size=16, crop_fraction=1.0), ("\udcff", "\ud800", "c"), "small")
    run = ll.run(images, model, "gradient", output=tmp_path / "out", workers=0, limit=3)
    assert run.counts.ok == 3 and {row["predicted"] for row in run.table().to_pylist()} <= {"\\udcff", "\\ud800", "c"}


def test_command(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["run", "--images", str(images), "-o", str(out), "--model", "tests.runs.networks:plain", "--json"]
    arguments += ["-m", METHODS[0], "--method", "grad-cam", "--check", "gini", "--workers", "0", "--shard-size", "5"]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 3, made.output
    assert len(made.stderr.splitlines()) == 3, made.stderr  # at the start, with the first pass, at the end: no flood
    assert json.loads(made.stdout)["counts"] == {"ok": 11, "failed": 1, "skipped": 0, "pending": 0}
    told = CliRunner().invoke(app, ["run", "--status", str(out)])
    assert told.exit_code == 0 and "12 of 12 examples, 1 failed, finished" in told.stdout
    again = CliRunner().invoke(app, [each for each in arguments if each != "--json"])
    assert again.exit_code == 3 and "b/00005.png: ImageError" in again.stderr  # failures of an earlier start are told
    assert f"\nlimelight report {out}\n" in again.stdout
    refused = CliRunner().invoke(app, [*arguments, "--seed", "1"])
    assert refused.exit_code == 1 and "seed was 0 and is now 1" in refused.stderr
    assert CliRunner().invoke(app, ["run", "--status", str(tmp_path)]).exit_code == 1
    assert CliRunner().invoke(app, ["run", "-o", str(out)]).exit_code == 2
    assert CliRunner().invoke(app, [*arguments, "--store", "png"]).exit_code == 2


@pytest.mark.parametrize("other", [{"pid": 2**22 + 1}, {"born": 1}], ids=["no process", "another process"])
def test_status_of_a_run_whose_process_is_gone(other: dict[str, int], images: Path, tmp_path: Path) -> None:
    start(images, tmp_path / "out", limit=2)
    told = json.loads((tmp_path / "out" / "status.json").read_text())
    del told["digest"]
    (tmp_path / "out" / "status.json").write_bytes(sealed_json({**told, "state": "running"}))
    assert read_status(tmp_path / "out").state == "running"
    (tmp_path / "out" / "status.json").write_bytes(sealed_json({**told, "state": "running", **other}))
    assert "its process is gone" in read_status(tmp_path / "out").line()


@pytest.mark.parametrize("content", [b"", b'{"state": "run', b"{}", b"[]", b"\xff"])
def test_a_damaged_status_is_counted_from_the_ledger(content: bytes, images: Path, tmp_path: Path) -> None:
    run = start(images, tmp_path / "out", limit=2)
    (tmp_path / "out" / "status.json").write_bytes(content)
    said = "2 of 2 examples, 0 failed, finished: status.json is damaged; the examples are counted"
    assert read_status(run.out).line() == said and said in repr(run)
    (tmp_path / "out" / "done" / "000000.json").unlink()
    assert read_status(run.out).state == "stopped"


def test_status_while_a_run_lists_its_pictures(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a shard that is not full, so that nothing is explained yet."""
    monkeypatch.setattr("limelight.runs.status._EVERY", 0)

    def watched(*asked: Any) -> Iterator[Entry]:
        for count, entry in enumerate(find_examples(*asked)):
            until = time.monotonic() + 60
            while read_status(tmp_path / "out").line() != f"0 of {count} examples, 0 failed, starting":
                assert time.monotonic() < until
                time.sleep(0.01)
            yield entry
            if count == 2:
                raise OSError("the disk is gone")

    monkeypatch.setattr("limelight.runs.beginning.find_examples", watched)
    with pytest.raises(OSError, match="the disk is gone"):
        start(images, tmp_path / "out", shard_size=100)
    assert read_status(tmp_path / "out").line() == "0 of 3 examples, 0 failed, stopped: OSError: the disk is gone"
    monkeypatch.undo()
    assert start(images, tmp_path / "out", limit=2).counts.ok == 2


def test_speed_counts_from_the_first_worker_that_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready after 30 seconds, then 20 examples of 50 in 10 seconds: 2 a second, 15 seconds for the other 30."""
    now = [100.0]
    monkeypatch.setattr("limelight.runs.status.time", SimpleNamespace(monotonic=lambda: now[0]))
    meter = Meter(tmp_path, Counts(pending=50), _began=now[0])
    now[0] += 30
    assert meter.status("running").seconds_left is None and "starting" in meter.status("running").line()
    meter.ready()
    now[0] += 10
    meter.add(Done(0, "", 0, 20, 19, 1, {}, rows=500))
    status = meter.status("running")
    assert (status.seconds, status.examples_per_second, status.rows_per_second) == (40, 2, 50)
    said = "20 of 50 examples, 1 failed, 500 of about 1,250 model evaluations, 50/s, about 15 s left"
    assert status.seconds_left == 15 and status.line() == said


@pytest.mark.parametrize(
    ("size", "device", "asked", "rows"),
    [
        (384, "cpu", None, 8),
        (224, "cpu", None, 8),
        (128, "cpu", None, 24),
        (64, "cpu", None, 32),
        (16, "cpu", None, 32),
        (64, "cuda:1", None, 256),
        (64, "mps", None, None),
        (64, "cpu", 5, 5),
    ],
)
def test_rows_of_a_pass(size: int, device: str, asked: int | None, rows: int | None) -> None:
    """Of pictures of 128 three have the pixels of one of 224, of smaller ones more, and four times is the most."""
    model = ll.ImageModel(torch.nn.Identity(), Preprocessing(size=size))
    job = _job(model=model, rows_per_pass=asked, device=device)
    assert job.rows(model) == rows == job.settings(model)["rows_per_pass"]


def test_a_shard_that_another_process_repairs_keeps_its_record(images: Path, tmp_path: Path) -> None:
    """Two coordinators find damage; what one has in hand, the other must not declare undone."""
    out = tmp_path / "out"
    start(images, out, shard_size=6)
    (out / "shards" / "000001.safetensors").write_bytes(b"")
    hold = "import sys; from pathlib import Path; from limelight.runs.ledger import Ledger\n"
    hold += "with Ledger.open(Path(sys.argv[1])).lease(1) as lease: print(lease, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline().startswith("LockedLease")
        survey = Ledger.open(out).survey()
        assert survey.to_do == [1] and (out / "done" / "000001.json").exists()
        other.communicate("")
    assert Ledger.open(out).survey().to_do == [1] and not (out / "done" / "000001.json").exists()


def test_a_run_that_is_not_complete_is_no_success(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(images, tmp_path / "out", limit=4)
    (run.out / "done" / "000001.json").unlink()
    monkeypatch.setattr("limelight.cli.run.run", lambda *anything, **options: run)
    assert CliRunner().invoke(app, ["run", "--images", "a", "-o", "b", "-m", "gradient"]).exit_code == 1


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_anything_that_fsspec_opens(scheme: str, images: Path, tmp_path: Path, done: ll.Run) -> None:
    fsspec = pytest.importorskip("fsspec", reason="URLs need the extra 'cloud'")
    root = f"memory://{tmp_path.name}" if scheme == "memory" else f"file://{tmp_path}/bucket"
    table, tar = io.StringIO("path,label\n"), io.BytesIO()
    table.seek(0, io.SEEK_END)
    with tarfile.open(fileobj=tar, mode="w") as writer:
        for path in sorted(images.rglob("*.png")):
            name = str(path.relative_to(images))
            with fsspec.open(f"{root}/pictures/{name}", "wb", auto_mkdir=True) as file:
                file.write(path.read_bytes())
            table.write(f"pictures/{name},{name[0]}\n")
            writer.add(path, f"{path.stem}.png")
    for name, content in (("table.csv", table.getvalue().encode()), ("tars/train.tar", tar.getvalue())):
        with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
            file.write(content)
    for i, source in enumerate(("pictures", "table.csv", "tars")):
        run = ll.run(
            f"{root}/{source}",
            "tests.runs.networks:plain",
            METHODS,
            ["completeness", "gini"],
            output=tmp_path / f"{i}",
            shard_size=5,
            group=4,
            workers=0,
        )
        assert (run.out / "shards" / "000000.safetensors").read_bytes() == (
            done.out / "shards" / "000000.safetensors"
        ).read_bytes()
        assert run.counts == done.counts
        assert run.table(["label"])["label"].to_pylist()[0] == ("" if source == "tars" else "a")
    assert run[0].entry.path == "train.tar/00000.png"


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\xff\xfe", b'{"method_names": 1}'])
def test_a_damaged_plan_is_named(images: Path, tmp_path: Path, content: bytes) -> None:
    run = start(images, tmp_path / "out", limit=1)
    (run.out / "plan.json").write_bytes(content)
    for read in (lambda: ll.open_run(run.out), lambda: start(images, run.out, limit=1)):
        with pytest.raises(DamagedFile, match=r"path: .*plan\.json' is damaged") as caught:
            read()
        assert caught.value.path == run.out / "plan.json"
        with pytest.raises(ValueError, match="is damaged"):
            read()


def test_every_note_and_caution_is_kept(images: Path, tmp_path: Path) -> None:
    """Guided backpropagation without a ReLU is the plain gradient, and a run says so as explain() does."""
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4), torch.nn.GELU(), torch.nn.Linear(4, 2)
    )
    model = ll.ImageModel(network, Preprocessing(size=16))
    run = ll.run(images, model, "guided-backprop", output=tmp_path / "out", workers=0, limit=2)
    for example in run:
        assert "PLAIN GRADIENT" in example.first.row["notes"]
        assert str(example.first.row["cautions"]).startswith("plain-gradient: PLAIN GRADIENT")


def test_a_run_takes_targets_and_baselines_as_text_and_reports_rows(images: Path, tmp_path: Path) -> None:
    rows: list[int] = []
    said = {"target": "margin(1, other=0)", "baseline": "blur(2)"}
    run = start(images, tmp_path / "a", methods=["input-x-gradient"], limit=2, progress=rows.append, **said)
    assert sum(rows) > 0 and run.counts.ok == 2
    same = start(
        images, tmp_path / "b", methods=["input-x-gradient"], limit=2, target=ll.Margin(1, 0), baseline=ll.Blur(2)
    )
    for one, other in zip(run, same, strict=True):
        assert torch.equal(one.first.values, other.first.values)


def test_the_value_of_white_is_a_setting_of_the_run(tmp_path: Path) -> None:
    """Twelve bits in a file of sixteen: a caution in the index, until the run says the range."""
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 2).save(tmp_path / "a.png")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = ImageModel(network, Preprocessing(size=32), ("a", "b", "c"), "tiny")
    for white, cautions in ((None, "caution: the largest value is 3198 of 65535"), (4095, "")):
        run = ll.run(tmp_path, model, ["gradient"], output=tmp_path / f"out{white}", workers=0, white=white, target=0)
        found = run.table().to_pylist()[0]["cautions"]
        assert found.startswith(cautions) and bool(found) == bool(cautions)
        assert run.settings.get("white") == white
        assert float(run.picture(0).max()) == pytest.approx(3198 / (white or 65535), rel=0.15)
