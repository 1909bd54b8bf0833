"""Files of a run that are not as they were written are refused or made again, never believed; `verify` names them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import limelight as ll
from limelight.base.errors import DamagedFile
from limelight.base.seals import parse_sealed_json, sealed_json
from limelight.cli.main import app
from limelight.runs import read_status, verify
from limelight.runs.bundle import BUNDLE
from limelight.runs.plan import Counts

from .helpers import assert_whole, pictures, results, start

COUNT, BAD = 6, (3,)
COUNTS = Counts(ok=5, failed=1)
FIXED = ("plan.json", "manifest.parquet")
RECORD, STATUS = "done/000001.json", "status.json"
OPTIONS = {"methods": ["gradient"], "checks": ["gini"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), COUNT, BAD)


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(images, tmp_path_factory.mktemp("runs") / "undisturbed", **OPTIONS).out


@pytest.fixture
def out(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same size over other pictures."""
    images = pictures(tmp_path_factory.mktemp("others"), COUNT, BAD)
    return start(images, tmp_path_factory.mktemp("runs") / "other", **OPTIONS).out


def _flipped(content: bytes, seed: int = 0, step: int = 1) -> Iterator[bytes]:
    """One random bit flipped, at every byte or at one in `step`."""
    draw = random.Random(seed)
    for place in range(draw.randrange(step), len(content), step):
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        yield bytes(changed)


def _harms(content: bytes, other: bytes) -> Iterator[bytes]:
    """Ends that are missing, the file of another run, doubled lines, nothing, zeros."""
    yield from (content[:length] for length in range(0, len(content), max(1, len(content) // 40)))
    yield other
    yield content + content
    yield b"\0" * len(content)
    lines = content.splitlines(keepends=True)
    yield from (b"".join((*lines[:i], line, *lines[i:])) for i, line in enumerate(lines))


def _require_disbelief(out: Path, name: str) -> None:
    """What every reader does with a damaged file: the one error that names it, and right counts where there are any."""
    if name in FIXED:
        for read in (ll.open_run, read_status):
            with pytest.raises(DamagedFile) as caught:
                read(out)
            assert caught.value.path in {out / each for each in FIXED}  # of a swapped pair either may be the wrong one
    elif name == STATUS:
        status = read_status(out)
        assert (status.counts, status.state) == (COUNTS, "finished") and "damaged" in status.reason
    else:
        with pytest.raises(DamagedFile) as caught:
            ll.open_run(out).table()
        assert caught.value.path == out / name
        status = read_status(out)
        assert status.damaged == (name,) and status.state == "stopped"
        assert status.counts == Counts(ok=4 - (name != RECORD), failed=0 + (name != RECORD), pending=2)


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", [*FIXED, RECORD, STATUS])
def test_no_flipped_bit_is_believed(name: str, step: int, out: Path) -> None:
    content = (out / name).read_bytes()
    for changed in _flipped(content, step=step):
        (out / name).write_bytes(changed)
        _require_disbelief(out, name)


@pytest.mark.parametrize("name", [*FIXED, RECORD, STATUS])
def test_no_other_harm_is_believed(name: str, out: Path, other: Path) -> None:
    content = (out / name).read_bytes()
    for changed in _harms(content, (other / name).read_bytes()):
        if changed != content:
            (out / name).write_bytes(changed)
            _require_disbelief(out, name)


def test_a_record_of_another_shard_is_refused(out: Path) -> None:
    shutil.copy(out / RECORD, out / "done" / "000000.json")
    _require_disbelief(out, "done/000000.json")


def _resumed(images: Path, out: Path, undisturbed: Path, name: str) -> None:
    """Resume a run with one damaged file: refused where it cannot be made again, else whole."""
    if name in FIXED:
        with pytest.raises(DamagedFile):
            start(images, out, **OPTIONS)
        return
    run = start(images, out, verify=name.startswith(("shards", "index")), **OPTIONS)
    assert run.counts == COUNTS and run.status.state == "finished"
    assert_whole(out, undisturbed)
    assert verify(out).outcome == "whole"


@pytest.mark.parametrize("name", [*FIXED, RECORD, STATUS, "shards/000000.safetensors", "index/000002.parquet"])
def test_resume_refuses_or_repairs(name: str, images: Path, out: Path, undisturbed: Path) -> None:
    content = (out / name).read_bytes()
    draw = random.Random(name)
    for changed in (*draw.sample(list(_flipped(content)), 2), content[:-7]):
        (out / name).write_bytes(changed)
        _resumed(images, out, undisturbed, name)


@pytest.mark.long
def test_resume_refuses_or_repairs_many(images: Path, out: Path, undisturbed: Path) -> None:
    files = [str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.is_file() and path.suffix]
    draw = random.Random(1)
    for _ in range(60):
        name = draw.choice(files)
        content = (undisturbed / name).read_bytes()
        (out / name).write_bytes(draw.choice(list(_flipped(content, draw.randrange(99)))))
        _resumed(images, out, undisturbed, name)
        shutil.copy(undisturbed / name, out / name)


@pytest.mark.parametrize("name", ["shards/000001.safetensors", "index/000001.parquet", RECORD])
def test_a_deleted_file_is_made_again_without_hashing(name: str, images: Path, out: Path, undisturbed: Path) -> None:
    (out / name).unlink()
    found = verify(out)
    assert (found.outcome, found.shards, found.examples) == ("to be made again", (1,), 2)
    start(images, out, **OPTIONS)
    assert_whole(out, undisturbed)


@pytest.mark.parametrize("name", ["shards/000000.safetensors", "index/000000.parquet"])
def test_damaged_results_are_refused_when_read(name: str, out: Path) -> None:
    """A flip anywhere in a map's bytes or in an index; sampled, since a shard is large."""
    content = (out / name).read_bytes()
    draw = random.Random(0)
    first = 8 + int.from_bytes(content[:8], "little") if name.startswith("shards") else 0
    for _ in range(40):
        changed = bytearray(content)
        changed[draw.randrange(first, len(content))] ^= 1 << draw.randrange(8)
        (out / name).write_bytes(changed)
        with pytest.raises(DamagedFile) as caught:
            for example in ll.open_run(out):
                _ = example.error or example.values
        assert caught.value.path == out / name
        with pytest.raises(DamagedFile):
            ll.runs.write_report(ll.open_run(out))


def _code(*arguments: object) -> int:
    return CliRunner().invoke(app, [*map(str, arguments)]).exit_code


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("plan.json", 1, "lost: plan.json: "),
        ("manifest.parquet", 1, "lost: manifest.parquet: "),
        (RECORD, 3, f"damaged: {RECORD}: "),
        (STATUS, 3, "damaged: status.json: "),
        ("shards/000000.safetensors", 3, "to be made again: 2 examples of 1 shards (0)"),
        ("index/000000.parquet", 3, "damaged: index/000000.parquet: it has not the SHA-256 in its record"),
    ],
)
def test_the_command_verify(name: str, code: int, said: str, out: Path) -> None:
    assert _code("verify", out) == 0 and verify(out).whole == 12
    content = bytearray((out / name).read_bytes())
    content[len(content) // 2] ^= 16
    (out / name).write_bytes(content)
    made = CliRunner().invoke(app, ["verify", str(out)])
    assert made.exit_code == code and said in made.stdout, made.output
    found = json.loads(CliRunner().invoke(app, ["verify", str(out), "--json"]).stdout)["paths"][0]
    assert [Path(each["path"]) for each in found["damaged"] + found["lost"]] == [out / name]
    assert _code("run", "--status", out) == {1: 1, 3: 3 if name == RECORD else 0}[code]
    assert _code("report", out) == (0 if name == STATUS else 1)
    assert verify(out).whole == (0 if code == 1 else 9 if name == RECORD else 11)


@pytest.mark.parametrize("folder", ["done", "index", "shards"])
def test_a_folder_that_is_gone_is_made_again(folder: str, images: Path, out: Path, undisturbed: Path) -> None:
    """Copies and archives may lack folders, also those that were empty."""
    shutil.rmtree(out / folder)
    assert verify(out).outcome == "to be made again"
    start(images, out, **OPTIONS)
    assert_whole(out, undisturbed)


@pytest.mark.parametrize("form", ["{}", "../secret"])
def test_a_forged_list_of_files_names_none_outside(form: str, out: Path) -> None:
    secret = out.parent / "secret"
    secret.write_text("a secret")
    told = {"bytes": 8, "sha256": hashlib.sha256(b"a secret").hexdigest()}
    record = json.loads((out / RECORD).read_bytes())
    del record["digest"]
    name = form.format(secret)
    (out / RECORD).write_bytes(sealed_json({**record, "files": {**record["files"], name: told}}))
    (out / BUNDLE).write_bytes(sealed_json({"files": {name: told}}))
    found = verify(out)
    assert found.outcome == "to be made again" and {each.path for each in found.damaged} == {out / name}


@pytest.mark.parametrize("name", [RECORD, "index/000001.parquet", STATUS])
def test_a_pipe_is_no_file_of_a_run(name: str, images: Path, out: Path, undisturbed: Path) -> None:
    """Who reads one may wait for ever."""
    (out / name).unlink()
    os.mkfifo(out / name)
    assert verify(out).outcome == ("whole" if name == STATUS else "to be made again")
    status = read_status(out)
    assert status.counts.pending == (2 if name == RECORD else 0)
    assert name != STATUS or status.reason == f"{STATUS} is missing; the examples are counted"
    start(images, out, **OPTIONS)
    assert_whole(out, undisturbed)


def test_verify_of_what_is_no_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    assert _code("verify", tmp_path) == 1 and _code("verify", tmp_path / "nowhere") == 1
    (tmp_path / "text.txt").write_text("a")
    assert _code("verify", tmp_path / "text.txt") == 1


def _without_digests(out: Path) -> None:
    """Make the run one that was begun before files had digests."""
    for path in (out / "plan.json", out / STATUS, *(out / "done").iterdir()):
        document = json.loads(path.read_bytes())
        del document["digest"]
        path.write_text(json.dumps(document))


def test_a_run_without_digests_is_read_and_resumed(images: Path, out: Path, undisturbed: Path) -> None:
    _without_digests(out)
    found = verify(out)
    assert found.outcome == "whole" and found.unsealed == ("plan.json",)
    assert "unsealed: plan.json has no digest" in CliRunner().invoke(app, ["verify", str(out)]).stdout
    assert ll.open_run(out).counts == read_status(out).counts == COUNTS
    (out / RECORD).unlink()
    start(images, out, **OPTIONS)
    assert_whole(out, undisturbed)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan | {"entries": 4},
        lambda plan: plan | {"labels": ["a"]},
        lambda plan: plan | {"method_names": ["gradients"]},
        lambda plan: plan | {"settings": plan["settings"] | {"shard_size": 0}},
    ],
)
def test_a_plan_without_digest_must_fit_the_manifest(
    change: Callable[[dict[str, object]], dict[str, object]], images: Path, out: Path
) -> None:
    _without_digests(out)
    plan = change(json.loads((out / "plan.json").read_bytes()))
    (out / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(DamagedFile, match=r"plan\.json' is damaged"):
        start(images, out, **OPTIONS)


def test_a_record_without_digest_beside_a_plan_with_one_is_refused(out: Path) -> None:
    document = json.loads((out / RECORD).read_bytes())
    del document["digest"]
    (out / RECORD).write_text(json.dumps(document))
    _require_disbelief(out, RECORD)


def test_the_manifest_has_size_and_tag_and_the_index_the_hash(images: Path, out: Path) -> None:
    import pyarrow.parquet

    found = pyarrow.parquet.read_table(out / "manifest.parquet").to_pylist()
    for row in found:
        status = Path(row["file"]).stat()
        assert (row["size"], row["etag"]) == (status.st_size, f"mtime_ns {status.st_mtime_ns}")
        assert "content" not in row
    assert results(out) and all(row["content"] for row in ll.open_run(out).table(["content"]).to_pylist())


@pytest.mark.parametrize("indent", [None, 1])
def test_no_bit_of_a_sealed_document_can_flip(indent: int | None) -> None:
    """In the digest's own name too, without which a document passes for one of an older version."""
    document = {"token": "abc", "since": 1796058278.0117803, "beat": 1.5, "ended": False, "none": None}
    content, path = sealed_json(document, indent), Path("owner.json")
    assert parse_sealed_json(content, path) == (document, True)
    assert not parse_sealed_json(json.dumps(document).encode(), path).is_sealed
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            with pytest.raises(DamagedFile):
                parse_sealed_json(bytes(changed), path)
