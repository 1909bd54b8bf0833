"""A run over several pictures: a page each, an index that sorts, memory that does not grow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from limelight.cli.main import app

from .conftest import HOSTILE, Watched, as_url, png

Open = Callable[..., Watched]
MODEL = "tests.viewer.conftest:small_model"
FAST = ("--model", MODEL, "-m", "gradient", "-m", "integrated-gradients(Midpoint(4))", "--no-progress")


def run(folder: Path, *more: str) -> Any:
    return CliRunner().invoke(app, ["explain", str(folder / "in"), "-o", str(folder / "out"), *FAST, *more])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("b.png", "a.png", "index.png", "<b onclick=alert(4)>.png")):
        (tmp_path / "in" / name).write_bytes(png(seed))
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    return tmp_path


def test_a_page_each_and_an_index(pictures: Path) -> None:
    result = run(pictures)
    assert result.exit_code == 3
    names = {path.name for path in (pictures / "out").glob("*.html")}
    assert names == {"a.html", "b.html", "index.html", "index-2.html", "_b onclick_alert(4)_.html"}
    assert str(pictures / "out" / "index.html") in result.stdout.replace("\n", "")
    text = (pictures / "out" / "index.html").read_text("utf-8")
    assert (
        text.count("<tr>") == 4 + 1
        and text.count('<tr class="failed">') == 1
        and "no picture" not in text.lower()[:200]
    )
    assert not list((pictures / "out").glob(".*"))


def test_one_picture_has_no_index(pictures: Path) -> None:
    command = ["explain", str(pictures / "in" / "a.png"), "-o", str(pictures / "one"), *FAST]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert not (pictures / "one" / "index.html").exists()


def test_the_json_document_is_whole(pictures: Path) -> None:
    document = json.loads(run(pictures, "--json").stdout)
    assert document["failed"] == 1 and len(document["pictures"]) == 5
    assert [each["status"] for each in document["pictures"]].count("failed") == 1


@pytest.mark.long
def test_several_classes_are_one_page_of_rows(pictures: Path, open_page: Open) -> None:
    run(pictures, "--top", "3")
    names = {path.name for path in (pictures / "out").glob("a*.html")}
    assert names == {"a.html"}
    page = open_page(as_url(pictures / "out" / "a.html")).page
    page.wait_for_selector("section:nth-of-type(3) figure[data-drawn]")
    assert page.locator("section").count() == 3
    assert page.locator("select[name=row] option").count() == 4


def test_sorting_by_every_figure(pictures: Path, open_page: Open) -> None:
    run(pictures)
    watched = open_page(as_url(pictures / "out" / "index.html"))
    page = watched.page
    heads = page.locator("th").all_inner_texts()
    assert any("integrated-gradients" in head and "completeness" in head for head in heads)
    sortable = 0
    for column in range(3, len(heads)):
        for direction in (1, -1):
            page.locator("th").nth(column).locator("button").click()
            cells = page.locator(f"tbody tr:not(.failed) td:nth-child({column + 1})")
            found = [each.get_attribute("data-number") for each in cells.all()]
            known = [float(each) for each in found if each]
            assert known == sorted(known, reverse=direction < 0) and found[: len(known)] == [
                each for each in found if each
            ]
            sortable += len(set(known)) > 1
    assert sortable > 4
    page.locator("th").nth(1).locator("button").click()
    names = page.locator("tbody tr:not(.failed) td:nth-child(2)").all_inner_texts()
    assert [Path(each).name for each in names] == sorted((Path(each).name for each in names), key=str.lower)
    page.select_option("select", "gradient")
    assert not any("integrated" in each for each in page.locator("th:visible").all_inner_texts())
    failed = page.locator("tbody td.bad").all_inner_texts()
    assert failed and all(each.endswith(" FAIL") for each in failed), "not by its colour alone"
    why = page.inner_text("tr.failed")
    assert why.count("broken.png") == 1 and "not a picture" in why
    assert page.locator("tbody img").first.evaluate("(image) => image.naturalWidth") > 0
    assert watched.requests[0].startswith("file:") and all(each.startswith("data:") for each in watched.requests[1:])
    page.locator("tbody tr:not(.failed) a").first.click()
    page.wait_for_selector("figure[data-drawn]")


def test_labels_in_the_index_are_words(pictures: Path, open_page: Open) -> None:
    run(pictures, "--target", "0")
    page = open_page(as_url(pictures / "out" / "index.html")).page
    assert " ".join(HOSTILE.split())[:20] in page.inner_text("tbody")
    assert page.locator("img[src=x]").count() == 0 and page.locator("b[onclick]").count() == 0


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    """What Python holds after each picture, past the first four: less than a single map (of some ten things made) more
    for each, which leaves room for names and not for results."""
    (tmp_path / "in").mkdir()
    data = png(0, (200, 200))
    for k in range(24):
        (tmp_path / "in" / f"{k:02}.png").write_bytes(data)
    script = f"""
import gc, tracemalloc, sys
from pathlib import Path
from limelight.cli import main as cli
from limelight.cli.index import Index
held, add = [], Index.add
def watched(self, *args):
    add(self, *args)
    gc.collect()
    held.append(tracemalloc.get_traced_memory()[0])
Index.add = watched
tracemalloc.start()
try:
    cli.app(["explain", {str(tmp_path / "in")!r}, "-o", {str(tmp_path / "out")!r}, *{FAST!r}, "--json"])
except SystemExit as ended:
    assert not ended.code, ended.code
print(len(held), held[-1] - held[3], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stderr.split()[-2:])
    assert count == 24 and len(json.loads(done.stdout)["pictures"]) == 24
    one_map = 32 * 32 * 4
    assert grown < 20 * one_map, f"{grown} bytes more after 20 pictures"
