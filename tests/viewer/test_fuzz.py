"""Questions made from the page's own description, and numbers that it does not describe: never an error of ours."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from .conftest import Server, png
from .test_server import GRADIENT, JSON, names

pytest.importorskip("fastapi", reason="the page's extra 'app' is not installed")

ENTRIES = (
    "pictures",
    "methods",
    "classes",
    "target",
    "baseline",
    "layer",
    "shift",
    "seed",
    "arithmetic",
    "view",
    "tests",
)
NUMBERS = (
    "1" + "0" * 400,
    "-1" + "0" * 400,
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "-Infinity",
    str(2**63),
    str(2**64),
    "1e308",
    "1e-400",
    "0.1e1000",
)
ODD = (
    *NUMBERS,
    '"' + "x" * 5000 + '"',
    "[" * 500 + "]" * 500,
    "[" + "1," * 5000 + "1]",
    '{"a": ' * 99 + "1" + "}" * 99,
)


def asked(entries: dict[str, str]) -> bytes:
    """Write a body whose entries are texts of JSON, also of numbers that JSON does not have."""
    return ("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in entries.items()) + "}").encode()


@pytest.mark.parametrize("entry", ENTRIES)
def test_odd_values_in_any_entry_are_refused_in_words(server: Server, entry: str) -> None:
    plain = {"pictures": json.dumps([server.upload(png())]), "methods": json.dumps(GRADIENT), "tests": "false"}
    for odd in ODD:
        for text in (odd, f"[{odd}]", f'[{{"name": "gradient", "fields": {odd}}}]'):
            status, _, body = server.ask("POST", "/api/explain", asked(plain | {entry: text}), JSON)
            small = entry in ("shift", "seed") and odd in ("1e-400", "0.1e1000")  # the first is 0
            assert status == 422 or small, (entry, text[:80], status)
            assert status == 200 or json.loads(body)["detail"], text[:80]


def test_odd_numbers_in_any_setting_are_refused_in_words(server: Server) -> None:
    """By every text that a person types: the fields of each method, targets, baselines, views."""
    form = json.loads(server.ask("GET", "/api/form")[2])
    picture = server.upload(png())
    questions: list[dict[str, Any]] = [
        {"methods": [{"name": each["name"], "fields": {field["name"]: number}}]}
        for each in form["methods"]
        for field in each["fields"]
        if field["kind"] in ("number", "numbers")
        for number in NUMBERS[:3]
    ]
    for entry, kinds in (("target", form["targets"]), ("baseline", form["baselines"])):
        questions += [{entry: f"{each['text'].rstrip('(')}({NUMBERS[0]})", "methods": GRADIENT} for each in kinds]
    questions += [{"view": f"signed({name}={NUMBERS[0]})", "methods": GRADIENT} for name in ("smooth", "blocks")]
    for question in questions:
        ((event, data),) = server.explain(pictures=[picture], **question)
        assert event == "refused" and data["status"] == 422 and data["detail"], question


@pytest.mark.long
def test_questions_from_the_description(serve: Callable[..., Server]) -> None:
    """Methods with fields, targets and baselines as described, with numbers of any size: an answer or a refusal."""
    server = serve(rows=200, seconds=2)
    description = json.loads(server.ask("GET", "/api/openapi.json")[2])
    methods = description["components"]["schemas"]["MethodFields"]["anyOf"]
    picture = server.upload(png())
    number = st.one_of(st.integers(), st.floats()).map(str)

    def setting(schema: dict[str, Any]) -> st.SearchStrategy[str]:
        known = [*schema.get("enum", []), *schema.get("examples", []), schema["default"]]
        return st.one_of(st.sampled_from(known), number, st.text(max_size=20))

    def of(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        described = schema["properties"]["fields"]["properties"]
        fields = st.fixed_dictionaries({}, optional={name: setting(each) for name, each in described.items()})
        return st.fixed_dictionaries({"name": st.just(schema["properties"]["name"]["const"]), "fields": fields})

    form = json.loads(server.ask("GET", "/api/form")[2])

    def typed(kinds: list[dict[str, str]]) -> st.SearchStrategy[str]:
        called = st.tuples(st.sampled_from([each["text"].rstrip("(") for each in kinds]), number)
        return st.one_of(
            st.sampled_from([each["usage"] for each in kinds]), called.map(lambda each: "{}({})".format(*each))
        )

    question = st.fixed_dictionaries(
        {"methods": st.lists(st.one_of([of(each) for each in methods]), min_size=1, max_size=2)},
        optional={
            "target": typed(form["targets"]),
            "baseline": typed(form["baselines"]),
            "view": typed(form["views"]),
            "classes": st.lists(st.integers(-1, 10), max_size=2),
            "shift": st.floats(),
        },
    )

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(question)
    def answers(asked: dict[str, Any]) -> None:
        body = json.dumps({"pictures": [picture], "tests": False, **asked})
        status, _, text = server.ask("POST", "/api/explain", body, JSON, 60)
        assert status in (200, 404, 422) and b"limelight failed" not in text, (body, text[-500:])

    answers()


@pytest.mark.long
@pytest.mark.release
def test_memory_is_flat_but_for_what_is_kept(serve: Callable[..., Server]) -> None:
    """After the stores are full, 500 jobs leave no more than rounding: 1 KB each would be 500 KB."""
    server = serve(pictures=4, maps=8)
    methods = [{"name": "smooth-grad", "fields": {"samples": "4"}}, {"name": "grad-cam"}]

    def run(jobs: int) -> int:
        for k in range(jobs):
            events = server.explain(pictures=[server.upload(png(k % 7))], methods=methods, classes=[k % 3], tests=False)
            assert names(events)[-1] == "done"
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    run(20)
    tracemalloc.start()
    try:
        before = run(60)
        grown = run(500) - before
    finally:
        tracemalloc.stop()
    assert grown < 300_000, f"{grown:,} bytes more after 500 jobs"
