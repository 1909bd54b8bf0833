"""The live page from end to end in a browser: bring a picture, watch the panel fill, change everything, take it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load

import limelight as ll
from limelight.methods.families import FAMILIES, family_of
from limelight.models.catalogue import ImageModel
from limelight.server.forms import method_forms
from limelight.server.presets import PRESETS
from limelight.show.explained import DEFAULT_METHODS

from .conftest import CLASSES, UNNAMED, WORK, Server, Small, Watched, png, rows_at_rest, small_model, until

Open = Callable[..., Watched]
NAME = "<img src=x onerror=alert(3)>.png"
CHEAP = ("gradient", "grad-cam")


@pytest.fixture
def page(server: Server, open_page: Open) -> Any:
    """The page with two cheap methods ticked."""
    page = open_page(server.url).page
    begin(page)
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


def begin(page: Any) -> None:
    """Wait for the form, and open its folds, which hide what is in them from clicks and keys."""
    page.wait_for_selector(".method", state="attached")
    page.evaluate("document.querySelectorAll('form details').forEach((each) => (each.open = true))")


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
    """Change something and wait for the answer that it brings, with maps of its own."""
    # Marked, since the answer before may still say that it is done.
    page.evaluate("document.querySelectorAll('figure').forEach((each) => each.dataset.before = '')")
    page.evaluate("document.getElementById('status').textContent = ''")
    change()
    until(page, lambda: page.locator("figure[data-before]").count() == 0)
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
    until(page, lambda: limit(page) == pytest.approx(own_limit(top, shift=0.3), rel=1e-5))
    assert "without the change" in page.inner_text("#prediction") and page.inner_text("#prediction") != first
    again(page, lambda: page.locator("input[name=shift]").fill("0"))

    # another class, from the first five and by search
    second = page.locator(".offered button").nth(1)
    again(page, second.click)
    other = int(own().outputs[0].argsort(descending=True)[1])
    until(page, lambda: limit(page) == pytest.approx(own_limit(other), rel=1e-5))
    again(
        page,
        lambda: (page.fill("input[name=class]", "number 3"), page.keyboard.press("Enter"), page.keyboard.press("Tab")),
    )
    assert page.locator("#viewer section").count() == 2, "a row a class"

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
    fields = page.locator(".method:has(input[name=integrated-gradients])")
    fields.locator("select[name=quadrature]").select_option(label="midpoint")
    fields.locator(".named input[name=n]").fill("4")
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
        until(page, lambda expected=expected: limit(page, "integrated-gradients") == pytest.approx(expected, rel=1e-4))
    assert "class number 3 (3) rather than class number 1 (1)" in page.inner_text("#viewer .said")
    assert page.locator(".offered [aria-pressed=true]").count() == 0, "no class is explained"
    layer = page.locator("#question select[name=layer] option").nth(1).get_attribute("value")
    again(page, lambda: page.select_option("#question select[name=layer]", layer))
    assert f"layer {layer}" in page.inner_text("figure[data-method=grad-cam]")


def test_every_target_and_baseline_is_offered(server: Server, open_page: Open, tmp_path: Path) -> None:
    watched = open_page(server.url)
    page = watched.page
    begin(page)
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
    assert page.locator("#viewer section").count() == 3
    found = [float(each.get_attribute("data-limit")) for each in page.locator("figure[data-method=gradient]").all()]
    assert found == pytest.approx([own_limit(seed=seed) for seed in (0, 1, 2)], rel=1e-5)


def test_cancel_stops_the_model_and_the_page_lives(page: Any, tmp_path: Path) -> None:
    choose(page, ("smooth-grad",))
    page.locator(".method:has(input[name=smooth-grad]) input[name=samples]").fill("1500")
    WORK.pause, before = 0.05, WORK.rows
    bring(page, tmp_path, 0)
    until(page, lambda: "model evaluations" in page.inner_text("#status"))
    page.click("#cancel")
    until(page, lambda: page.inner_text("#status") == "cancelled")
    assert rows_at_rest() - before < 1500
    WORK.pause = 0.0
    choose(page, CHEAP)
    page.click("#explain")
    done(page)


def test_the_panel_fills_method_by_method(page: Any, tmp_path: Path) -> None:
    until(page, lambda: page.inner_text("#status").startswith("done"))  # with the demonstration
    choose(page, ("gradient", "smooth-grad"))
    WORK.gate.clear()
    WORK.held = 2  # the gradient and the question itself are passes of one row
    page.evaluate("document.querySelectorAll('figure[data-method]').forEach((each) => each.remove())")
    bring(page, tmp_path, 0)
    page.wait_for_selector("figure[data-method=gradient][data-drawn]")
    assert page.locator("figure[data-method=smooth-grad]").count() == 0
    WORK.gate.set()
    until(page, lambda: page.locator("figure[data-method=smooth-grad][data-drawn]").count() == 1, 30)


def test_refusals_are_words_on_the_page(server: Server, open_page: Open, tmp_path: Path) -> None:
    watched = open_page(server.url)
    path = tmp_path / "a.png"
    path.write_bytes(b"<script>alert(1)</script>")
    begin(watched.page)
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
    assert NAME in page.inner_text("#pictures") and "<img src=x" in page.inner_text("#viewer .said")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_one_way(serve: Callable[..., Server], open_page: Open, tmp_path: Path, scheme: str) -> None:
    """Whatever the length of labels, names and layers."""
    model = ImageModel(LongNames(), small_model().preprocessing, ("a label of so many words " * 9,) * CLASSES).eval()
    page = open_page(serve(model).url, width=360, height=700, color_scheme=scheme).page
    begin(page)
    choose(page, CHEAP)
    bring(page, tmp_path, 0, 1)
    done(page, 4)
    page.click("#settings")
    assert page.locator("#ask").is_visible()
    assert (
        page.locator("#question select[name=layer] option").nth(1).inner_text().startswith("network.features_features_")
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_by_keyboard_alone(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 0)
    done(page)
    assert page.evaluate(UNNAMED) == []
    reached = set()
    for _ in range(220):
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
        "preset",
        "find",
        "gradient",
        "SUMMARY",
        "CANVAS",
    } <= reached


def test_each_pictures_prediction_stands_beside_the_brightness(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 0, 1)
    done(page, 4)
    again(page, lambda: page.locator("input[name=shift]").fill("0.3"))
    said = page.locator("#prediction p")
    until(page, lambda: sum("the model now says" in each for each in said.all_inner_texts()) == 2)
    assert [each.split(": ")[0] for each in said.all_inner_texts()] == [NAME, "1.png"]
    assert all("without the change" in each for each in said.all_inner_texts())
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


def test_the_page_opens_on_results(server: Server, open_page: Open) -> None:
    """The demonstration picture by the first preset, without a click; a picture takes its place at once."""
    pytest.importorskip("skimage", reason="the extra 'demo' is not installed")
    page = open_page(server.url).page
    done(page, len(PRESETS[0].methods))
    assert page.locator("input[name=preset]").first.is_checked()
    assert [each.get_attribute("data-method") for each in page.locator("figure[data-drawn]").all()] == [
        each.kebab() for each in PRESETS[0].methods
    ]
    assert page.locator("#viewer .first").inner_text().startswith("The model says ")
    assert page.locator(".offered [aria-pressed=true]").count() == 1, "the class that is explained is pressed"
    rail, results = page.locator("#ask").bounding_box(), page.locator("#viewer .frame").first.bounding_box()
    assert rail["x"] + rail["width"] <= results["x"] and results["y"] < 200


def test_presets_families_and_search(page: Any) -> None:
    page.locator("input[name=preset]").nth(1).evaluate("(radio) => radio.click()")
    ticked = page.locator(".method .tick input:checked")
    assert {each.get_attribute("name") for each in ticked.all()} == {each.kebab() for each in DEFAULT_METHODS}
    families = page.locator(".family")
    assert families.locator("h4").all_inner_texts() == [
        family for family in FAMILIES if family in {family_of(kind) for kind in ll.METHODS}
    ]
    assert all(each.inner_text() for each in page.locator(".method > small, .method .cost").all())
    page.fill("input[name=find]", "shap game")
    shown = [each.get_attribute("name") for each in page.locator(".method:visible .tick input").all()]
    assert "kernel-shap" in shown and "grad-cam" not in shown
    page.fill("input[name=find]", "zebra")
    assert page.locator(".method:visible").count() == 0 and page.get_by_text("no method fits").is_visible()


def test_no_setting_is_python(page: Any, tmp_path: Path) -> None:
    """A method inside a method, and numbers without brackets."""
    kinds = {each["kind"] for form in method_forms() for each in form["fields"]}
    assert kinds == {"switch", "choice", "number", "numbers", "layer", "named"}
    choose(page, ("smooth-grad", "occlusion"))
    smooth, occlusion = (
        page.locator(f".method:has(.tick input[name={each}])") for each in ("smooth-grad", "occlusion")
    )
    smooth.locator("select[name=inner]").select_option(label="integrated-gradients")
    smooth.locator(".inner input[name=tolerance]").fill("0.5")
    smooth.locator("input[name=samples]").fill("2")
    occlusion.locator("input[name=window]").fill("8, 16")
    bring(page, tmp_path, 0)
    done(page)
    x = small_model().preprocess(ll.open_image(png(0)))
    for method in (
        ll.SmoothGrad(ll.IntegratedGradients(tolerance=0.5), samples=2),
        ll.Occlusion(window=(8, 16)),
    ):
        expected = ll.show.scale_of(ll.explain(small_model(), x, method).viewed()[0]).limit
        assert limit(page, method.kebab()) == pytest.approx(expected, rel=1e-4)


def test_a_map_opens_large_and_is_compared_by_a_swipe(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 0)
    done(page)
    page.get_by_role("button", name="enlarge the map of gradient").click()
    dialog = page.locator("dialog[open]")
    assert dialog.locator("figure[data-method=gradient] canvas").first.bounding_box()["width"] > 500
    assert dialog.locator(".card").get_attribute("open") is not None
    dialog.locator("canvas").first.hover(position={"x": 100, "y": 100})
    assert dialog.locator(".readout").first.inner_text().startswith("x ")
    dialog.locator("select[name=compare]").select_option(label="grad-cam")
    over = dialog.locator("canvas.over")
    own = page.locator("figure[data-method=grad-cam] canvas").first
    assert over.evaluate("(each) => each.toDataURL()") == own.evaluate("(each) => each.toDataURL()")
    dialog.locator("input[name=swipe]").fill("25")
    assert over.evaluate("(each) => each.style.clipPath") == "inset(0px 0px 0px 25%)"
    assert page.evaluate(UNNAMED) == []
    page.keyboard.press("Escape")
    until(page, lambda: page.locator("dialog").count() == 0)
    assert page.locator("canvas.over").count() == 0
    assert page.locator(".panel figure[data-method=gradient]").count() == 1, "it is back in its place"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "enlarge the map of gradient"


def test_tests_that_were_left_out_run_on_demand(page: Any, tmp_path: Path) -> None:
    page.locator("input[name=tests]").uncheck()
    bring(page, tmp_path, 0)
    done(page)
    card = page.locator("figure[data-method=gradient] .card")
    assert card.locator("summary").inner_text() == "not tested"
    card.locator("summary").click()
    card.get_by_role("button", name="Test this map").click()
    until(page, lambda: "tested gradient" in page.inner_text("#status"))
    assert "tests; " in card.locator("summary").inner_text() and "limit" in card.inner_text()
    assert "of 2 maps" in page.inner_text("#viewer .said"), "the summary knows of it"


def test_several_pictures_side_by_side(page: Any, tmp_path: Path) -> None:
    bring(page, tmp_path, 0, 1)
    done(page, 4)
    page.evaluate("document.querySelector('.controls').open = true")
    page.select_option("select[name=layout]", "side")
    for method in CHEAP:
        one, two = (each.bounding_box() for each in page.locator(f"figure[data-method={method}]").all())
        assert one["y"] == two["y"] and one["x"] + one["width"] <= two["x"]


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_everything_fits(server: Server, open_page: Open, tmp_path: Path, width: int, scheme: str) -> None:
    page = open_page(server.url, width=width, height=900, color_scheme=scheme).page
    begin(page)
    choose(page, CHEAP)
    bring(page, tmp_path, 0)
    done(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(UNNAMED) == []
    if width == 390:
        assert not page.locator("#ask").is_visible()
        page.click("#settings")
        assert page.locator("#ask").is_visible() and page.evaluate("document.activeElement.id") == "files"
        page.keyboard.press("Escape")
        assert not page.locator("#ask").is_visible() and page.evaluate("document.activeElement.id") == "settings"
        page.click("#settings")
        page.click("#explain")
        done(page)
        assert not page.locator("#ask").is_visible(), "the results are in sight again"
    page.get_by_role("button", name="enlarge the map of gradient").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("dialog[open]").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
