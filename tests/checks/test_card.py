"""The trust card, the quick tests and the command that prints them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import limelight as ll
from limelight.checks.base import Measured
from limelight.cli.main import app
from limelight.evaluation.budget import LEAST, price, quick_checks

from ..networks import conv_net, pictures
from ..test_cli import MODEL

FEW = (ll.Completeness(), ll.Determinism(), ll.InputShift(), ll.Deletion(steps=4), ll.Gini())


def card(method: str = "integrated-gradients") -> ll.TrustCard:
    return ll.trust_card(conv_net(), pictures(2), method, FEW, target=0)


def test_a_card_says_what_passed_what_failed_and_what_it_means() -> None:
    found = card()
    assert found.failed == ("input-shift",) and found.headline == "2 of 3 hard tests passed; failed: input-shift"
    text = found.to_text()
    for words in ("pass", "FAIL", "input-shift", "controls: random-map", "sobel-edges", "where zero lies"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100
    assert set(found.controls) == {"random-map", "constant-map", "sobel-edges"}
    assert set(found.controls["random-map"]) == {"deletion"}  # evidence only, and only what ranks


def finding(check: ll.Check, value: float, passed: bool | None = None) -> ll.Finding:
    each = None if passed is None else torch.tensor([passed])
    return ll.Finding(check, "m", torch.tensor([value]).double(), passed, each)


def made(
    *findings: ll.Finding, controls: dict[str, float] | None = None, cautions: tuple[str, ...] = ()
) -> ll.TrustCard:
    """A card of these findings, with the same figure of each control for every check that has a better side."""
    a = ll.explain(conv_net(), pictures(1), "gradient", target=0)
    others = {
        name: {each.name: finding(each.check, value) for each in findings if each.check.kind == "faithfulness"}
        for name, value in (controls or {}).items()
    }
    return ll.TrustCard(a, findings, others, cautions)


def test_the_verdict_is_one_line_that_says_what_decided() -> None:
    passed, failed = finding(ll.Determinism(), 0.0, True), finding(ll.Randomisation(), 0.9, False)
    deletion, insertion = finding(ll.Deletion(), 0.2), finding(ll.Insertion(), 0.5)
    for found, word, words in (
        (made(passed, failed), "does not hold up", "hardly changes when the classifier is replaced"),
        (made(passed, deletion, insertion, controls={"edges": 0.3}), "holds up", "by 2 of 2 figures it beats every"),
        # Deletion is better when lower, insertion when higher.
        (made(passed, deletion, insertion, controls={"edges": 0.1, "noise": 0.6}), "in doubt", "than edges, noise"),
        (made(passed, cautions=("noisy", "dark")), "in doubt", "1 hard test passed, but noisy (and 1 more caution)"),
        (made(passed), "holds up", "1 hard test passed"),
        (made(finding(ll.Gini(), 0.5)), "not tested", "no hard test was run"),
        (made(failed, finding(ll.Completeness(), 2.0, False), passed), "does not hold up", "1 more of 3 hard tests"),
    ):
        assert found.verdict.word == word and words in found.verdict.sentence
        assert str(found.verdict) in " ".join(found.to_text().split())
        assert found.to_dict()["verdict"] == {"word": word, "sentence": found.verdict.sentence}


def test_each_figure_has_its_limit_and_a_sentence() -> None:
    found = card()
    by_name = {each["check"]: each for each in found.to_dict()["findings"]}
    assert by_name["completeness"]["limit"] == 0.01 and by_name["determinism"]["limit"] == 1e-9
    assert by_name["input-shift"]["limit"] == 0.05 and by_name["deletion"]["limit"] is None
    assert "where zero lies" in by_name["input-shift"]["sentence"]
    assert by_name["completeness"]["sentence"] == "the values add up to the score"
    least = min(each["deletion"].mean for each in found.controls.values())
    assert by_name["deletion"]["best_control"] == least
    entries = {each.name: each for section in found.sections() for each in section.entries}
    assert entries["completeness"].limit == "at most 0.01" and "(at most 0.01)" in found.to_text()
    assert entries["deletion"].limit.endswith(f"{least:.3g}") and entries["gini"].limit == ""
    for kind in ll.CHECKS:
        if issubclass(kind, ll.checks.HardCheck):
            assert kind.passes != kind.fails and kind().limit(pictures(1)) >= 0


def test_of_several_examples_the_sentence_counts_those_that_fail() -> None:
    """Of 0, .005, .025 and no figure one is above .01; their mean .01 is not."""
    values = torch.tensor([0.0, 0.005, 0.025, torch.nan], dtype=torch.float64)
    measured = Measured(values, values <= 0.01, reasons=("", "", "", "no sum"))
    found = ll.Finding.of(ll.Completeness(), "a", measured, 0, 0, 0.01)
    assert found.sentence == "the values do not add up to the score that they should, in 1 of 3 examples"
    several = made(found)
    assert "in 1 of 3 examples (completeness)" in several.verdict.sentence
    assert several.line == "does not hold up: 0 of 1 tests; misses 2.5% of its sum"
    whole = ll.Finding.of(ll.Completeness(), "a", Measured(values[2:3], values[2:3] <= 0.01), 0, 0, 0.01)
    assert whole.sentence == "the values do not add up to the score that they should"
    good = ll.Finding.of(ll.Completeness(), "a", Measured(values[:2], values[:2] <= 0.01), 0, 0, 0.01)
    assert good.sentence == "the values add up to the score" and made(good).line.endswith("adds up within 0.2%")


def test_a_test_that_cannot_be_run_is_not_a_failure() -> None:
    found = card("gradient")
    assert found.headline == "2 of 2 hard tests passed; 1 could not be run"
    assert "no sum is promised" in found.to_text() and not found.failed


def test_beating_a_control_is_by_the_better_side() -> None:
    found = card()
    deletion = next(each for each in found.findings if each.name == "deletion")
    for name, won in found.beats(deletion).items():
        assert won == (deletion.mean < found.controls[name]["deletion"].mean)  # lower is better
    assert found.beats(next(each for each in found.findings if each.name == "gini")) == {}


def test_a_card_is_written_as_text_json_and_figure(tmp_path: Path) -> None:
    found = card()
    for suffix in (".txt", ".json", ".png"):
        assert found.save(tmp_path / f"card{suffix}").exists()
    assert json.loads((tmp_path / "card.json").read_text())["failed"] == ["input-shift"]
    with Image.open(tmp_path / "card.png") as image:
        assert image.width >= 1000 and image.height > found.attribution.show().height + 100
    with pytest.raises(ValueError, match=r"use \.txt, \.json or \.png"):
        found.save(tmp_path / "card.doc")
    assert "<pre>" in found._repr_html_()


def test_quick_tests_keep_their_budget() -> None:
    from ..test_methods import Counting

    net, x = Counting(conv_net()), pictures(1)
    panel = ll.explain(net, x, ["gradient", "grad-cam", "integrated-gradients(Midpoint(8))"], target=0)
    allowed = max(LEAST, sum(map(price, panel.values())))
    for budget in (None, 0, 7, 1000):
        before = net.rows + net.backward_rows
        found = quick_checks(net, panel, budget)
        spent = net.rows + net.backward_rows - before
        assert spent <= (allowed if budget is None else budget), budget
        left = [each for findings in found.values() for each in findings if each.reason.startswith("left out")]
        assert bool(left) == (budget not in (None, 1000))
    assert all(each.name == "completeness" or each.reason for each in quick_checks(net, panel, 0)["gradient"])
    # The budget of one more map of each: every map is tested by randomisation before any is shifted.
    one = quick_checks(net, panel, sum(map(price, panel.values())) + len(panel) * ll.Randomisation.own_rows)
    done = {name: [each.name for each in findings if not each.reason] for name, findings in one.items()}
    assert all("randomisation" in names and "bias-shift" not in names for names in done.values())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import sys

    (tmp_path / "own_models_for_checks.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_models_for_checks", raising=False)
    torch.manual_seed(0)
    pixels = (255 * torch.rand(40, 60, 3)).to(torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    return tmp_path


OWN = ["--model", "own_models_for_checks:tiny", "--no-progress"]


def test_limelight_check_prints_a_card_for_each_method(here: Path) -> None:
    asked = ["-m", "gradient,input-x-gradient", "-c", "determinism,input-shift,deletion(steps=4)", "-o", "out"]
    result = CliRunner().invoke(app, ["check", "cat.png", *OWN, *asked])
    assert result.exit_code == 0, result.output
    for words in ("Trust card: gradient", "Trust card: input-x-gradient", "hard tests passed", "deletion", "controls:"):
        assert words in result.stdout
    written = {each.name for each in (here / "out").iterdir()}
    cards = {f"cat-{name}{suffix}" for name in ("gradient", "input-x-gradient") for suffix in (".json", ".png")}
    assert written == {"cat.html", "cat-input-shift.png", "cat-deletion.png"} | cards


def test_limelight_check_speaks_json_and_names_what_it_does_not_know(here: Path) -> None:
    result = CliRunner().invoke(app, ["check", "cat.png", *OWN, "-m", "gradient", "-c", "gini", "--json"])
    document = json.loads(result.stdout)
    assert document["pictures"][0]["cards"][0]["findings"][0]["check"] == "gini"
    wrong = CliRunner().invoke(app, ["check", "cat.png", *OWN, "-c", "delete"])
    assert wrong.exit_code == 2 and "did you mean deletion" in wrong.output
    mixed = CliRunner().invoke(app, ["check", "cat.png", "nothing.png", *OWN, "-m", "gradient", "-c", "gini"])
    assert mixed.exit_code in (1, 2, 3)


def test_limelight_explain_adds_the_quick_tests(here: Path) -> None:
    fast = ["explain", "cat.png", *OWN, "-m", "gradient,integrated-gradients(Midpoint(4))"]
    result = CliRunner().invoke(app, fast)
    assert result.exit_code == 0, result.output
    assert (
        "quick tests" in result.stdout and "randomisation" in result.stdout and "left out: about" not in result.stdout
    )
    assert "left out" in CliRunner().invoke(app, [*fast, "--check-rows", "9"]).stdout
    assert "quick tests" not in CliRunner().invoke(app, [*fast, "--check-rows", "0"]).stdout
    document = json.loads(CliRunner().invoke(app, [*fast, "--json", "--check-rows", "1000"]).stdout)
    tests = document["pictures"][0]["explanations"][0]["maps"][0]["tests"]
    assert [each["check"] for each in tests] == ["completeness", "randomisation", "bias-shift", "determinism"]
