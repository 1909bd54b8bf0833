"""Where examples come from: whatever is wrong with a folder, a table or a tar, no example is lost or mistaken."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from limelight.cli.main import app
from limelight.runs.manifest import Entry, Manifest, write_manifest
from limelight.runs.shards import Shards
from limelight.runs.sources import find_examples
from limelight.runs.text_sources import find_texts

from .helpers import assert_whole, picture, pictures, start


def _png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def _tar(path: Path, members: dict[str, bytes | str]) -> Path:
    """A tar of files; a member that is text is a link there: `=name` a hard one, `@name` a symbolic one."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            told = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                told.size = len(content)
                tar.addfile(told, io.BytesIO(content))
            else:
                told.type, told.linkname = (tarfile.LNKTYPE if content[0] == "=" else tarfile.SYMTYPE), content[1:]
                tar.addfile(told)
    return path


def _samples(count: int) -> dict[str, bytes | str]:
    return {f"{i:03d}.{kind}": _png(i) if kind == "png" else b"%d" % i for i in range(count) for kind in ("png", "cls")}


def _damaged(whole: bytes, at: int, how: str) -> bytes:
    """The bytes of a tar in which the header that begins at `at` is damaged, or that ends around it."""
    match how:
        case "checksum":
            return whole[: at + 150] + bytes([whole[at + 150] ^ 65]) + whole[at + 151 :]
        case "zeroed":
            return whole[:at] + bytes(tarfile.BLOCKSIZE) + whole[at + tarfile.BLOCKSIZE :]
        case "cut in the header":
            return whole[: at + 200]
        case _:
            return whole[: at + tarfile.BLOCKSIZE + 100]


@pytest.mark.parametrize("how", ["checksum", "zeroed", "cut in the header", "cut in the member"])
def test_a_tar_that_is_damaged_or_cut_is_refused(how: str, tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", _samples(6))
    with tarfile.open(path) as tar:
        at = tar.getmember("003.png").offset
    path.write_bytes(_damaged(path.read_bytes(), at, how))
    said = f"at byte {at:,}, where a member begins" if how != "cut in the member" else "unexpected end of data"
    with pytest.raises(ValueError, match=rf"images: '.*a\.tar' is .*{said}"):
        start(path, tmp_path / "out")


@pytest.mark.parametrize("ending", [0, 1, 2, 20])
def test_a_tar_may_end_without_all_its_zeros(ending: int, tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", _samples(3))
    path.write_bytes(
        path.read_bytes().rstrip(b"\0") + bytes(-len(path.read_bytes().rstrip(b"\0")) % 512 + 512 * ending)
    )
    assert [entry.label for entry in find_examples(str(path))] == ["0", "1", "2"]


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 100, b"\x1f\x8b\x08\0"], ids=["empty", "junk", "gzip"])
def test_what_is_no_tar_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    arguments = ["run", "--images", str(tmp_path / "a.tar"), "-o", str(tmp_path / "out"), "-m", "gradient"]
    told = CliRunner().invoke(app, [*arguments, "--model", "tests.runs.networks:plain", "--workers", "0"])
    assert told.exit_code == 1 and isinstance(told.exception, SystemExit)
    assert f"limelight: images: '{tmp_path}/a.tar' is no whole tar" in told.stderr and told.stderr.count("\n") == 1


def test_links_in_a_tar_are_pictures_too(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {"x/a.png": _png(1), "x/a.cls": b"a", "x/b.png": "=x/a.png", "x/c.png": "@a.png"}
    members |= {"y/d.png": "@../x/c.png", "y/e.png": "@../../e.png", "y/f.png": "@f.png"}
    run = start(_tar(tmp_path / "a.tar", members), tmp_path / "out")
    assert [example.entry.path[8:] for example in run if not example.error] == ["a.png", "b.png", "c.png", "d.png"]
    assert len({run[i].entry.content for i in range(4)}) == 1 and run[0].entry.label == "a"
    assert (run.counts.ok, run.counts.failed) == (4, 2) and "e.png" in run[4].error and "f.png" in run[5].error


def test_hidden_members_of_a_tar_are_left_out(tmp_path: Path) -> None:
    """macOS writes `._a.png` beside `a.png`; it is no picture, and parts no example."""
    names = ["./._a.cls", "./a.cls", "./._a.png", "./a.png", "./.git/b.png", "../c.png"]
    members: dict[str, bytes | str] = {name: b"7" if name.endswith("cls") else _png(0) for name in names}
    found = list(find_examples(str(_tar(tmp_path / "a.tar", members))))
    assert [(entry.path, entry.label) for entry in found] == [("a.tar/./a.png", "7"), ("a.tar/../c.png", "")]


def test_a_label_apart_from_its_picture_is_refused(tmp_path: Path) -> None:
    """As in a tar of a folder in the order of its file system."""
    members: dict[str, bytes | str] = {"a.png": _png(0), "b.png": _png(1), "a.cls": b"0", "b.cls": b"1"}
    with pytest.raises(ValueError, match=r"^images: '.*a\.tar': 'a\.cls' stands apart from its picture; put the files"):
        list(find_examples(str(_tar(tmp_path / "a.tar", members))))


def _table(path: Path, columns: dict[str, Any]) -> Path:
    pa.parquet.write_table(pa.table(columns), path)
    return path


def test_labels_are_read_as_meant_or_refused(tmp_path: Path) -> None:
    """Numbers with blanks and whole floats are classes; among labels like numbers none is one by its order."""
    pictures(tmp_path, 3)
    names = ["a/00000.png", "b/00001.png", "c/00002.png"]
    rows = "".join(
        f"{name},{label}\n" for name, label in zip(names * 2, ["0", " 2", "-1", "1.5", "1e0", "cat"], strict=True)
    )
    (tmp_path / "a.csv").write_text(f"path,label\n{rows}")
    run = start(tmp_path / "a.csv", tmp_path / "csv", target="label")
    assert [row["target"] for row in run.table().to_pylist()[::2]] == [0, 2, None, None, None, None]
    assert "target: the label '-1' is no class of the model; use one of its labels, or the number" in run[2].error
    table = _table(tmp_path / "a.parquet", {"path": [*names, names[0]], "label": [1.0, 2.0, None, float("nan")]})
    run = start(table, tmp_path / "parquet")
    assert [row["label"] for row in run.table().to_pylist()[::2]] == ["1", "2", "", ""]
    assert [row["correct"] is None for row in run.table().to_pylist()[::2]] == [False, False, True, True]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'path,label\na.png,x\n"b.png,y\nc.png,z\n', "line 3: unexpected end of data; close each quote"),
        (b'path\n"' + b"a.png\n" * 30000, "line 2: field larger than field limit .131072.; close each quote"),
        ("path,label\na.png,x\nb.png,café\n".encode("latin-1"), r"line 3: 'b.png,caf\\udce9' is no UTF-8"),
        ("path\na.png\n".encode("utf-16"), "line 1: .* is no UTF-8"),
        (b"path,label\na.png,x\nb, c.png,y\n", "line 3: more fields than the 2 columns; put quotes around each field"),
    ],
    ids=["quote", "long", "latin-1", "utf-16", "comma"],
)
def test_a_damaged_csv_is_refused_with_its_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"images: '.*a\.csv', (from )?{said}"):
        list(find_examples(str(tmp_path / "a.csv")))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_that_is_there_twice_is_refused(suffix: str, tmp_path: Path) -> None:
    """Which one is meant, nobody knows; others may be called alike."""
    names, row = ["n", "path", "path", "n", "label"], ["1", "a.png", "b.png", "2", "x"]
    (tmp_path / "a.csv").write_text(f"{','.join(names)}\n{','.join(row)}\n")
    pa.parquet.write_table(pa.Table.from_arrays([pa.array([each]) for each in row], names), tmp_path / "a.parquet")
    for find in (find_examples, lambda table: find_texts(table, "path")):
        with pytest.raises(ValueError, match=rf"images: '.*a\.{suffix}' has 2 columns called 'path'; rename"):
            list(find(str(tmp_path / f"a.{suffix}")))
    (found,) = find_texts(str(tmp_path / f"a.{suffix}"), "label")
    assert (found.text, found.label) == ("x", "x")


def test_an_impossible_path_belongs_to_its_example(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_bytes(b"path\na\0e9.png\na.png\n")
    run = start(tmp_path / "a.csv", tmp_path / "out")
    assert (run.counts.ok, run.counts.failed) == (1, 1) and "null byte" in run[0].error
    assert run[0].entry.path == "a\0e9.png"


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"image": [{"bytes": b"", "path": "a.png"}]}, "its column 'image' is struct<bytes: binary, path: string>; "),
        ({"path": [b"a.png"]}, "its column 'path' is binary; make it text"),
        ({"path": [["a.png"]]}, "its column 'path' is list<.*: string>; make it text"),
    ],
)
def test_a_column_of_paths_is_text(column: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"images: '.*a\.parquet': {said}"):
        list(find_examples(str(_table(tmp_path / "a.parquet", column))))


def test_a_column_of_paths_may_be_a_dictionary(tmp_path: Path) -> None:
    table = _table(tmp_path / "a.parquet", {"path": pa.array(["a.png"]).dictionary_encode()})
    assert [entry.path for entry in find_examples(str(table))] == ["a.png"]


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"images: '.*a\.parquet': "):
        list(find_examples(str(tmp_path / "a.parquet")))


def test_a_damaged_parquet_is_named(tmp_path: Path) -> None:
    whole = _table(tmp_path / "whole.parquet", {"path": [f"{i}.png" for i in range(1000)]}).read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:40] + bytes(40) + whole[80:])
    with pytest.raises(ValueError, match=r"images: '.*a\.parquet': "):
        list(find_examples(str(tmp_path / "a.parquet")))
    texts = [None, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"ok\xff\xfe")]
    _table(tmp_path / "b.parquet", {"path": pa.Array.from_buffers(pa.string(), 2, texts)})
    with pytest.raises(ValueError, match=r"images: '.*b\.parquet': 'utf-8' codec can't decode"):
        list(find_examples(str(tmp_path / "b.parquet")))


def test_a_label_in_bytes_is_text(tmp_path: Path) -> None:
    """Some writers of Parquet do not mark text as such."""
    table = _table(tmp_path / "a.parquet", {"path": ["a.png", "b.png"], "label": [b"cat", None], "id": [1.0, None]})
    assert [entry.label for entry in find_examples(str(table))] == ["cat", ""]
    assert [(entry.path, entry.label) for entry in find_texts(str(table), "path")] == [("1", "cat"), ("row 2", "")]


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / "images" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    for name in ("a.png", os.fsdecode(b"\xe9.png"), "\\xe9.png", "é.png"):
        picture(0).save(folder / name)
    run = start(tmp_path / "images", tmp_path / "out", workers=1, target="label")
    assert_whole(tmp_path / "out")
    assert run.counts.ok == 4
    assert {Path(example.entry.file).name for example in run} == set(os.listdir(folder))
    assert run[0].first.row["path"] == "caf\\udce9/\\xe9.png" and run[0].entry.label == folder.name
    assert run.show(3).width > 0


def test_a_manifest_gives_every_name_back(tmp_path: Path) -> None:
    lone = [chr(0xDC00 + byte) for byte in range(128, 256)] + ["\ud800", "\0\udbff", "a\udc00\0u", "\udfffe9"]
    names = ["a", "\\", "\0", "\0e9", "\x00\x00", "\\udce9", "\0ud800", *lone]
    write_manifest(tmp_path / "m", [Entry(name, name, name) for name in names], Shards(1000))
    assert [entry.path for entry in Manifest(tmp_path / "m").shard(0)] == names


def test_pipes_and_sockets_are_no_pictures(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 2)
    os.mkfifo(images / "a" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(images / "a" / "s.png"))
        run = start(images, tmp_path / "out")
    assert (run.counts.ok, run.counts.failed) == (2, 2)
    assert run[1].error == f"OSError: {images}/a/pipe.png: no regular file"


def test_links_to_folders_above_are_not_followed(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 2)
    os.symlink("..", images / "a" / "up")
    os.symlink(".", images / "b" / "itself")
    os.symlink("../a", images / "b" / "aside")
    os.symlink("itself.png", images / "b" / "itself.png")
    found = [entry.path for entry in find_examples(str(images))]
    assert found == ["a/00000.png", "b/00001.png", "b/itself.png", "b/aside/00000.png"]
