"""Pictures given to the commands: folders with subfolders, patterns, standard input, and what is left out."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, features

pytest.importorskip("typer", reason="the command line needs the extra 'cli'")

from limelight.cli.pictures import find_pictures
from limelight.models.pictures import SUFFIXES, ImageError

pytestmark = pytest.mark.quick


def picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".avif": "AVIF"}.get(path.suffix.lower())
    Image.new("RGB", (8, 8), (value,) * 3).save(path, kind)
    return path


def test_every_suffix_is_found_and_opened(tmp_path: Path) -> None:
    suffixes = [each for each in SUFFIXES if each != ".avif" or features.check("avif")]
    assert {".jfif", ".jpe", ".avif", ".jpeg"} <= {*SUFFIXES}
    for suffix in suffixes:
        picture(tmp_path / f"a{suffix}")
    picture(tmp_path / "B.JPG")
    found = find_pictures([str(tmp_path)])
    assert len(found) == len(suffixes) + 1
    assert all(each.open().image.size == (8, 8) for each in found)


def test_class_folders_with_names_that_keep_the_subfolder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cats/1.png", "cats/old/2.png", "dogs/1.png", "3.png", ".hidden/4.png", "dogs/.5.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "dogs" / "raw.cr2").touch()
    (tmp_path / "again").symlink_to(tmp_path / "cats")
    found = find_pictures([str(tmp_path)])
    assert [each.name for each in found] == [
        str(tmp_path / name) for name in ("3.png", "cats/1.png", "cats/old/2.png", "dogs/1.png")
    ]
    taken: set[str] = set()
    assert [each.stem(taken) for each in found] == ["3", "cats-1", "cats-old-2", "dogs-1"]
    assert capsys.readouterr().err == (
        f"limelight: {tmp_path}: left out 3 of 7 files, which are no pictures by their names: "
        "again, dogs/raw.cr2, notes.txt\n"
    )


def test_a_folder_without_pictures_and_many_files_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(7):
        (tmp_path / f"{i}.txt").touch()
    (only,) = find_pictures([str(tmp_path)])
    with pytest.raises(ImageError, match=r"a folder without pictures \(.png, .jpg"):
        only.open()
    assert "left out 7 of 7 files" in (said := capsys.readouterr().err) and said.endswith("3.txt, 4.txt, ...\n")


def test_patterns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/1.jpg", "a/2.png", "b/1.jpg", "b/c/3.jpg", "[x].jpg"):
        picture(tmp_path / name)
    (tmp_path / "a" / "1.txt").touch()

    def names(pattern: str) -> list[str]:
        return [str(Path(each.name).relative_to(tmp_path)) for each in find_pictures([f"{tmp_path}/{pattern}"])]

    assert names("*/*.jpg") == ["a/1.jpg", "b/1.jpg"]
    assert names("**/*.jpg") == ["[x].jpg", "a/1.jpg", "b/1.jpg", "b/c/3.jpg"]
    assert names("[ab]") == ["a/1.jpg", "a/2.png", "b/1.jpg", "b/c/3.jpg"]  # folders that fit
    assert names("[x].jpg") == ["[x].jpg"]  # a file's own name
    capsys.readouterr()
    assert names("a/*") == ["a/1.jpg", "a/2.png"] and "left out 1 of 3 files" in capsys.readouterr().err
    taken: set[str] = set()
    assert [each.stem(taken) for each in find_pictures([f"{tmp_path}/*/1.jpg"])] == ["a-1", "b-1"]
    with pytest.raises(ImageError, match="fits no picture"):
        find_pictures([f"{tmp_path}/*.gif"])[0].open()


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("L", (3, 2), 7).save(file, "PNG")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(file.getvalue())))
    first, second = find_pictures(["-", "-"])
    assert first.open().image.size == (3, 2) and first.name == first.stem(set()) == "standard input"
    with pytest.raises(ImageError, match="standard input: not a picture"):  # it was read to its end
        second.open()


def test_urls_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"https://example.org/a\.png: a URL, and limelight downloads nothing"):
        find_pictures(["https://example.org/a.png"])[0].open()
    with pytest.raises(ImageError, match="no such file"):
        find_pictures([str(tmp_path / "none.png")])[0].open()


def test_white_is_every_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 2048, np.uint16)).save(tmp_path / "a.png")
    (item,) = find_pictures([str(tmp_path)], white=4096)
    assert item.open().image.getpixel((0, 0)) == (128, 128, 128)
