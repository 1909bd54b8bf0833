"""What a run gives: the results of explain() on each picture, by any division of the work, opened as one data set."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import limelight as ll
from limelight.apps.cli import app
from limelight.runs import read_status
from limelight.runs.job import Job
from limelight.runs.ledger import Counts, Done, Ledger
from limelight.runs.status import Meter

from .helpers import METHODS, assert_whole, pictures, results, start
from .networks import plain

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


@pytest.mark.parametrize(("workers", "shard_size"), [(1, 1), (1, 100), (2, 5), (5, 1), (5, 5)])
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
    assert done.table(["id", "seconds"]).column_names == ["id", "seconds"]
    assert repr(done).endswith("12 of 12 examples, 1 failed, finished)")
    with pytest.raises(IndexError, match="example 12: the run has 12"):
        done[12]
    with pytest.raises(KeyError, match="'lime' is not in the run, which has integrated-gradients, grad-cam"):
        done[0]["lime"]


def test_run_is_readable_while_it_goes_on(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limelight.runs.status._EVERY", 0)
    seen: list[tuple[int, int]] = []

    def look(status: ll.runs.Status) -> None:
        run = ll.open_run(tmp_path / "out")
        counts = run.counts
        if 0 < counts.pending < 12:
            seen.append((counts.pending, run.table(["id"]).num_rows))
            with pytest.raises(LookupError, match="example 11 is not done yet; the run has"):
                run[11]

    start(images, tmp_path / "out", shard_size=1, progress=look)
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
        ({"shard_size": 0}, "shard_size: 0; use 1 or more"),
        ({"rows_per_pass": 0}, "rows_per_pass: 0; use 1 or more"),
        ({"methods": []}, "methods: none; name at least one"),
        ({"methods": ["gradient", "gradient"]}, "the same one twice"),
        ({"target": "cat"}, "target: 'cat'; use the number of a class"),
    ],
    ids=str,
)
def test_wrong_arguments(options: dict[str, Any], said: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        start(images, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_folder_with_something_else_is_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"holds 'letter.txt' and no run; choose an empty folder"):
        start(images, tmp_path)


def test_command(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["run", "--images", str(images), "-o", str(out), "--model", "tests.runs.networks:plain", "--json"]
    arguments += ["-m", METHODS[0], "--method", "grad-cam", "--check", "gini", "--workers", "0", "--shard-size", "5"]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 3, made.output
    assert len(made.stderr.splitlines()) == 2, made.stderr  # one line now, one at the end: no flood into a log
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


def test_status_of_a_run_whose_process_is_gone(done: ll.Run, images: Path, tmp_path: Path) -> None:
    start(images, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "status.json").read_text())
    (tmp_path / "out" / "status.json").write_text(json.dumps({**told, "state": "running", "pid": 2**22 + 1}))
    assert "its process is gone" in read_status(tmp_path / "out").line()


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
    assert status.seconds_left == 15 and status.line() == "20 of 50 examples, 1 failed, 50 rows/s, about 15 s left"


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
    model = ll.ImageModel(torch.nn.Identity(), ll.images.Preprocessing(size=size))
    job = Job(
        *("", model, None, (ll.Gradient(),), (), None, ll.Constant(0.0), None, 0, "values", 1, 1),
        rows_per_pass=asked,
        threads=1,
        device=device,
        limit=None,
    )
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
        assert other.stdout is not None and other.stdout.readline().startswith("Lease")
        survey = Ledger.open(out).survey()
        assert survey.to_do == [1] and (out / "done" / "000001.json").exists()
        other.communicate("")
    assert Ledger.open(out).survey().to_do == [1] and not (out / "done" / "000001.json").exists()


def test_a_run_that_is_not_complete_is_no_success(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(images, tmp_path / "out", limit=4)
    (run.out / "done" / "000001.json").unlink()
    monkeypatch.setattr("limelight.apps.running.run", lambda *anything, **options: run)
    assert CliRunner().invoke(app, ["run", "--images", "a", "-o", "b", "-m", "gradient"]).exit_code == 1


@pytest.mark.parametrize("output", ["s3://bucket/run", Path("s3://bucket/run")])
def test_output_on_a_bucket_is_refused(output: str | Path, images: Path) -> None:
    with pytest.raises(ValueError, match=r"output: 's3:/.*; use a folder on this machine"):
        ll.run(images, "tests.runs.networks:plain", "gradient", output=output)


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
