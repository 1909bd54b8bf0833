"""The page when something is wrong: each trouble is words where the reader looks, and the page goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limelight.models.catalogue import ImageModel

from .conftest import WORK, Server, Watched, png, small_model, until
from .test_page import begin, bring, choose, done

Open = Callable[..., Watched]
TURNED = "\u202egnp.exe"


@pytest.fixture
def watched(server: Server, open_page: Open) -> Any:
    """The page with one cheap method ticked; what Chromium itself logs of an answer's status is no complaint."""
    watched = open_page(server.url)
    begin(watched.page)
    choose(watched.page, ("gradient",))
    yield watched
    watched.complaints[:] = [each for each in watched.complaints if "Failed to load resource" not in each]


def write(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def status(page: Any) -> str:
    return str(page.inner_text("#status"))


def test_what_is_refused_stays_named_beside_what_is_shown(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    files = [write(tmp_path, f"{seed}.png", png(seed)) for seed in range(4)]
    files[1] = write(tmp_path, "broken.png", b"no picture")
    files.append(write(tmp_path, "fifth.png", png(5)))
    page.set_input_files("#files", files)
    until(page, lambda: page.locator("#refusals li").count() == 2)
    done(page, 3)
    refusals = page.locator("#refusals li").all_inner_texts()
    assert [each.split(":")[0] for each in refusals] == ["fifth.png", "broken.png"]
    assert "4 pictures at once" in refusals[0] and "not a picture" in refusals[1]
    assert page.locator("#pictures li").count() == 3
    page.get_by_role("button", name="remove 0.png").click()
    assert page.locator("#pictures li").count() == 2


def test_no_method_and_settings_that_are_no_numbers(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    bring(page, tmp_path, 0)
    done(page, 1)
    choose(page, ())
    page.click("#explain")
    assert status(page) == "select a method"
    choose(page, ("smooth-grad",))
    samples = page.locator(".method:has(input[name=smooth-grad]) input[name=samples]")
    samples.fill("2.5")
    page.click("#methods > summary")  # closed: it opens again to show what is wrong
    rows = WORK.rows
    page.click("#explain")
    assert samples.evaluate("(input) => document.activeElement === input && input.checkVisibility()")
    page.wait_for_timeout(300)
    assert WORK.rows == rows
    choose(page, ("gradient",))  # what is hidden need not be right
    page.click("#explain")
    done(page, 1)


def test_what_the_library_refuses_is_words(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    choose(page, ("occlusion",))
    window = page.locator(".method:has(.tick input[name=occlusion]) input[name=window]")
    window.fill("nonsense")
    bring(page, tmp_path, 0)
    until(page, lambda: "nonsense" in status(page))
    assert "refused" in page.get_attribute("#status", "class")
    window.fill("16")
    page.click("#explain")
    done(page, 1)
    assert page.get_attribute("#status", "class") == ""


def test_a_method_that_fails_is_counted_and_keeps_its_place(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    choose(page, ("gradient", "pattern-net"))
    bring(page, tmp_path, 0)
    until(page, lambda: status(page).startswith("done: 1 maps, 1 failed"))
    assert "patterns" in page.inner_text("[data-failed=pattern-net]")


@pytest.mark.parametrize(
    ("words", "answer"),
    [("class", "5 classes fit"), ("zebra", "no class fits"), ("17", "no class fits"), ("number 4", None), ("3", None)],
)
def test_the_class_search(watched: Watched, tmp_path: Path, words: str, answer: str | None) -> None:
    page = watched.page
    bring(page, tmp_path, 0)
    done(page, 1)
    page.fill("input[name=class]", words)
    page.keyboard.press("Tab")
    if answer:
        assert answer in status(page) and page.locator(".offered [aria-pressed=true]").count() == 1  # the first still
    else:
        assert words.removeprefix("number ") in page.inner_text(".offered [aria-pressed=true]")


def test_a_server_that_goes_away(serve: Callable[..., Server], open_page: Open, tmp_path: Path) -> None:
    server = serve()
    watched = open_page(server.url)
    page = watched.page
    begin(page)
    page.route("**/api/explain", lambda route: route.abort())
    choose(page, ("gradient",))
    bring(page, tmp_path, 0)
    until(page, lambda: "is limelight serve still running?" in status(page))
    page.unroute("**/api/explain")
    broken = 'event: queued\ndata: {"before": 0}\n\nevent: progr'
    page.route("**/api/explain", lambda route: route.fulfill(body=broken, content_type="text/event-stream"))
    page.click("#explain")
    until(page, lambda: "is limelight serve still running?" in status(page))
    assert page.is_disabled("#cancel") and page.is_hidden("#progress")
    page.unroute("**/api/explain")
    page.click("#explain")
    done(page, 1)
    watched.complaints[:] = [each for each in watched.complaints if "Failed to load resource" not in each]


def test_a_busy_server_is_asked_again(serve: Callable[..., Server], open_page: Open, tmp_path: Path) -> None:
    server = serve(workers=1, waiting=0)
    pages = [open_page(server.url) for _ in range(2)]
    for watched in pages:
        begin(watched.page)
        choose(watched.page, ("smooth-grad",))
    first, second = (each.page for each in pages)
    WORK.pause = 0.03
    bring(first, tmp_path, 0)
    until(first, lambda: "model evaluations" in status(first))
    bring(second, tmp_path, 1)
    until(second, lambda: "the server is busy" in status(second))
    WORK.pause = 0.0
    done(first, 1)
    done(second, 1)
    for watched in pages:
        watched.complaints[:] = [each for each in watched.complaints if "status of 429" not in each]


def test_words_that_turn_directions_stay_in_their_place(
    serve: Callable[..., Server], open_page: Open, tmp_path: Path
) -> None:
    model: ImageModel = small_model()
    model.labels = tuple(f"{TURNED} {k}" for k in range(len(model.labels)))
    page = open_page(serve(model).url).page
    begin(page)
    choose(page, ("gradient",))
    page.set_input_files("#files", write(tmp_path, f"{TURNED}.png", png(0)))
    done(page, 1)
    text = page.evaluate(
        "document.body.textContent + [...document.querySelectorAll('[aria-label]')]"
        ".map((each) => each.getAttribute('aria-label')).join()"
    )
    assert "\u202e" not in text and "\ufffdgnp.exe" in text
