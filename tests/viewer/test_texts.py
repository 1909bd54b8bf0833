"""Texts in a browser: the colours of their pieces are Python's, and predicted tokens are chosen by pointer and keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import limelight as ll
from limelight.show.colour import percent, values_of
from limelight.show.image import TILE_OPACITY, Tile
from limelight.show.words import ink_on, on_paper, shares

from ..texts import AWKWARD, explained, split
from .conftest import HOSTILE, UNNAMED, Watched, as_url, until

Open = Callable[..., Watched]
SIDEWAYS = "document.documentElement.scrollWidth > innerWidth"


def page_of(folder: Path, open_page: Open, panel: Any, **options: Any) -> Any:
    page = open_page(as_url(panel.save(folder / "report.html")), **options).page
    until(page, lambda: page.locator("figure[data-drawn]").count() >= 1)
    return page


def colours(page: Any, count: int) -> list[list[list[int]]]:
    """The background and the ink of each piece of the first map."""
    found: list[list[list[int]]] = []
    for piece in range(count):
        part = page.locator(f"figure[data-method] .letters [data-piece='{piece}']").first
        style = part.evaluate("(e) => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]")
        found.append([[int(each) for each in re.findall(r"\d+", colour)[:3]] for colour in style])
    return found


def compare(page: Any, tile: Tile, row: int = 0) -> None:
    fills = on_paper(values_of(tile.heatmap), tile.scale, TILE_OPACITY)[row].astype(int).tolist()
    for (fill, ink), wanted in zip(colours(page, len(fills)), fills, strict=True):
        assert max(abs(a - b) for a, b in zip(fill, wanted, strict=True)) <= 2, (fill, wanted)
        assert ink == list(ink_on(fill))


def choose(page: Any, reading: str) -> None:
    page.evaluate("document.querySelectorAll('details.controls').forEach((each) => { each.open = true; })")
    page.select_option("select[name=reading]", reading)
    page.wait_for_timeout(100)


def test_the_colours_of_the_pieces_are_pythons_in_every_reading(tmp_path: Path, open_page: Open) -> None:
    a = explained([split(f"{AWKWARD} {HOSTILE} 🙂")])
    page = page_of(tmp_path, open_page, a)
    for reading in ("signed", "magnitude", "positive", "negative"):
        choose(page, reading)
        tile = a.tiles(view=reading)[0]
        compare(page, tile)
        assert page.inner_text("figure[data-method] .how").split("; total")[0] == tile.how.split("; total")[0]
    shown = page.locator("figure[data-method] .letters").text_content()
    assert shown.replace("↵", "").startswith('[CLS]Café naïve\t你好 שלום עולם <b>&amp;"</b>\nend')
    assert page.locator("img[src='x']").count() == 0


def test_without_script_the_text_is_the_same(tmp_path: Path, open_page: Open) -> None:
    a = explained([split(f"{AWKWARD} {HOSTILE}")])
    page = open_page(as_url(a.save(tmp_path / "still.html")), java_script_enabled=False).page
    tile = a.tiles()[0]
    spans = page.locator("figure .letters .piece")
    fills = on_paper(values_of(tile.heatmap), tile.scale, TILE_OPACITY)[0]
    assert spans.count() == len(fills)
    assert f"rgb({', '.join(map(str, fills[2].tolist()))})" in spans.nth(2).get_attribute("style")
    assert page.locator("table.strongest tbody tr").count() == 8


def test_pointing_and_keys_tell_token_value_and_share(tmp_path: Path, open_page: Open) -> None:
    a = explained([split("Mix butter and sugar 🙂")], ["input-x-gradient", "gradient"])
    page = page_of(tmp_path, open_page, a)
    until(page, lambda: page.locator("figure[data-drawn]").count() == 2)
    said = page.locator("figure[data-method] .readout")
    page.locator("figure[data-method=input-x-gradient] [data-piece='2']").hover()
    for place, name in enumerate(("input-x-gradient", "gradient")):
        row = values_of(a[name].tiles()[0].heatmap)[0]
        words, share = said.nth(place).inner_text().split(", ")
        token, value = words.split(": ")
        assert token == "butter" and float(value) == pytest.approx(float(row[2]), rel=6e-3)
        assert float(share.split("%")[0]) == pytest.approx(float(percent(shares(row)[2])[:-1]), abs=0.11)
    page.locator("figure[data-method=gradient] [role=application]").focus()
    page.keyboard.press("ArrowRight")
    assert all(each.startswith("and: ") for each in said.all_inner_texts())
    assert said.nth(1).get_attribute("aria-live") == "polite"
    page.keyboard.press("Escape")
    assert said.all_inner_texts() == ["", ""]
    rows = page.locator("figure[data-method=gradient] table.strongest tbody tr")
    row = values_of(a["gradient"].tiles()[0].heatmap)[0]
    assert (
        rows.first.locator("th").inner_text() == split("Mix butter and sugar 🙂").pieces[int(abs(row).argmax())].label
    )


def test_predicted_tokens_are_chosen_and_the_text_recolours(tmp_path: Path, open_page: Open) -> None:
    text = split("The capital is Paris, of course", special=False, continued=3)
    a = explained([text], outputs=3, target=[[0, 1, 2]])
    (tile,) = a.tiles()
    page = page_of(tmp_path, open_page, a)
    compare(page, tile, 0)
    choices = page.locator("[role=radio]")
    assert choices.all_inner_texts() == [",", "of", "course"]
    choices.first.focus()
    page.keyboard.press("ArrowRight")
    compare(page, tile, 1)
    assert choices.nth(1).get_attribute("aria-checked") == "true"
    page.locator(".letters [data-piece]", has_text="course").last.hover()
    compare(page, tile, 2)
    assert page.inner_text("figure[data-method] .readout").startswith("predicts “course”; course: ")
    page.locator("figure[data-method] [role=application]").focus()
    page.keyboard.press("ArrowUp")
    compare(page, tile, 1)
    page.locator("details.everything summary").click()
    cells = page.locator("table.heat tbody tr").nth(2).locator("td")
    cells.first.wait_for()  # it is made when the fold opens
    found = [float(each) for each in cells.all_inner_texts()]
    assert found == pytest.approx(tile.heatmap[2].tolist(), rel=6e-3, abs=1e-6)
    assert "chosen" in page.locator("table.heat tbody tr").nth(1).get_attribute("class")


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_of_texts_scrolls_sideways_or_has_a_nameless_control(
    tmp_path: Path, open_page: Open, width: int, scheme: str
) -> None:
    text = split("word " * 60 + "x" * 300 + f" {AWKWARD} Paris", continued=3)
    a = explained([text], ["input-x-gradient", "gradient"], outputs=3, target=[[0, 1, 2]])
    page = page_of(tmp_path, open_page, a, width=width, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.wait_for_timeout(150)
    assert not page.evaluate(SIDEWAYS) and page.evaluate(UNNAMED) == []
    page.locator(".enlarge").first.click()
    assert not page.evaluate(SIDEWAYS) and page.locator("dialog .reading").is_visible()


def test_nan_and_zero_are_shown(tmp_path: Path, open_page: Open) -> None:
    a = explained([split("a b c")])
    a.values[:, :, 2] = torch.nan
    page = page_of(tmp_path, open_page, a)
    compare(page, a.tiles()[0])
    page.locator("figure[data-method] [data-piece='2']").hover()
    assert page.inner_text("figure[data-method] .readout") == "b: nan"
    a.values.zero_()
    page = page_of(tmp_path, open_page, a)
    compare(page, a.tiles()[0])
    assert page.locator("table.strongest").is_hidden()


def test_a_text_of_2000_tokens_answers_at_once(tmp_path: Path, open_page: Open) -> None:
    a = explained([split("word " * 2000, special=False)])
    page = page_of(tmp_path, open_page, a)
    assert page.locator(".letters .piece[data-piece]").count() == 2000
    page.locator("figure[data-method] [role=application]").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("figure[data-method] .readout").startswith("word: ")


def test_a_notebook_shows_the_same(tmp_path: Path, open_page: Open) -> None:
    a = ll.Panel([explained([split("Mix <b>butter</b>")])], 1, 1)
    path = tmp_path / "cell.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{a._repr_html_()}</body>", encoding="utf-8")
    page = open_page(as_url(path)).page
    until(page, lambda: page.locator("figure[data-drawn]").count() == 1)
    compare(page, a.tiles()[0])
