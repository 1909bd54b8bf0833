"""The live page from end to end in a browser: bring a picture, watch the panel fill, change everything, take it."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load

import limelight as ll
from limelight.models.catalogue import ImageModel

from .conftest import CLASSES, UNNAMED, WORK, Server, Small, Watched, png, small_model, until

Open = Callable[..., Watched]
NAME = "<img src=x onerror=alert(3)>.png"
CHEAP = ("gradient", "grad-cam")


@pytest.fixture
def page(server: Server, open_page: Open) -> Any:
    """The page with two cheap methods ticked."""
    page = open_page(server.url).page
    page.wait_for_selector(".method")
    choose(page, CHEAP)
    return page


class LongNames(Small):
    """Whose layers are called what no phone has room for."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("features_" * 12, self._modules.pop("layers"))

    @property
    def layers(self) -> Any:
        return self._modules["features_" * 12]


def choose(page: Any, wanted: tuple[str, ...]) -> None:
    # In one call, in a drawer too: asking fifty boxes one by one takes a second.
    changed = "boxes.filter((each) => each.checked !== wanted.includes(each.name))"
    page.locator(".method .tick input").evaluate_all(
        f"(boxes, wanted) => {changed}.forEach((each) => each.click())", list(wanted)
    )


def bring(page: Any, folder: Path, *seeds: int) -> None:
    paths = []
    for seed in seeds:
        path = folder / (NAME if seed == seeds[0] else f"{seed}.png")
        path.write_bytes(png(seed))
        paths.append(str(path))
    page.set_input_files("#files", paths)


def done(page: Any, maps: int = 2) -> None:
    until(page, lambda: page.inner_text("#status").startswith("done"))
    until(page, lambda: page.locator("figure[data-drawn]").count() == maps)


def limit(page: Any, method: str = "gradient") -> float:
    return float(page.locator(f"figure[data-method={method}]").first.get_attribute("data-limit"))


def own(target: int | None = None, seed: int = 0, shift: float = 0.0, **options: Any) -> Any:
    model = small_model()
    return ll.explain(
        model, model.preprocess(ll.open_image(png(seed))) + shift, ll.Gradient(), target=target, **options
    )


def own_limit(*args: Any, **options: Any) -> float:
    return ll.show.scale_of(own(*args, **options).viewed()[0]).limit


def again(page: Any, change: Callable[[], Any]) -> None:
    """Change something and wait for the answer that it brings."""
    page.evaluate("document.getElementById('status').textContent = ''")
    change()
    until(page, lambda: page.inner_text("#status").startswith("done"))
    page.wait_for_timeout(100)


def test_bring_look_change_take(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 0)
    done(page)
    assert limit(page) == pytest.approx(own_limit(), rel=1e-5)
    assert page.locator("figure[data-method=gradient] .card").count() == 1
    first = page.inner_text("#prediction")
    top = int(own().target[0])

    # the value under the pointer
    canvas = page.locator("figure[data-method=gradient] canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 10.5 * box["width"] / 32, box["y"] + 20.5 * box["height"] / 32)
    text = page.inner_text("figure[data-method=gradient] .readout")
    assert text.startswith("x 10, y 20: ")
    assert float(text.split(": ")[1]) == pytest.approx(float(own().viewed()[0, 20, 10]), rel=6e-3)

    # brighter: the same class, its own map, both answers
    def shift() -> None:
        page.locator("input[name=shift]").fill("0.3")

    again(page, shift)
    assert limit(page) == pytest.approx(own_limit(top, shift=0.3), rel=1e-5)
    assert "without the change" in page.inner_text("#prediction") and page.inner_text("#prediction") != first
    again(page, lambda: page.locator("input[name=shift]").fill("0"))

    # another class, from the first five and by search
    second = page.locator(".top button").nth(1)
    again(page, second.click)
    other = int(own().outputs[0].argsort(descending=True)[1])
    assert limit(page) == pytest.approx(own_limit(other), rel=1e-5)
    again(
        page,
        lambda: (page.fill("input[name=class]", "number 3"), page.keyboard.press("Enter"), page.keyboard.press("Tab")),
    )
    assert page.locator("section").count() == 2, "a row a class"

    # the map with its provenance, and as a picture
    with page.expect_download() as got:
        page.locator("figure[data-method=gradient] .links a").first.click()
    values = load(Path(got.value.path()).read_bytes())["values"]
    torch.testing.assert_close(values, own(other).values, rtol=1e-5, atol=1e-8)
    with page.expect_download() as got:
        page.locator("figure[data-method=gradient]").first.get_by_role("button", name="PNG", exact=True).click()
    with Image.open(got.value.path()) as image:
        assert image.size == (32, 32)


def test_a_dropped_picture(page: Any) -> None:
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], 'cat.png', { type: 'image/png' }));
            const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent('drop', options));
        }""",
        base64.b64encode(png(0)).decode(),
    )
    done(page)
    assert limit(page) == pytest.approx(own_limit(), rel=1e-5)


def test_settings_baseline_and_layer_reach_the_library(page: Any, tmp_path: Path) -> None:
    choose(page, ("integrated-gradients", "grad-cam"))
    page.locator(".method:has(input[name=integrated-gradients]) input[name=quadrature]").fill("Midpoint(4)")
    bring(page, tmp_path, 0)
    done(page)
    model = small_model()
    x = model.preprocess(ll.open_image(png(0)))
    method = ll.IntegratedGradients(ll.Midpoint(4))

    def write(name: str, text: str) -> None:
        page.fill(f"input[name={name}]", text)
        page.keyboard.press("Tab")

    for change, options in (
        (lambda: write("baseline", "white"), {"baseline": ll.White()}),
        (lambda: write("baseline", "0.25"), {"baseline": 0.25}),
        (lambda: write("baseline", "blur(2)"), {"baseline": "blur(2)"}),
        (lambda: write("target", "margin(3, other=1)"), {"baseline": "blur(2)", "target": "margin(3, other=1)"}),
    ):
        again(page, change)
        expected = ll.show.scale_of(ll.explain(model, x, method, **options).viewed()[0]).limit
        assert limit(page, "integrated-gradients") == pytest.approx(expected, rel=1e-4)
    assert "margin(3, other=1)" in page.inner_text("section")
    layer = page.locator("select[name=layer] option").nth(1).get_attribute("value")
    again(page, lambda: page.select_option("select[name=layer]", layer))
    assert f"layer {layer}" in page.inner_text("figure[data-method=grad-cam]")


def test_every_target_and_baseline_is_offered(server: Server, open_page: Open, tmp_path: Path) -> None:
    watched = open_page(server.url)
    page = watched.page
    page.wait_for_selector(".method")
    for name, registry in (("target", ll.TARGETS), ("baseline", ll.BASELINES)):
        offered = page.locator(f"datalist#{name}s option").evaluate_all("all => all.map((each) => each.value)")
        assert {each.rstrip("(") for each in offered} == set(registry.names) - {"function"}
    choose(page, CHEAP)
    bring(page, tmp_path, 0)
    done(page)
    page.fill("input[name=target]", "mrgin(3)")
    page.keyboard.press("Tab")
    until(page, lambda: "did you mean margin" in page.inner_text("#status"))
    assert [each for each in watched.complaints if "status of 422" not in each] == []
    watched.complaints.clear()


def test_several_pictures_are_rows(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 0, 1, 2)
    done(page, 6)
    assert page.locator("section").count() == 3
    found = [float(each.get_attribute("data-limit")) for each in page.locator("figure[data-method=gradient]").all()]
    assert found == pytest.approx([own_limit(seed=seed) for seed in (0, 1, 2)], rel=1e-5)


def test_cancel_stops_the_model_and_the_page_lives(page: Any, tmp_path: Path) -> None:
    choose(page, ("smooth-grad",))
    page.locator(".method:has(input[name=smooth-grad]) input[name=samples]").fill("1500")
    WORK.pause = 0.02
    bring(page, tmp_path, 0)
    until(page, lambda: "model rows" in page.inner_text("#status"))
    page.click("#cancel")
    until(page, lambda: page.inner_text("#status") == "cancelled")
    time.sleep(0.3)
    rows = WORK.rows
    time.sleep(0.3)
    assert WORK.rows == rows
    WORK.pause = 0.0
    choose(page, CHEAP)
    page.click("#explain")
    done(page)


def test_the_panel_fills_method_by_method(page: Any, tmp_path: Path) -> None:
    choose(page, ("gradient", "smooth-grad"))
    WORK.pause = 0.05
    bring(page, tmp_path, 0)
    page.wait_for_selector("figure[data-method=gradient][data-drawn]")
    assert page.locator("figure[data-method=smooth-grad]").count() == 0
    page.wait_for_selector("figure[data-method=smooth-grad][data-drawn]")


def test_refusals_are_words_on_the_page(server: Server, open_page: Open, tmp_path: Path) -> None:
    watched = open_page(server.url)
    path = tmp_path / "a.png"
    path.write_bytes(b"<script>alert(1)</script>")
    watched.page.wait_for_selector(".method")
    watched.page.set_input_files("#files", str(path))
    until(watched.page, lambda: "not a picture" in watched.page.inner_text("#refusals"))
    # Chromium itself logs the answer's status, and that is all that there is.
    assert [each for each in watched.complaints if "status of 415" not in each] == []
    watched.complaints.clear()


def test_hostile_labels_and_names_stay_words(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 0)
    done(page)
    again(page, lambda: (page.fill("input[name=class]", "0"), page.keyboard.press("Tab")))
    page.wait_for_timeout(200)
    assert page.locator("img[src=x]").count() == 0
    assert NAME in page.inner_text("#pictures") and "<img src=x" in page.inner_text(".row")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_one_way(serve: Callable[..., Server], open_page: Open, tmp_path: Path, scheme: str) -> None:
    """Whatever the length of labels, names and layers."""
    model = ImageModel(LongNames(), small_model().preprocessing, ("a label of so many words " * 9,) * CLASSES).eval()
    page = open_page(serve(model).url, width=360, height=700, color_scheme=scheme).page
    page.wait_for_selector(".method")
    choose(page, CHEAP)
    bring(page, tmp_path, 0, 1)
    done(page, 4)
    assert page.locator("select[name=layer] option").nth(1).inner_text().startswith("network.features_features_")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_by_keyboard_alone(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 0)
    done(page)
    assert page.evaluate(UNNAMED) == []
    reached = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")
        )
    assert {
        "files",
        "demo",
        "explain",
        "class",
        "target",
        "baseline",
        "layer",
        "arithmetic",
        "shift",
        "tests",
        "gradient",
        "CANVAS",
    } <= reached


def test_each_pictures_prediction_stands_beside_the_brightness(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 0, 1)
    done(page, 4)
    again(page, lambda: page.locator("input[name=shift]").fill("0.3"))
    said = page.locator("#prediction p").all_inner_texts()
    assert [each.split(": ")[0] for each in said] == [NAME, "1.png"]
    assert all("the model now says" in each and "without the change" in each for each in said)
    assert page.locator("input[name=shift]").get_attribute("aria-valuetext") == "+0.30"


def test_maps_of_a_row_are_told_apart_when_taken(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 1, 2)
    done(page, 4)
    taken = set()
    for link in page.locator("figure[data-method=gradient] .links a").all():
        with page.expect_download() as got:
            link.click()
        taken.add(got.value.suggested_filename)
    assert len(taken) == 2 and all(each.endswith("gradient.safetensors") for each in taken)


def test_the_page_stays_where_it_is_while_maps_are_made_again(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 0, 1)
    done(page, 4)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight - 1200)")
    before = page.evaluate("window.scrollY")
    assert before > 100
    WORK.pause = 0.05
    page.locator("input[name=shift]").evaluate("(e) => { e.value = 0.2; e.dispatchEvent(new Event('input')); }")
    until(page, lambda: page.inner_text("#status").startswith("gradient"))
    assert page.evaluate("window.scrollY") == before


def test_methods_take_no_more_height_than_they_need(page: Any) -> None:
    """Open settings of one method push down what stands below it, not what stands beside it."""
    boxes = [each.bounding_box() for each in page.locator(".method").all()]
    tops = {}
    for box in boxes:
        tops.setdefault(round(box["x"]), []).append((box["y"], box["height"]))
    assert len(tops) >= 3
    for column in tops.values():
        for (top, height), (below, _) in pairwise(column):
            assert abs(top + height - below) < 2
