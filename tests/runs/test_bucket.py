"""Runs whose output is a bucket: the same bytes as in a folder, one owner at a time, and nothing believed unproven."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import limelight as ll
from limelight.base.errors import DamagedFile
from limelight.base.seals import parse_sealed_json, sealed_json
from limelight.cli.main import app
from limelight.runs import RunStopped, owner, read_status, verify
from limelight.runs.plan import Counts
from limelight.runs.sources import find_examples
from limelight.runs.storage import Bucket, as_place

from .buckets import assert_like, contents, new_place, serving, stored
from .helpers import ROOT, pictures, start

COUNT, BAD = 6, (3,)
COUNTS = Counts(ok=5, failed=1)
OPTIONS = {"methods": ["gradient", "grad-cam"], "checks": ["gini"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), COUNT, BAD)


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(start(images, tmp_path_factory.mktemp("runs") / "folder", **OPTIONS).out)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with serving() as root:
        yield root


@pytest.fixture(params=["memory", "file", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place in a store of each kind."""
    pytest.importorskip("fsspec", reason="URLs need the extra 'cloud'")
    kind = request.param
    root = {"memory": "memory:/", "file": f"file://{tmp_path}"}.get(kind) or request.getfixturevalue("bucket")
    return new_place(root)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners beat ten times a second, and are dead after half a second."""
    monkeypatch.setattr(owner, "BEAT", 0.1)
    monkeypatch.setattr(owner, "DEAD_AFTER", 0.5)


def test_a_bucket_has_the_bytes_of_a_folder(out: str, images: Path, folder: Path) -> None:
    run = start(images, out, **OPTIONS)
    assert run.counts == COUNTS and run.status.state == "finished"
    assert_like(out, folder)
    assert run.shard_maps(0, "gradient").equal(ll.open_run(folder).shard_maps(0, "gradient"))
    assert run.table().drop(["seconds"]).equals(ll.open_run(folder).table().drop(["seconds"]))
    before = contents(out, "done")
    assert start(images, out, **OPTIONS).counts == COUNTS
    assert contents(out, "done") == before  # nothing was done again


@pytest.mark.long
def test_commands_take_urls(bucket: str, images: Path, folder: Path, tmp_path: Path) -> None:
    out = new_place(bucket)
    words = ["run", "--images", str(images), "-o", out, "--model", "tests.runs.networks:plain", "--baseline", "0"]
    words += ["-m", "gradient", "-m", "grad-cam", "-c", "gini", "--shard-size", "2", "--group", "2", "--workers", "1"]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 3 and f"limelight report {out}" in made.stdout, made.output
    assert_like(out, folder)
    said = CliRunner().invoke(app, ["run", "--status", out])
    assert said.exit_code == 0 and said.stdout.startswith("6 of 6 examples, 1 failed, finished")
    found = CliRunner().invoke(app, ["verify", out])
    assert found.exit_code == 0 and found.stdout.startswith(f"{out}: whole")
    told = CliRunner().invoke(app, ["report", out])
    assert told.exit_code == 0 and told.stdout.strip().replace("\n", "") == f"{out}/report.html", told.output
    assert stored(out).read("report.html").startswith(b"<!doctype html>")
    assert CliRunner().invoke(app, ["report", out, "-o", str(tmp_path / "page.html")]).exit_code == 0


def _of_docs(engine: str) -> list[list[str]]:
    """The commands of the section of docs/runs.md, with a model of the tests."""
    section = (ROOT / "docs" / "runs.md").read_text().partition("## Output in a bucket")[2].partition("\n## ")[0]
    blocks = section.split("```sh\n")[1:]
    block = next(
        each.partition("```")[0] for each in blocks if ("--engine ray" in each.partition("```")[0]) == (engine == "ray")
    )
    lines = block.replace("\\\n", " ").replace("efficientnet-lite0", "tests.runs.networks:plain").splitlines()
    return [shlex.split(line)[shlex.split(line).index("limelight") + 1 :] for line in lines if "limelight " in line]


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=[pytest.mark.long, pytest.mark.release])])
def test_the_commands_of_the_documentation(
    engine: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if engine == "ray":
        pytest.importorskip("ray", reason="the Ray engine needs the extra 'ray'")
        monkeypatch.delenv("RAY_ADDRESS", raising=False)  # a cluster of its own here
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    with serving("photos", "results") as _:
        for path in images.rglob("*.png"):
            stored("s3://photos/2026").replace(str(path.relative_to(images)), path.read_bytes())
        for words in _of_docs(engine):
            here = ["--workers", "0"] if "--output" in words and engine == "local" else []
            made = CliRunner().invoke(app, words + here)
            assert made.exit_code == (3 if "--output" in words else 0), made.output
        assert ll.open_run("s3://results/photos").counts == COUNTS
    assert engine == "ray" or (tmp_path / "photos.html").exists()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("https://host/run", r"^output: 'https://host/run'; https cannot be written; use a folder or s3, gs"),
        ("simplecache::s3://bucket/run", r"^output: .* has the protocol 'simplecache::s3'; use s3"),
        ("s3://bucket/a::s3://b", r"^output: .* chains several URLs"),
        ("reference://a", r"^output: .* has the protocol 'reference'"),
        ("s3://", r"^output: 's3://' names no place"),
        ("file://out", r"^output: 'file://out' names a host; a file of this machine has three slashes"),
        ("", r"^output: '' is empty; name a folder"),
        (Path("s3://bucket/run"), r"^output: 's3:/bucket/run'; give a URL as text, with both slashes"),
    ],
)
def test_outputs_that_are_refused(output: str | Path, said: str, images: Path) -> None:
    for do in (lambda: start(images, output), lambda: ll.open_run(output)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=said):
            do()


def test_an_output_that_workers_cannot_reach_is_refused(images: Path) -> None:
    with pytest.raises(ValueError, match=r"^output: 'memory://a' is the memory of this process; use workers=0"):
        start(images, "memory://a", workers=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^output: 's3://bucket/audit'; an audit lists and hashes its files"):
        ll.audit(images, "tests.runs.networks:plain", output="s3://bucket/audit")


def test_a_bucket_that_is_not_there_or_has_something_else(bucket: str, images: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^output: 's3://nowhere/run': .*; make the bucket first"):
        start(images, "s3://nowhere/run")  # type: ignore[arg-type]
    out = new_place(bucket)
    with pytest.raises(FileNotFoundError, match=f"^output: '{out}' holds no run"):
        ll.open_run(out)
    stored(out).replace("letter.txt", b"a")
    with pytest.raises(ValueError, match=r"holds 'letter.txt' and no run; choose an empty folder"):
        start(images, out)  # type: ignore[arg-type]
    assert stored(out).names() == {"letter.txt"}  # not even an owner


def test_an_object_that_marks_a_folder_is_neither_a_picture_nor_a_stranger(bucket: str, images: Path) -> None:
    """As a store's console makes them: of no bytes, and with a slash at its end."""
    client = pytest.importorskip("boto3", reason="a bucket needs the extra 'cloud'").client(
        "s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]
    )
    place, out = new_place(bucket), new_place(bucket)
    for folder in (place, f"{place}/a.png", out):
        client.put_object(Bucket="bucket", Key=f"{folder.removeprefix('s3://bucket/')}/", Body=b"")
    stored(place).replace("b.png", (images / "a" / "00000.png").read_bytes())
    for spelling in (place, f"{place}/"):
        assert [each.path for each in find_examples(spelling)] == ["b.png"]
    assert start(place, out, methods=["gradient"]).counts == Counts(ok=1)  # type: ignore[arg-type]


def _record(out: str) -> dict[str, Any]:
    storage = stored(out)
    (name,) = storage.files("owner")
    return parse_sealed_json(storage.read(name), storage.path(name)).document


@pytest.mark.parametrize("out", ["memory", "s3"], indirect=True)
def test_a_second_start_is_refused_while_the_first_one_lives(out: str, images: Path, folder: Path, quick: None) -> None:
    refused: list[str] = []

    def again(status: ll.runs.Status) -> None:
        if not refused and status.rows:
            time.sleep(0.8)  # more than DEAD_AFTER: the record is renewed meanwhile
            with pytest.raises(RunStopped) as caught:
                start(images, out, **OPTIONS)
            refused.append(str(caught.value))

    start(images, out, on_status=again, **OPTIONS)
    assert refused[0].startswith(f"output: '{out}': process {os.getpid()} on ")
    assert " has it since 20" in refused[0] and "was heard of 0 s ago" in refused[0]
    assert "the same command takes over 0.5 s after it was last heard of" in refused[0]
    assert _record(out)["has_ended"]
    assert_like(out, folder)


@pytest.mark.parametrize("harm", ["old", "ahead", "damaged"])
def test_a_dead_start_is_taken_over(harm: str, bucket: str, images: Path, folder: Path, quick: None) -> None:
    out = new_place(bucket)
    start(images, out, **OPTIONS)
    storage, record = stored(out), _record(out)
    times = {"old": time.time() - 2, "ahead": time.time() + 3600, "damaged": time.time()}
    content = sealed_json({**record, "has_ended": False, "beat": times[harm]})
    storage.replace("owner/000001.json", content[:-9] + b"x" + content[-8:] if harm == "damaged" else content)
    storage.delete("done/000001.json")
    assert verify(out).outcome == "to be made again"
    assert start(images, out, **OPTIONS).counts == COUNTS
    assert list(storage.files("owner")) == ["owner/000002.json"]
    assert_like(out, folder)


def test_a_record_that_is_renewed_is_alive_whatever_the_clocks_say(bucket: str, images: Path, quick: None) -> None:
    """The owner's clock is an hour behind: its record looks old, and changes while it is watched."""
    out = new_place(bucket)
    start(images, out, **OPTIONS)
    storage, record, ended = stored(out), _record(out), threading.Event()

    def renew() -> None:
        while not ended.wait(0.05):
            content = {**record, "has_ended": False, "beat": time.time() - 3600}
            storage.replace("owner/000001.json", sealed_json(content))

    thread = threading.Thread(target=renew)
    thread.start()
    time.sleep(0.2)
    try:
        with pytest.raises(RunStopped, match="a run in a bucket has one start at a time"):
            start(images, out, **OPTIONS)
    finally:
        ended.set()
        thread.join()


def test_a_start_that_was_taken_over_stops(bucket: str, images: Path, folder: Path, quick: None) -> None:
    """Its record grew old, as that of a process that was suspended, and another start took the run."""
    out, taken = new_place(bucket), []

    def take(status: ll.runs.Status) -> None:
        if not taken and status.rows:
            taken.append(status.counts.pending)
            other = owner.Record("other", "elsewhere", 7, time.time(), time.time())
            assert Bucket(as_place(out)).create("owner/000002.json", sealed_json(vars(other)))  # type: ignore[arg-type]
            time.sleep(0.5)

    said = rf"^output: '{out}' was taken over by another start: process 7 on elsewhere has it since"
    with pytest.raises(RunStopped, match=said):
        start(images, out, on_status=take, **OPTIONS)
    assert taken and read_status(out).state == "running"  # it leaves the status and the record to the other one
    time.sleep(0.6)
    assert start(images, out, **OPTIONS).counts == COUNTS
    assert_like(out, folder)


def test_of_two_starts_at_once_one_owns_the_run(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find no owner before either has written; the store refuses the second record."""
    out = as_place(new_place(bucket))
    both, newest = threading.Barrier(2), owner._newest
    first = threading.local()

    def wait(place: Bucket) -> Any:
        found = newest(place)
        if not getattr(first, "done", False):
            first.done = True
            both.wait()
        return found

    monkeypatch.setattr(owner, "_newest", wait)
    ends: list[str] = []

    def own() -> None:
        try:
            with owner.owning(out):
                ends.append("owned")
                time.sleep(0.3)
        except RunStopped:
            ends.append("refused")

    threads = [threading.Thread(target=own) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(ends) == ["owned", "refused"]


def _flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("times", [3, pytest.param(120, marks=[pytest.mark.long, pytest.mark.release])])
@pytest.mark.parametrize(
    "name", ["plan.json", "manifest.parquet", "done/000001.json", "records.parquet", "owner/000001.json"]
)
def test_no_flipped_bit_in_a_bucket_is_believed(
    name: str, times: int, bucket: str, images: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limelight.runs.ledger._COMPACT_FROM", 1)
    out, draw = new_place(bucket), random.Random(name)
    start(images, out, **OPTIONS)
    storage = stored(out)
    content = storage.read(name)
    for _ in range(times):
        storage.replace(name, _flipped(content, draw))
        if name in ("plan.json", "manifest.parquet"):
            for read in (ll.open_run, read_status):
                with pytest.raises(DamagedFile) as caught:
                    read(out)
                assert str(caught.value.path) == f"{out}/{name}"
            continue
        status = read_status(out)
        assert [str(each.path) for each in verify(out).damaged] == [f"{out}/{name}"]
        if name.startswith("done"):
            assert status.damaged == (name,) and status.counts == Counts(ok=4, pending=2)
            with pytest.raises(DamagedFile):
                ll.open_run(out).table()
        else:
            assert status.counts == COUNTS and not status.damaged


@pytest.mark.parametrize("name", ["done/000001.json", "records.parquet", "owner/000001.json", "status.json"])
@pytest.mark.long
def test_a_damaged_file_of_a_bucket_is_made_again(
    name: str, bucket: str, images: Path, folder: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limelight.runs.ledger._COMPACT_FROM", 1)
    out = new_place(bucket)
    start(images, out, **OPTIONS)
    storage = stored(out)
    storage.replace(name, _flipped(storage.read(name), random.Random(0)))
    assert verify(out).outcome == "to be made again"
    start(images, out, **OPTIONS)
    assert_like(out, folder)


@pytest.mark.parametrize("name", ["shards/000000.safetensors", "index/000000.parquet"])
@pytest.mark.long
def test_damaged_results_in_a_bucket_are_refused_when_read(name: str, bucket: str, images: Path, folder: Path) -> None:
    out = new_place(bucket)
    start(images, out, **OPTIONS)
    storage, draw = stored(out), random.Random(0)
    content = storage.read(name)
    first = 8 + int.from_bytes(content[:8], "little") if name.startswith("shards") else 0
    for _ in range(8):
        changed = bytearray(content)
        changed[draw.randrange(first, len(content))] ^= 1 << draw.randrange(8)
        storage.replace(name, bytes(changed))
        with pytest.raises(DamagedFile) as caught:
            for example in ll.open_run(out):
                _ = [each.error or each.values for each in example.maps.values()]
        assert str(caught.value.path) == f"{out}/{name}"
    start(images, out, verify=True, **OPTIONS)
    assert_like(out, folder)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_an_opened_run_reads_records_and_headers_once(
    kind: str, bucket: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six examples of two shards, twice: record, index and shard of each are opened once, and maps read by range."""
    out = str(tmp_path / "out") if kind == "folder" else new_place(bucket)
    start(images, out, shard_size=3, **OPTIONS)  # type: ignore[arg-type]
    opened: list[str] = []
    of = type(stored(out))
    read, open_file = of.read, of.open
    monkeypatch.setattr(of, "read", lambda self, name: opened.append(name) or read(self, name))
    monkeypatch.setattr(of, "open", lambda self, name: opened.append(name) or open_file(self, name))
    run = ll.open_run(out)
    for i in [*range(COUNT), *range(COUNT)]:
        if i not in BAD:
            assert run[i]["grad-cam"].values.isfinite().all() and run[i].values.isfinite().all()
    names = [f"{each}/00000{i}.{suffix}" for each, suffix in KINDS for i in range(2)]
    assert sorted(opened) == sorted(["plan.json", *names])


KINDS = (("done", "json"), ("index", "parquet"), ("shards", "safetensors"))


def test_counts_need_few_reads(bucket: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status, counts and a resumed run read the compacted records in place of the records."""
    monkeypatch.setattr("limelight.runs.ledger._COMPACT_FROM", 3)
    out = new_place(bucket)
    start(images, out, **OPTIONS)
    read, opened = Bucket.read, list[str]()
    monkeypatch.setattr(Bucket, "read", lambda self, name: opened.append(name) or read(self, name))
    assert read_status(out).counts == ll.open_run(out).counts == COUNTS
    assert start(images, out, **OPTIONS).counts == COUNTS
    assert "records.parquet" in opened and not [name for name in opened if name.startswith(("done", "shards", "index"))]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["folder", pytest.param("s3", marks=pytest.mark.release)])
def test_twenty_thousand_finished_entries_are_resumed_in_a_second(
    kind: str, bucket: str, images: Path, tmp_path: Path
) -> None:
    """By the CPU's clock of another process than that which serves the bucket, after its imports; no map is read."""
    out = str(tmp_path / "out") if kind == "folder" else new_place(bucket)
    table = tmp_path / "table.csv"
    names = sorted(images.rglob("*.png"))
    table.write_text("path,label\n" + "".join(f"{names[i % 2]},{i % 3}\n" for i in range(20_000)))
    options: dict[str, Any] = {"methods": ["gradient"], "store": "heatmap-float16", "shard_size": 128, "group": 64}
    assert start(table, out, **options).counts == Counts(ok=20_000)  # type: ignore[arg-type]
    made = subprocess.run(
        [sys.executable, "-c", _RESUME, str(table), out, json.dumps(options)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=True,
    )
    spent, opened = json.loads(made.stdout)
    print(f"{kind}: {spent:.2f} CPU seconds; opened {opened}")
    assert spent < 1
    assert "plan.json" in opened and not [name for name in opened if name.startswith(("shards", "index", "done"))]


_RESUME = """
import json, sys, time
import limelight as ll
from limelight.runs.storage import as_place, storage_at
from tests.runs.helpers import start
table, out, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
assert ll.open_run(out).counts.ok == 20_000
kind, opened = type(storage_at(as_place(out))), []
def watched(call):
    return lambda self, name: opened.append(name) or call(self, name)
for name in ("read", "open", "sha256"):
    setattr(kind, name, watched(getattr(kind, name)))
began = time.process_time()
assert start(table, out, **options).counts.ok == 20_000
print(json.dumps([time.process_time() - began, opened]))
"""
