"""Reports in a browser: what the page shows is what the tensors hold."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from torch import Tensor, nn

import limelight as ll
from limelight.evaluation.card import Entry, Section
from limelight.show import (
    Row,
    Summary,
    Tile,
    draw_figure,
    overlay,
    picture_of,
    report_fragment,
    scale_of,
    write_html,
    write_report,
)
from limelight.show.assets import MODULES, asset, viewer_script
from limelight.show.image import TILE_OPACITY
from limelight.show.payload import PERCENTILES, half, map_payload

from .conftest import HOSTILE, UNNAMED, Watched, as_url, until

Open = Callable[..., Watched]


def noise(side: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(side, side, generator=torch.Generator().manual_seed(seed))


def picture(side: int) -> Image.Image:
    return picture_of(torch.rand(3, side, side, generator=torch.Generator().manual_seed(9)))


def tiles(side: int) -> tuple[Tile, ...]:
    card = (
        Section(
            "Hard tests", (Entry("FAIL", "completeness", "0.258", HOSTILE), Entry("pass", "determinism", "0", "w"))
        ),
    )
    return (
        Tile("signed", ("score 3",), noise(side, 0, 0.00345), sections=card, verdict="does not hold up: 1 of 2 tests"),
        Tile("large", (), noise(side, 1, 123456.0), warning=True),
        Tile("unsigned", (), noise(side, 2).abs()),
        Tile("zero", (), torch.zeros(side, side)),
        Tile("framed", (), noise(side, 3).index_fill(0, torch.arange(4), torch.nan)),
    )


def report(folder: Path, side: int = 48) -> tuple[str, tuple[Tile, ...]]:
    path = folder / "report.html"
    made = tiles(side)
    facts = [("seed", "0"), ("large", ll.Note("caution", "is in doubt"))]
    write_html(path, picture(side), made, "heading", "footer", facts)
    return as_url(path), made


def drawn(page: Any, count: int) -> None:
    """Wait for the maps and open every fold, which hides what is in it from clicks and keys."""
    until(page, lambda: page.locator("figure[data-drawn]").count() == count)
    unfold(page)


def unfold(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")


def settle(page: Any) -> None:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def set_slider(page: Any, name: str, value: float) -> None:
    page.locator(f"input[name={name}]").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })); }", value
    )
    settle(page)


def ticks(page: Any, title: str) -> list[str]:
    return list(page.locator(f"figure[data-method={title}] .ticks span").all_inner_texts())


def test_modules_join_into_one_script_without_imports() -> None:
    script = viewer_script()
    assert "\nimport " not in script and not script.startswith("import ")
    for name in MODULES:  # each imports only from those before it, by names that the whole shares
        imports = [line for line in asset(name).splitlines() if line.startswith("import ")]
        assert all(line.split('"./')[1][:-2] in MODULES[: MODULES.index(name)] for line in imports)


def test_half_floats_keep_a_map_to_a_two_thousandth(tmp_path: Path) -> None:
    heatmap = noise(64, 5, 1e-20).double()
    heatmap[0, 0], heatmap[0, 1] = torch.nan, torch.inf
    text, size = half(heatmap)
    back = np.frombuffer(base64.b64decode(text), "<f2").astype(np.float64).reshape(64, 64) * size
    assert np.isnan(back[0, 0]) and back[0, 1] == np.inf
    found, true = back[1:], heatmap.numpy()[1:]
    assert (np.abs(found - true) <= np.maximum(np.abs(true) * 2**-11, size * 2**-25)).all()


def test_a_map_of_another_size_than_its_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"7x7.*48x48"):
        map_payload(picture(48), Tile("small", (), torch.ones(7, 7)))


def test_five_maps_of_224_pixels_take_less_than_3_megabytes(tmp_path: Path) -> None:
    """Of noise, which no compression makes smaller."""
    path = tmp_path / "report.html"
    write_html(path, picture(224), [Tile(f"map {k}", (), noise(224, k)) for k in range(5)], "", "", [])
    assert os.path.getsize(path) < 3_000_000


def test_opens_from_disk_without_a_request_and_draws_within_a_second(tmp_path: Path, open_page: Open) -> None:
    path = tmp_path / "report.html"
    write_html(path, picture(224), [Tile(f"map {k}", (), noise(224, k)) for k in range(5)], "", "", [])
    watched = open_page("about:blank")
    clock = watched.page.context.new_cdp_session(watched.page)
    clock.send("Performance.enable", {"timeDomain": "threadTicks"})
    watched.page.goto(as_url(path))
    drawn(watched.page, 5)
    measured = {each["name"]: each["value"] for each in clock.send("Performance.getMetrics")["metrics"]}
    # The processor's time: by the clock, whatever else the machine does would be counted as well.
    assert 0 < measured["ProcessTime"] < 1, measured
    assert [url for url in watched.requests if not url.startswith("data:")] == [as_url(path)]


def test_the_colour_bars_numbers_are_the_tensors(tmp_path: Path, open_page: Open) -> None:
    url, made = report(tmp_path)
    page = open_page(url).page
    drawn(page, 5)
    for place, percentile in enumerate(PERCENTILES):
        set_slider(page, "percentile", place)
        for tile in made:
            scale = scale_of(tile.heatmap, tile.signed, percentile)
            assert ticks(page, tile.title) == ([] if scale.empty else list(scale.ticks)), (tile.title, percentile)
            if not scale.empty:
                assert page.inner_text(f"figure[data-method={tile.title}] .clip") == scale.clip_note
    assert "all zero: nothing to show" in page.inner_text("figure[data-method=zero]")


def test_a_shared_scale_is_the_largest_of_those_that_share_it(tmp_path: Path, open_page: Open) -> None:
    path = tmp_path / "report.html"
    rows = [
        Row(
            f"row {r}",
            picture(32),
            tuple(Tile(f"m{r}{k}", (), noise(32, 10 * r + k, 10.0**r * (k + 1))) for k in range(2)),
        )
        for r in range(2)
    ]
    write_report(path, rows, "", "", [])
    page = open_page(as_url(path)).page
    drawn(page, 4)
    limits = {tile.title: tile.scale.limit for row in rows for tile in row.tiles}

    def shown() -> dict[str, float]:
        settle(page)
        page.wait_for_timeout(50)
        return {
            title: float(page.locator(f"figure[data-method={title}]").get_attribute("data-limit")) for title in limits
        }

    assert shown() == pytest.approx(limits)
    page.select_option("select[name=share]", "row")
    assert shown() == pytest.approx({title: max(limits[f"m{title[1]}0"], limits[f"m{title[1]}1"]) for title in limits})
    page.select_option("select[name=share]", "all")
    assert shown() == pytest.approx(dict.fromkeys(limits, max(limits.values())))
    page.select_option("select[name=row]", "1")
    settle(page)
    assert [each.is_visible() for each in page.locator("section").all()] == [False, True]


def pixels_of(page: Any, canvases: str, at: int = 0) -> str:
    return str(page.locator(canvases).nth(at).evaluate("(canvas) => canvas.toDataURL()"))


def pixels(page: Any, title: str) -> np.ndarray:
    data = page.locator(f"figure[data-method={title}] canvas").first.evaluate("(canvas) => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).convert("RGB")).astype(int)


def test_the_canvas_has_pythons_colours(tmp_path: Path, open_page: Open) -> None:
    url, made = report(tmp_path)
    page = open_page(url).page
    drawn(page, 5)
    for tile in made:
        expected = np.asarray(overlay(picture(48), tile.heatmap, tile.scale, TILE_OPACITY)).astype(int)
        assert abs(pixels(page, tile.title) - expected).max() <= 2, tile.title
    set_slider(page, "opacity", 0)
    page.wait_for_timeout(50)
    grey = np.asarray(picture(48).convert("L")).astype(float)
    assert abs(pixels(page, "signed")[..., 0] - (80 + 0.65 * grey)).max() <= 1.5


def test_hover_and_keyboard_read_the_value_under_them_in_every_map(tmp_path: Path, open_page: Open) -> None:
    url, made = report(tmp_path)
    page = open_page(url).page
    drawn(page, 5)
    canvas = page.locator("figure[data-method=signed] canvas").first
    box = canvas.bounding_box()
    x, y = 31, 17
    page.mouse.move(box["x"] + (x + 0.5) * box["width"] / 48, box["y"] + (y + 0.5) * box["height"] / 48)

    def check(x: int, y: int) -> None:
        for tile in made:
            text = page.inner_text(f"figure[data-method={tile.title}] .readout")
            where, value = text.split(": ")
            assert where == f"x {x}, y {y}"
            assert float(value) == pytest.approx(float(tile.heatmap[y, x]), rel=6e-3, nan_ok=True), tile.title

    check(x, y)
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    check(x + 1 - 10, y + 1)
    page.keyboard.press("Escape")
    assert page.inner_text("figure[data-method=signed] .readout") == ""


def test_every_control_is_reached_by_tab(tmp_path: Path, open_page: Open) -> None:
    page = open_page(report(tmp_path)[0]).page
    drawn(page, 5)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.tagName"))
    assert {
        "opacity",
        "reading",
        "scale",
        "percentile",
        "share",
        "diverging",
        "magnitude",
        "CANVAS",
        "SUMMARY",
        "BUTTON",
    } <= reached


def test_every_control_has_a_name(tmp_path: Path, open_page: Open) -> None:
    page = open_page(report(tmp_path)[0]).page
    drawn(page, 5)
    assert page.evaluate(UNNAMED) == []
    slider = page.get_by_role("slider", name="colours end at percentile")
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == "100"


def test_downloads_are_the_map(tmp_path: Path, open_page: Open) -> None:
    url, made = report(tmp_path)
    page = open_page(url).page
    drawn(page, 5)
    figure = page.locator("figure[data-method=signed]")
    with page.expect_download() as got:
        figure.get_by_role("button", name="safetensors").click()
    assert got.value.suggested_filename == "signed.safetensors"
    found = load(Path(got.value.path()).read_bytes())["heatmap"]
    torch.testing.assert_close(found, made[0].heatmap, rtol=2**-10, atol=float(made[0].heatmap.abs().max()) * 2**-24)
    with page.expect_download() as got:
        figure.get_by_role("button", name="PNG", exact=True).click()
    image = Image.open(io.BytesIO(Path(got.value.path()).read_bytes()))
    assert image.size == (48, 48) and got.value.suggested_filename == "signed.png"


def test_hostile_words_are_words(tmp_path: Path, open_page: Open) -> None:
    path = tmp_path / "report.html"
    card = (Section(HOSTILE, (Entry(HOSTILE, HOSTILE, HOSTILE, HOSTILE),)),)
    tile = Tile(HOSTILE, (HOSTILE,), noise(32, 0), sections=card)
    write_report(path, [Row(HOSTILE, picture(32), (tile,))] * 2, HOSTILE, HOSTILE, [(HOSTILE, HOSTILE)])
    page = open_page(as_url(path)).page
    drawn(page, 2)
    page.wait_for_timeout(100)
    assert page.locator("img[src=x]").count() == 0
    assert page.inner_text("h2") == " ".join(HOSTILE.split())


def test_the_card_stands_beside_its_map(tmp_path: Path, open_page: Open) -> None:
    page = open_page(report(tmp_path)[0]).page
    drawn(page, 5)
    card = page.locator("figure[data-method=signed] .card")
    assert card.locator("summary").inner_text() == "does not hold up: 1 of 2 tests"
    assert card.locator("td .bad").inner_text() == "FAIL" and "0.258" in card.inner_text()
    assert page.locator("figure[data-method=large] .card").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_one_way_and_text_stands_out(tmp_path: Path, open_page: Open, scheme: str) -> None:
    page = open_page(report(tmp_path)[0], width=360, height=700, color_scheme=scheme).page
    drawn(page, 5)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    colours = page.evaluate(
        """() => [getComputedStyle(document.querySelector('.limelight')).backgroundColor,
        ...['h2', 'figure p', '.warning h3', '.card .bad', '.card .good', 'output'].map(
            (each) => getComputedStyle(document.querySelector(each)).color)]"""
    )
    page_colour, *inks = [[int(part) for part in each[4:-1].split(",")] for each in colours]

    def luminance(colour: list[int]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink in inks:  # WCAG AA for text of this size
        low, high = sorted((luminance(ink), luminance(page_colour)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, ink)


def test_without_script_the_maps_are_there_still(tmp_path: Path, open_page: Open) -> None:
    url, made = report(tmp_path)
    page = open_page(url, java_script_enabled=False).page
    assert page.locator("figure img").count() == 6
    assert made[0].scale.ticks[2] in page.inner_text("body")


def test_two_notebook_cells_live_side_by_side(tmp_path: Path, open_page: Open) -> None:
    path = tmp_path / "notebook.html"
    fragment = report_fragment([Row("", picture(32), (Tile("one", (), noise(32, 0)),))], "", "", [])
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{fragment}{fragment}</body>", "utf-8")
    page = open_page(as_url(path)).page
    drawn(page, 2)
    page.locator("input[name=opacity]").first.fill("0")
    page.wait_for_timeout(50)
    first, second = (
        page.locator("figure[data-method=one] canvas:not(.bar)").nth(k).evaluate("(c) => c.toDataURL()")
        for k in range(2)
    )
    assert first != second


def test_a_sandboxed_notebook_shows_living_maps_and_without_script_still_ones(tmp_path: Path, open_page: Open) -> None:
    """Notebooks put a cell's HTML into frames without an origin (Colab, VS Code), and run no script before the
    notebook is trusted."""
    made = ll.explain(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3)), torch.rand(1, 3, 8, 8), "gradient")
    for place, sandbox in enumerate(("allow-scripts", "")):
        path = tmp_path / f"notebook{place}.html"
        frame = f'<iframe sandbox="{sandbox}" width=900 height=700 srcdoc="{escape(made._repr_html_())}"></iframe>'
        path.write_text(f"<!doctype html><meta charset=utf-8><body>{frame}</body>", "utf-8")
        watched = open_page(as_url(path))
        frame = watched.page.frame_locator("iframe")
        if sandbox:
            frame.locator("figure[data-drawn]").wait_for()
            assert float(frame.locator("figure[data-drawn]").get_attribute("data-limit")) > 0
        else:
            assert frame.locator("figure img").count() == 2
            # Chromium's own words about the script that it was told not to run, and nothing else.
            watched.complaints[:] = [each for each in watched.complaints if "is sandboxed" not in each]


def test_the_pixel_under_the_pointer_is_marked_in_the_picture_and_every_map(tmp_path: Path, open_page: Open) -> None:
    page = open_page(report(tmp_path)[0]).page
    drawn(page, 5)
    page.locator("figure[data-method=signed] canvas").first.focus()
    page.keyboard.press("ArrowRight")
    x, y = 24 + 1, 24
    for frame in page.locator(".frame").all():
        outer, mark = frame.bounding_box(), frame.locator(".mark").bounding_box()
        assert mark["x"] + mark["width"] / 2 - outer["x"] == pytest.approx((x + 0.5) / 48 * outer["width"], abs=1.5)
        assert mark["y"] + mark["height"] / 2 - outer["y"] == pytest.approx((y + 0.5) / 48 * outer["height"], abs=1.5)
    assert page.locator(".frame").count() == 6
    spoken = [each.get_attribute("aria-live") for each in page.locator(".readout").all()]
    assert spoken == ["polite", *["off"] * 4], "only the map with the focus is read out"
    page.keyboard.press("Escape")
    assert not any(each.is_visible() for each in page.locator(".mark").all())


def test_one_sign_of_a_map_that_has_none_of_it_says_so(tmp_path: Path, open_page: Open) -> None:
    page = open_page(report(tmp_path)[0]).page
    drawn(page, 5)
    page.select_option("select[name=reading]", "negative")
    page.wait_for_timeout(50)
    assert page.inner_text("figure[data-method=unsigned] .clip") == "no negative value other than zero"
    page.select_option("select[name=reading]", "own")
    page.select_option("select[name=share]", "all")
    page.wait_for_timeout(50)
    assert page.inner_text("figure[data-method=zero] .clip") == "no value other than zero"
    assert "all zero: nothing to show" in page.inner_text("figure[data-method=zero]")
    assert "8.3% undefined (NaN)" in page.inner_text("figure[data-method=framed]")


def test_rows_scroll_together(tmp_path: Path, open_page: Open) -> None:
    path = tmp_path / "report.html"
    rows = [Row(f"row {r}", picture(32), tuple(Tile(f"m{k}", (), noise(32, k)) for k in range(6))) for r in range(2)]
    write_report(path, rows, "", "", [])
    page = open_page(as_url(path), width=700).page
    drawn(page, 12)
    page.locator(".grid").evaluate("(grid) => { grid.scrollLeft = 5000; }")
    lefts = [each.bounding_box()["x"] for each in page.locator("figure[data-method=m5]").all()]
    assert lefts[0] == lefts[1] < 700
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert all(each.bounding_box()["x"] >= 0 for each in page.locator("h3.row").all()), "the labels stay in sight"


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (31, 500), (1024, 640)])
def test_pictures_of_any_size(tmp_path: Path, open_page: Open, size: tuple[int, int]) -> None:
    width, height = size
    values = torch.linspace(-1, 1, width * height).view(height, width)
    path = tmp_path / "report.html"
    write_html(path, picture_of(torch.rand(3, height, width)), [Tile("map", (), values)], "", "", [])
    page = open_page(as_url(path)).page
    drawn(page, 1)
    canvas = page.locator("figure canvas").first
    box = canvas.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.05)
    assert canvas.evaluate("(canvas) => [canvas.width, canvas.height]") == [width, height]


def test_words_that_turn_directions_stay_in_their_place(tmp_path: Path, open_page: Open) -> None:
    turned = "\u202egnp\x07"
    path = tmp_path / "report.html"
    write_html(path, picture(32), [Tile(turned, (turned,), noise(32, 0))], turned, turned, [(turned, turned)])
    still = path.read_text("utf-8")
    assert "\u202e" not in still and "\x07" not in still
    page = open_page(as_url(path)).page
    drawn(page, 1)
    assert "\u202e" not in page.inner_text("body") and page.inner_text("h2") == "\ufffdgnp\ufffd"


def test_the_figure_has_the_panels_colours_and_numbers() -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    made = tiles(48)
    figure = draw_figure(picture(48), made, "heading $x$", columns=3)
    cells = [each for each in figure.axes if each.get_title(loc="left")]
    assert [each.get_title(loc="left") for each in cells] == [
        "picture",
        "signed",
        "(!) large",
        "unsigned",
        "zero",
        "framed",
    ]
    for cell, tile in zip(cells[1:], made, strict=True):
        shown = np.asarray(cell.images[0].get_array())
        assert (shown == np.asarray(overlay(picture(48), tile.heatmap, tile.scale, TILE_OPACITY))).all()
        bars = cell.child_axes
        found = [] if tile.scale.empty else [each.get_text() for each in bars[0].get_xticklabels()]
        assert found == ([] if tile.scale.empty else list(tile.scale.ticks))
        caption = "".join(cell.texts[0].get_text().split())  # lines may be broken anywhere
        whole = "".join([*([] if tile.scale.empty else [tile.scale.clip_note]), *tile.caption])
        assert caption == "".join(whole.split())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert Image.open(buffer).size == (int(100 * (3 * 3.5 + 0.5)), figure.canvas.get_width_height()[1])
    with pytest.raises(ValueError, match="columns"):
        draw_figure(picture(48), made, columns=0)


def test_the_figure_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(ImportError, match=r"limelight\[plot\]"):
        draw_figure(picture(48), ())


def summed_up(tmp_path: Path, count: int = 6) -> tuple[Path, tuple[Tile, ...]]:
    """A report of one row whose maps disagree: the first screen names the two that differ most."""
    region = torch.zeros(48, 48, dtype=torch.bool)
    region[10:20, 30:40] = True
    made = tuple(Tile(f"map-{k}", (), noise(48, k), verdict="holds up: 1 of 1 tests") for k in range(count))
    summary = Summary(
        "The model says tabby (281), 39.5%",
        "The maps explain its score, 9.247.",
        (("tabby (281)", 0.395), ("lynx (287)", 0.2)),
        "The maps disagree.",
        region,
        ("map-0", "map-2", -0.25),
        (("hold up", ("map-0", "map-1")), ("do not hold up", ("map-2",))),
    )
    path = tmp_path / "summary.html"
    facts = [
        ("seed", "0"),
        ("map-1", ll.Note("fact", "says nothing bad")),
        ("map-2", ll.Note("caution", "is in doubt")),
    ]
    write_report(path, [Row("", picture(48), made, summary)], "cat.jpg", "", facts)
    return path, made


def test_the_first_screen_says_what_there_is_to_know(tmp_path: Path, open_page: Open) -> None:
    page = open_page(as_url(summed_up(tmp_path)[0]), width=1440, height=900).page
    until(page, lambda: page.locator("figure[data-drawn]").count() == 6)
    said = page.inner_text(".said")
    for words in (
        "tabby (281), 39.5%",
        "9.247",
        "The maps disagree.",
        "2 of 3 maps hold up: map-0, map-1",
        "1 of 3 maps do not",
    ):
        assert words in said
    assert page.inner_text(".cautions") == "map-2 is in doubt"
    assert not page.get_by_text("says nothing bad").is_visible(), "behind a fold"
    page.click(".facts summary")
    assert page.get_by_text("says nothing bad").is_visible()
    # the outline is the region's: its box, to a pixel of the picture
    box = page.locator(".outline path").first.evaluate(
        "(path) => { const b = path.getBBox(); return [b.x, b.y, b.width, b.height]; }"
    )
    assert box == [30, 10, 10, 10]
    settle(page)
    for at, title in enumerate(("map-0", "map-2")):
        copy = page.locator(".twins canvas").nth(at)
        assert copy.get_attribute("aria-label") == f"map of {title}"
        until(
            page,
            lambda at=at, title=title: (
                pixels_of(page, ".twins canvas", at) == pixels_of(page, f"figure[data-method={title}] canvas")
            ),
        )
    assert "rank correlation -0.25" in page.inner_text(".twins")
    for each in (".said", ".twins", ".lead figure"):
        found = page.locator(each).bounding_box()
        assert found["y"] + found["height"] < 900


@pytest.mark.parametrize("count", [4, 5, 6, 7, 9, 11])
def test_no_map_stands_alone_and_cards_are_closed(tmp_path: Path, open_page: Open, count: int) -> None:
    page = open_page(as_url(summed_up(tmp_path, count)[0]), width=1440, height=900).page
    until(page, lambda: page.locator("figure[data-drawn]").count() == count)
    settle(page)
    boxes = [each.bounding_box() for each in page.locator(".panel > figure").all()]
    rows = [[each for each in boxes if each["y"] == y] for y in sorted({each["y"] for each in boxes})]
    assert len(rows[-1]) > 1 and {len(row) for row in rows[:-1]} <= {len(rows[0])}
    assert len(rows[0]) - len(rows[-1]) <= 1, "the last row is full, or lacks one"
    right = max(each["x"] + each["width"] for each in boxes)
    assert 1440 - right < 50 and min(each["x"] for each in boxes) < 50, "the rows are as wide as the page"


def test_a_card_opens_into_a_table(tmp_path: Path, open_page: Open) -> None:
    path = tmp_path / "card.html"
    entries = (
        Entry("pass", "randomisation", "-0.28", "the map changes", "at most 0.7"),
        Entry("-", "completeness", "-", "no sum is promised"),
        Entry("-", "bias-shift", "-", "left out: about 300 more model evaluations", left_out=True),
        Entry("-", "", "", "sampling noise is 40%"),
    )
    tile = Tile("one", (), noise(32, 0), sections=(Section("Hard tests", entries),), verdict="in doubt: 1 of 1 tests")
    write_html(path, picture(32), [tile], "", "", [])
    page = open_page(as_url(path), width=390).page
    until(page, lambda: page.locator("figure[data-drawn]").count() == 1)
    card = page.locator(".card")
    assert card.inner_text() == "in doubt: 1 of 1 tests", "closed"
    card.locator("summary").click()
    assert [each.inner_text() for each in card.locator("tbody tr").first.locator("th, td").all()] == [
        "randomisation",
        "-0.28",
        "at most 0.7",
    ]
    assert card.locator(".words").inner_text() == "pass the map changes"
    assert card.locator("li").inner_text() == "sampling noise is 40%"
    muted = card.locator(".muted").all_inner_texts()
    assert muted == ["completeness: no sum is promised", "left out to save model evaluations: bias-shift"]
    assert card.locator("button").count() == 0, "a report runs no tests"


def test_a_still_report_has_no_line_of_letters(tmp_path: Path, open_page: Open) -> None:
    """Without script, on a phone: every line of words has room for some."""
    page = open_page(as_url(summed_up(tmp_path)[0]), width=390, java_script_enabled=False).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator(".said").bounding_box()["width"] > 250
    assert "2 of 3 maps hold up" in page.inner_text(".said")
