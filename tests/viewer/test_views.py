"""Views and drawings in a browser: the viewer's are Python's, for pictures, volumes, series and columns."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from limelight.base.view import FINE, SINGLE_PIXELS, View
from limelight.show import Tile, drawing_of, overlay, tile_of, write_html
from limelight.show.image import TILE_OPACITY

from .conftest import UNNAMED, Watched, as_url, until

Open = Callable[..., Watched]
SPACES = {"picture": (3, 24, 33), "volume": (2, 6, 8, 10), "series": (3, 50), "long series": (2, 900)}


def values_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) + 0.2


def page_of(folder: Path, open_page: Open, picture: Image.Image, *tiles: Tile, **options: Any) -> Any:
    path = folder / "report.html"
    write_html(path, picture, tiles, "", "", [])
    page = open_page(as_url(path), **options).page
    until(page, lambda: page.locator("figure[data-drawn]").count() == len(tiles))
    page.evaluate("document.querySelectorAll('details.controls').forEach((each) => { each.open = true; })")
    return page


def pixels(page: Any) -> np.ndarray[Any, Any]:
    data = page.locator("figure[data-method=m] canvas").first.evaluate("(canvas) => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).convert("RGB")).astype(int)


def choose(page: Any, reading: str, scale: str) -> None:
    page.select_option("select[name=reading]", reading)
    page.select_option("select[name=scale]", scale)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.wait_for_timeout(60)


def compare(page: Any, picture: Image.Image, tile: Tile) -> None:
    """What the viewer shows of the tile's values is what Python draws of them by the tile's view."""
    ticks = page.locator("figure[data-method=m] .ticks span").all_inner_texts()
    assert [float(each) for each in ticks] == pytest.approx([float(each) for each in tile.scale.ticks], rel=6e-3)
    assert page.inner_text("figure[data-method=m] .how") == tile.how
    expected = np.asarray(overlay(picture, tile.heatmap, tile.scale, TILE_OPACITY)).astype(int)
    found = pixels(page)
    assert found.shape == expected.shape
    assert np.percentile(abs(found - expected), 99) <= 3 and abs(found - expected).mean() < 0.6


VIEWS = [
    ("own", "own", FINE),
    ("signed", "pixels", SINGLE_PIXELS),
    ("signed", "smooth 0.03", View("signed", 0.03)),
    ("signed", "blocks 4", View(blocks=4)),
    ("magnitude", "pixels", View("magnitude")),
    ("positive", "smooth 0.015", View("positive", 0.015)),
    ("negative", "blocks 8", View("negative", blocks=8)),
]


@pytest.mark.parametrize("kind", SPACES)
def test_every_view_of_every_drawing_is_pythons(tmp_path: Path, open_page: Open, kind: str) -> None:
    inputs, values = torch.rand(SPACES[kind]), values_of(*SPACES[kind])
    picture = drawing_of(inputs, 123 if kind == "volume" else 0)
    total = float(values.double().sum())
    page = page_of(tmp_path, open_page, picture, replace(tile_of("m", ("line",), values, FINE), total=total))
    for reading, scale, view in VIEWS:
        choose(page, reading, scale)
        compare(page, picture, replace(tile_of("m", (), values, view), total=total))
    assert page.evaluate(UNNAMED) == []


def test_a_report_begins_with_the_view_that_it_was_written_with(tmp_path: Path, open_page: Open) -> None:
    view = View("signed", 0.04, percentile=97.5, colours="orange-purple")
    picture, values = drawing_of(torch.rand(3, 24, 33)), values_of(3, 24, 33)
    tile = tile_of("m", (), values, view)
    page = page_of(tmp_path, open_page, picture, tile)
    compare(page, picture, tile)
    assert page.locator("figure[data-method=m] .ticks span").all_inner_texts() == list(tile.scale.ticks)
    assert page.inner_text("figure[data-method=m] .clip") == tile.scale.clip_note


def test_nan_stays_where_it_is(tmp_path: Path, open_page: Open) -> None:
    values = values_of(3, 24, 33)
    values[:, 5, 7] = torch.nan
    picture, tile = drawing_of(torch.rand(3, 24, 33)), tile_of("m", (), values, FINE)
    assert int(tile.heatmap.isnan().sum()) == 1
    page = page_of(tmp_path, open_page, picture, tile)
    compare(page, picture, tile)
    assert (pixels(page)[5, 7] == np.asarray(overlay(picture, tile.heatmap, tile.scale, TILE_OPACITY))[5, 7]).all()


def test_the_planes_of_a_volume_move_with_the_sliders(tmp_path: Path, open_page: Open) -> None:
    inputs, values = torch.rand(1, 6, 8, 10), values_of(1, 6, 8, 10)
    tile = tile_of("m", (), values, SINGLE_PIXELS)
    page = page_of(tmp_path, open_page, drawing_of(inputs, 0), tile)
    for axis, place in enumerate((4, 2, 7), start=1):
        slider = page.locator(f"input[name='plane {axis}']")
        slider.evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input', { bubbles: true })); }", place)
    page.wait_for_timeout(100)
    compare(page, drawing_of(inputs, (4 * 8 + 2) * 10 + 7), tile)
    canvas = page.locator("figure[data-method=m] canvas").first
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 1, box["y"] + 1)
    text = page.inner_text("figure[data-method=m] .readout")
    assert text.startswith("voxel (4, 0, 0): ") and float(text.split(": ")[1]) == pytest.approx(
        float(values[0, 4, 0, 0]), rel=6e-3
    )


def test_a_series_reads_channel_and_step_by_name(tmp_path: Path, open_page: Open) -> None:
    values = values_of(2, 60)
    picture = drawing_of(torch.rand(2, 60), names=["left", "right"])
    page = page_of(tmp_path, open_page, picture, tile_of("m", (), values, FINE))
    canvas = page.locator("figure[data-method=m] canvas").first
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2)
    where, value = page.inner_text("figure[data-method=m] .readout").split(": ")
    assert where == "right, step 60" and float(value) == pytest.approx(abs(float(values[1, 59])), rel=6e-3)


def test_columns_are_bars_with_names_that_can_be_sorted(tmp_path: Path, open_page: Open) -> None:
    values, names = torch.tensor([0.5, -2.0, 1.0]), ["age", "income <b>", "height"]
    picture = drawing_of(torch.tensor([39.0, 1e4, 1.8]), names=names)
    page = page_of(tmp_path, open_page, picture, tile_of("m", (), values, SINGLE_PIXELS), width=390)
    items = lambda: [each.split("\n") for each in page.locator("figure[data-method=m] li").all_inner_texts()]  # noqa: E731
    assert items() == [["age", "0.5"], ["income <b>", "-2"], ["height", "1"]]
    page.get_by_role("checkbox", name="the largest first").check()
    assert [name for name, _ in items()] == ["income <b>", "height", "age"]
    widths = [each.bounding_box()["width"] for each in page.locator("figure[data-method=m] .filled").all()]
    assert widths[1] / widths[0] == pytest.approx(0.5, abs=0.05) and widths[2] / widths[0] == pytest.approx(
        0.25, abs=0.05
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(UNNAMED) == []


def test_a_volume_too_large_for_the_slider_has_its_planes(
    tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limelight.show.payload.MOST_VOXELS", 100)
    inputs, values = torch.rand(1, 6, 8, 10), values_of(1, 6, 8, 10)
    picture, tile = drawing_of(inputs, 200), tile_of("m", (), values, SINGLE_PIXELS)
    page = page_of(tmp_path, open_page, picture, tile)
    assert page.locator("figure[data-method=m] .ticks span").all_inner_texts() == list(tile.scale.ticks)
    assert page.locator("input[name^=plane]").count() == 0
