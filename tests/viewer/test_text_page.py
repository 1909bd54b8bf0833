"""The page of a model of texts: its questions and refusals, and in a browser what is written, shown and tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load

import limelight as ll

from ..text_models import bert_classifier, bert_embedding, gpt2, t5
from .conftest import HOSTILE, UNNAMED, Server, Watched, png, until

pytest.importorskip("fastapi", reason="the page's extra 'app' is not installed")
from limelight.server.work import UNTESTED

Open = Callable[..., Watched]
TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def texts(serve: Callable[..., Server]) -> Server:
    """A classifier of texts whose labels attack the page."""
    plain = bert_classifier()
    model = ll.TextModel(plain.module, plain.tokenizer, labels=("bad", HOSTILE, "neither"), name="small").eval()
    return serve(model, rows=4000, seconds=60, waiting=4, tokens=24)


def ask(server: Server, text: str = TEXT, methods: tuple[str, ...] = ("gradient",), **more: Any) -> Any:
    asked = [{"name": each, "fields": {}} for each in methods]
    return server.explain(text=text, methods=asked, **{"tests": False, **more})


def refusal(server: Server, **question: Any) -> str:
    ((name, data),) = ask(server, **question)
    assert name == "refused" and data["status"] == 422
    return str(data["detail"])


def test_maps_are_those_of_explain(texts: Server) -> None:
    events = ask(texts, methods=("gradient", "occlusion"), classes=[0])
    maps = [data["map"] for name, data in events if name == "map"]
    assert [each["title"] for each in maps] == ["gradient", "occlusion"]
    for found in maps:
        _, _, body = texts.ask("GET", found["url"])
        own = ll.explain(bert_classifier(), TEXT, found["title"], target=0)
        assert torch.equal(load(body)["values"], own.values)
    (first,) = [data for name, data in events if name == "prediction"]
    outputs = ll.explain(bert_classifier(), TEXT, "gradient").outputs[0]
    assert [each["class"] for each in first["top"]] == outputs.argsort(descending=True).tolist()
    assert first["shown"]["layout"]["names"] == ["[CLS]", *TEXT.split(), "[SEP]"]
    assert events[-1][0] == "done"


def test_without_a_target_the_first_class_is_explained(texts: Server) -> None:
    events = ask(texts, methods=("gradient",))
    first = int(ll.explain(bert_classifier(), TEXT, "gradient").target[0])
    (begun,) = [data for name, data in events if name == "begun"]
    assert begun["target"].startswith(texts.app.state.service.model.label(first))


def test_tests_are_run_on_demand(texts: Server) -> None:
    events = ask(texts, methods=("integrated-gradients",))
    (key,) = [data["map"]["id"] for name, data in events if name == "map"]
    (card,) = [data for name, data in events if name == "card"]
    assert card["more"] and not card["card"]["sections"]
    tested = texts.explain("/api/tests", map=key, row=[key])
    (card,) = [data for name, data in tested if name == "card"]
    entries = [line for each in card["card"]["sections"] for line in each["entries"]]
    assert {"completeness", "randomisation"} <= {line[1] for line in entries}
    assert [name for name, _ in tested][-2:] == ["summary", "done"]


def test_a_language_model_is_asked_about_its_tokens(serve: Callable[..., Server]) -> None:
    server = serve(gpt2(), rows=4000, seconds=60)
    form = json.loads(server.ask("GET", "/api/form")[2])
    assert form["labels"] == [] and form["text"]["classes"]
    events = ask(server, text="the quick", target="continuation(' brown fox', each=True)")
    (found,) = [data["map"] for name, data in events if name == "map"]
    tokens = len(gpt2().continued_by("the quick", " brown fox"))
    assert found["shape"][0] == tokens > 1
    (shown,) = [data["shown"] for name, data in events if name == "prediction"]
    assert len(shown["layout"]["targets"]) == tokens
    (summed,) = [data["summary"] for name, data in events if name == "summary"]
    whole = ll.explain(gpt2(), "the quick", "gradient", target=ll.Continuation(" brown fox"))
    assert f"score {float(whole.score[0]):.4g}. It is the sum of {tokens} scores" in summed["explained"]
    assert events[-1][0] == "done"
    # Two maps, tested: what is said of one row of a map is not said of them all.
    events = ask(server, methods=("gradient", "occlusion"), target="continuation(' brown fox', each=True)", tests=True)
    (summed,) = [data["summary"] for name, data in events if name == "summary"]
    assert summed["agreed"] == "" and summed["region"] is None and events[-1][0] == "done"
    cards = [data for name, data in events if name == "card"]
    assert [(each["card"]["verdict"], each["more"]) for each in cards] == [(UNTESTED, False)] * 2
    ids = [data["map"]["id"] for name, data in events if name == "map"]
    assert server.explain("/api/tests", map=ids[0], row=ids)[-1] == ("stopped", {"message": UNTESTED})
    assert len([data for name, data in ask(server, classes=[3, 4]) if name == "map"]) == 2
    assert "place=0" in refusal(serve(t5(), rows=4000, seconds=60), target="continuation('fox', each=True)")


def test_an_embedding_is_compared_with_a_text(serve: Callable[..., Server]) -> None:
    server = serve(bert_embedding(), rows=4000, seconds=60)
    assert "similarity('a text')" in refusal(server)
    events = ask(server, target="similarity('the quick fox')")
    assert [data["top"] for name, data in events if name == "prediction"] == [[]]
    assert len([name for name, _ in events if name == "map"]) == 1
    assert "reads none" not in refusal(server, target="similarity('weights.pt')")


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"text": " \n"}, "text: it is empty"),
        ({"text": "x" * 20_001}, "text: String should have at most 20000 characters"),
        ({"text": "cat " * 23}, "text: 25 tokens; the page explains up to 24"),
        ({"text": "cat " * 40}, "42 tokens, and small reads 32"),
        ({"methods": ("kernel-shap",) * 16, "classes": [0, 1, 2]}, "model evaluations; one request may use 4,000"),
        ({"methods": ("xrai",)}, "xrai: it explains no texts"),
        ({"methods": ("pattern-net",)}, "pattern-net: it explains no texts"),
        ({"target": "no such class"}, "no class is called"),
        ({"target": "continuation(none, tokens=100)"}, "continuation.tokens: 100 makes 1e+09 numbers at once"),
        ({"target": "similarity('vectors.npy')"}, "vectors.npy"),
        ({"baseline": "token('nowhere.png')"}, ""),
        ({"view": "signed(bands=2)"}, "view"),
        ({"shift": 0.1}, "shift: Extra inputs are not permitted"),
        ({"pictures": ["a"]}, "pictures: Extra inputs are not permitted"),
        ({"layer": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(texts: Server, question: dict[str, Any], said: str) -> None:
    if question.get("baseline"):  # what only the vocabulary decides is said where the map would be
        events = ask(texts, **question, methods=("occlusion",))
        assert any("nowhere.png" in data["message"] for name, data in events if name == "failed")
    else:
        assert said in refusal(texts, **question)
    status, _, _ = texts.ask("GET", "/api/form")
    assert status == 200


def test_a_setting_that_does_not_fit_a_text_is_refused(texts: Server) -> None:
    for fields in ({"stride": "(1, 1, 1)"}, {"window": "(1, 1)", "stride": "2"}):
        ((name, data),) = texts.explain(text=TEXT, methods=[{"name": "occlusion", "fields": fields}])
        assert name == "refused" and data["status"] == 422 and "Occlusion." in data["detail"]


def test_pictures_are_refused_plainly(texts: Server) -> None:
    for path, body in (("/api/pictures", png()), ("/api/demo", b"")):
        status, _, words = texts.ask("POST", path, body, {"content-type": "image/png"})
        assert status == 415 and "explains texts and takes no files" in json.loads(words)["detail"]


def test_the_form_offers_what_fits_texts(texts: Server) -> None:
    form = json.loads(texts.ask("GET", "/api/form")[2])
    names = {each["name"] for each in form["methods"]}
    assert {"attn-lrp", "kernel-shap", "lime"} <= names and not {"xrai", "pattern-net"} & names
    fields = next(each["fields"] for each in form["methods"] if each["name"] == "kernel-shap")
    players = next(each for each in fields if each["name"] == "players")
    assert [each["label"] for each in players["options"]] == ["tokens", "words", "sentences"]
    assert {each["text"] for each in form["baselines"]} == {"token", "pad", "mean-token", "cut", "wrong-words"}
    for preset in form["presets"]:
        assert set(preset["methods"]) <= names


# In a browser


def opened(open_page: Open, server: Server, **options: Any) -> Any:
    page = open_page(server.url, **options).page
    done(page)
    return page


def done(page: Any, maps: int = 2) -> None:
    until(page, lambda: page.inner_text("#status").startswith("done"))
    until(page, lambda: page.locator("figure[data-drawn]").count() == maps)


def write(page: Any, text: str, press: Callable[[], Any]) -> None:
    page.evaluate("document.getElementById('status').textContent = ''")
    page.fill("textarea[name=text]", text)
    press()


def test_the_page_opens_on_a_text_box_and_explains_what_is_written(open_page: Open, texts: Server) -> None:
    page = opened(open_page, texts)
    assert page.locator("#files, #brightness:visible").count() == 0 and page.evaluate(UNNAMED) == []
    hostile = f"the cat {HOSTILE}"[:45]
    write(page, hostile, lambda: page.click("#explain"))
    done(page)
    letters = page.locator("figure[data-method=gradient] .letters").text_content()
    assert letters == f"[CLS]{hostile}[SEP]"
    assert page.locator("img[src='x']").count() == 0
    assert HOSTILE[:20] in page.locator("#classes").text_content()
    page.locator("figure[data-method=gradient] [data-piece='1']").hover()
    assert page.inner_text("figure[data-method=gradient] .readout").startswith("the: ")
    write(page, TEXT, lambda: page.press("textarea[name=text]", "Control+Enter"))
    done(page)
    assert page.locator("figure[data-method=gradient] .letters").text_content() == f"[CLS]{TEXT}[SEP]"
    # another class, and an empty box
    page.evaluate("document.getElementById('status').textContent = ''")
    page.locator(".offered button").nth(1).click()
    done(page)
    write(page, "  ", lambda: None)
    assert page.is_disabled("#explain")


def test_refusals_are_read_on_the_page(open_page: Open, texts: Server) -> None:
    watched = open_page(texts.url)
    page = watched.page
    done(page)
    write(page, "cat " * 23, lambda: page.click("#explain"))
    until(page, lambda: "explains up to 24" in page.inner_text("#status"))
    page.fill("textarea[name=text]", "x" * 20_001)
    assert page.evaluate("document.querySelector('textarea').validationMessage").startswith("20001 characters")
    until(page, lambda: any("422" in each for each in watched.complaints))  # what the browser itself logs
    watched.complaints[:] = [each for each in watched.complaints if "422" not in each]


@pytest.mark.parametrize("width", [390, 1300])
def test_no_page_scrolls_sideways(open_page: Open, texts: Server, width: int) -> None:
    page = opened(open_page, texts, width=width)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
