"""Where a run is written: an empty folder or a run's own, and nothing of anybody else is touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limelight.cli.main import app

from .helpers import pictures, start


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), 3)


def test_folder_with_something_else_is_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"holds 'letter.txt' and no run; choose an empty folder"):
        start(images, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["letter.txt"]  # not even a lock


@pytest.mark.parametrize("name", ["index/000007.png", "shards/a.png", "done/000001.json.png"])
def test_a_folder_of_pictures_with_the_names_of_a_run_loses_none(name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    place.parent.mkdir()
    place.write_bytes(next(pictures(tmp_path / "images", 3).rglob("*.png")).read_bytes())
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(ValueError, match=rf"^output: .* holds '{name}' and no run; choose an empty folder"):
        start(tmp_path, tmp_path)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [place]


def test_an_output_that_is_a_link_to_nothing_is_named(images: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"^output: '.*/link' is a link to nothing; name a folder"):
        start(images, tmp_path / "link")


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_an_output_that_is_no_folder_is_named(below: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=rf"^output: '.*/{below}' is a file or lies below one; name a folder"):
        start(images, tmp_path / below)


@pytest.mark.parametrize(
    "words",
    [["report"], ["run", "--images", ".", "-m", "gradient", "--output"], ["run", "--status"], ["verify"]],
    ids=lambda words: words[-1],
)
@pytest.mark.parametrize("place", ["a" * 5000, "a\0b", "file/below"])
def test_a_place_that_cannot_be_is_one_line(
    words: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, [*words, place])
    assert made.exit_code == 1 and isinstance(made.exception, SystemExit), made.output
    assert made.stderr.startswith("limelight: ") and len(made.stderr.splitlines()) == 1
