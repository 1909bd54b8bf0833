"""A picture that several checks or maps ask for is scored once, and networks to compare with are made once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.checks import Blurred, Fill, Imputer, MeanColour, NoisyLinear
from limelight.checks.case import open_case
from limelight.checks.shared import Shared, contents
from limelight.evaluation.card import card_about
from limelight.evaluation.check import measure
from limelight.model_edits import randomise
from limelight.question.question import question_of
from limelight.question.random_streams import Streams
from limelight.question.targets import Target

from ..networks import conv_net, pictures
from ..test_methods import Counting
from .test_properties import EVERY, masks

UNITS = 64  # of a picture of 8 x 8
BLUR = Blurred()
CURVES: tuple[ll.Check, ...] = (
    ll.SRG((BLUR,), steps=4),
    ll.Insertion(BLUR, steps=4),
    ll.Deletion(BLUR, steps=4),
    ll.PixelFlipping(1, None, BLUR, on="probability"),
    ll.IROF(1, BLUR),
)


def rows_of(found: ll.Finding) -> int:
    return found.forward_rows + found.backward_rows


def asked(found: ll.Finding) -> int:
    return rows_of(found) + found.shared_rows


def test_curves_run_the_pictures_that_they_have_in_common_once() -> None:
    """Of each example: x, everything hidden, three steps from the top and three from the bottom, which are those of
    insertion; deletion has the former. Flipping and IROF hide pixel by pixel from the top, 63 steps between."""
    net, x = Counting(conv_net()), pictures(2)
    a = ll.explain(net, x, "gradient", target=0)
    alone = [ll.check(net, x, a, each, target=0)[0] for each in CURVES]
    assert [rows_of(each) // 2 for each in alone] == [1 + 1 + 3 + 3, 5, 5, UNITS + 1, UNITS + 1]
    assert [each.shared_rows for each in alone] == [0] * 5
    before = net.rows
    together = ll.check(net, x, a, CURVES, target=0)
    assert [rows_of(each) // 2 for each in together] == [8, 0, 0, UNITS + 1 - 5, 0]
    assert [each.shared_rows // 2 for each in together] == [0, 5, 5, 5, UNITS + 1]
    assert net.rows - before == sum(map(rows_of, together)) == 2 * (8 + UNITS - 4)


def test_the_trust_cards_curves() -> None:
    """Of a card's curves, SRG and Insertion share x, the blurred picture and fifteen steps from the bottom."""
    srg, deletion, insertion = ll.SRG(steps=16), ll.Deletion(steps=32), ll.Insertion(steps=32)
    alone = [ll.check(conv_net(), pictures(1), "gradient", each)[0] for each in (srg, deletion, insertion)]
    together = ll.check(conv_net(), pictures(1), "gradient", [srg, deletion, insertion])
    assert [rows_of(each) for each in alone] == [1 + 3 * (1 + 2 * 15), 33, 33]
    assert [rows_of(each) for each in together] == [94, 32, 16]
    assert [each.shared_rows for each in together] == [0, 1, 17]


def test_linear_imputation_is_shared_with_its_noise() -> None:
    """Ten steps of SRG are the nine shares of ROAD, of 100 pixels: noise is numbered by how many are hidden."""
    x = torch.rand(1, 3, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(300, 3)).double()
    shares = tuple(k / 10 + 1e-9 for k in range(1, 10))
    srg, road = ll.check(net, x, "gradient", [ll.SRG((NoisyLinear(),), steps=10), ll.ROAD(shares)], target=0)
    assert (rows_of(srg), rows_of(road), road.shared_rows) == (20, 0, 18)
    other = ll.check(net, x, "gradient", [ll.SRG((NoisyLinear(),), steps=10), ll.ROAD(shares, noise=0.02)], target=0)
    assert rows_of(other[1]) == 18


def test_figures_and_rows_are_those_of_each_check_alone() -> None:
    """To the last bit: with a row a pass, no score depends on what else a pass holds."""
    method = "gradient"
    options: dict[str, Any] = {"target": [0, 1], "mask": masks(2), "rows_per_pass": 1}
    twice = [*EVERY, *reversed(EVERY)]
    together = ll.check(conv_net(), pictures(2), method, twice, **options)
    for first, again in zip(together[: len(EVERY)], reversed(together[len(EVERY) :]), strict=True):
        alone = ll.check(conv_net(), pictures(2), method, first.check, **options)[0]
        for found in (first, again):
            assert same(found, alone) and asked(found) == asked(alone), found.check
        if first.check.maps() == 0 and first.check.kind == "faithfulness":
            assert rows_of(again) == 0, again.check


def same(a: ll.Finding, b: ll.Finding) -> bool:
    """Whether two findings have the same figures to the last bit, and the same reasons and notes."""
    pairs = [(a.value, b.value), *((a.detail[name], b.detail[name]) for name in a.detail)]
    equal = all(torch.equal(x.nan_to_num(-7.0), y.nan_to_num(-7.0)) for x, y in pairs)
    return equal and a.detail.keys() == b.detail.keys() and (a.reasons, a.notes) == (b.reasons, b.notes)


DRAWN = (ll.Infidelity(samples=6), ll.Infidelity("gaussian", samples=6), ll.SensitivityN((0.1, 0.5), samples=4))


def test_random_changes_are_the_same_for_all_methods_and_controls() -> None:
    x, methods = pictures(2), ["gradient", "input-x-gradient"]
    table = ll.evaluate(conv_net(), x, methods, DRAWN, target=0, rows_per_pass=1)
    rows = {name: [rows_of(cell.finding) for cell in cells.values()] for name, cells in table.items()}
    first = rows.pop("gradient")
    assert first[1:] == [12, 16] and 2 < first[0] <= 12  # patches of one pixel, some of them drawn twice
    assert len(rows) == 4 and all(each == [0, 0, 0] for each in rows.values())
    alone = ll.check(conv_net(), x, "input-x-gradient", DRAWN, target=0, rows_per_pass=1)
    assert [rows_of(each) for each in alone] == first
    for cell, each in zip(table["input-x-gradient"].values(), alone, strict=True):
        assert same(cell.finding, each) and cell.finding.shared_rows == rows_of(each)


EDITS = (
    ll.Randomisation(stages=2, draws=2),
    ll.Randomisation(order="independent", stages=2, draws=1),
    *(
        ll.ImplementationInvariance(),
        ll.InputShift(),
        ll.LogitShift(),
        ll.Sensitivity(features=2),
        ll.Dummy(features=3),
    ),
)


def test_changed_networks_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer is drawn once a draw for all maps, whose figures stay as they are alone."""
    drawn: list[str] = []
    draw = randomise._drawn
    monkeypatch.setattr(randomise, "_drawn", lambda *given: [drawn.append(given[2]), draw(*given)][1])
    methods = ["gradient", "grad-cam", "integrated-gradients(4)"]
    options: dict[str, Any] = {"target": [0, 1], "rows_per_pass": 1}
    table = ll.evaluate(conv_net(), pictures(2), methods, EDITS, **options)
    assert drawn and len(set(drawn)) == len(drawn)
    once = len(drawn)
    for method in methods:
        drawn.clear()
        alone = ll.check(conv_net(), pictures(2), method, EDITS, **options)
        assert len(drawn) >= once  # one that is used in both orders is drawn for either
        cells = [cell.finding for cell in table[method.partition("(")[0]].values()]
        for shared, each in zip(cells, alone, strict=True):
            assert same(shared, each), (method, each.check)
            assert asked(shared) == asked(each), (method, each.check)


def test_a_map_that_fails_leaves_the_random_networks_to_the_next() -> None:
    class Failing(ll.Gradient):
        def run(self, score: Any, *given: Any) -> Any:
            if failing:
                raise ValueError("not today")
            return super().run(score, *given)

    failing: list[int] = []
    check, x = ll.Randomisation(stages=2, draws=1), pictures(1)
    with question_of(conv_net(), x, {"target": 0}) as question, Shared(several=True) as shared:
        found = []
        for method in (Failing(), ll.Gradient()):
            a = ll.explain(conv_net(), x, method, target=0)
            failing[:] = [1] * isinstance(method, Failing)
            with open_case(question, a, method, shared=shared) as case:
                found.append(measure(check, case))
    assert "not today" in found[0].reason
    assert same(found[1], ll.check(conv_net(), x, "gradient", check, target=0)[0])


def test_rows_of_an_evaluation_add_up() -> None:
    """What the model ran is what the maps and the findings say that they cost."""
    net, x = Counting(conv_net()), pictures(2)
    checks = [ll.SRG(steps=4), ll.Insertion(steps=4), ll.Infidelity(samples=5), ll.Dummy(features=3), ll.Sensitivity()]
    maps = [ll.explain(net, x, each, target=0) for each in ("gradient", ll.RandomMap(), ll.ConstantMap())]
    maps.append(ll.explain(net, x, ll.SobelEdges(), target=0))
    of_maps, before = sum(a.forward_rows for a in maps), net.rows
    table = ll.evaluate(net, x, "gradient", checks, target=0)
    findings = [cell.finding for cells in table.values() for cell in cells.values()]
    assert net.rows - before == of_maps + sum(each.forward_rows for each in findings)
    assert [each.to_dict()["shared_rows"] for each in findings] == [each.shared_rows for each in findings]


def test_the_controls_of_several_cards_are_scored_once() -> None:
    net, x, checks = conv_net(), pictures(2), (ll.Deletion(steps=4), ll.SRG(steps=4))
    panel = ll.explain(net, x, ["gradient", "input-x-gradient"], target=0, rows_per_pass=1)
    with question_of(net, x, {"rows_per_pass": 1}) as question, Shared(several=True) as shared:
        cards = [card_about(question, each, each.method, checks, None, shared) for each in panel.values()]
    for card, a in zip(cards, panel.values(), strict=True):
        alone = ll.trust_card(net, x, a.method, checks, target=0, rows_per_pass=1)
        for control, found in card.controls.items():
            assert all(same(each, alone.controls[control][name]) for name, each in found.items())
    assert sum(rows_of(each) for found in cards[0].controls.values() for each in found.values()) > 0
    assert sum(rows_of(each) for found in cards[1].controls.values() for each in found.values()) == 0
    assert cards[1].to_dict()["rows"]["shared"] > 0


def test_scores_of_other_questions_are_not_mixed_up() -> None:
    """Equal pictures under other classes, and maps of other seeds, have their own scores."""
    net, x = conv_net(), pictures(1).repeat(2, 1, 1, 1)
    checks = [ll.Deletion(steps=4), ll.Infidelity(samples=4), ll.PixelFlipping(region=4)]
    both = ll.check(net, x, "gradient", checks, target=[0, 1], rows_per_pass=1)
    for i in range(2):
        alone = ll.check(net, x[:1], "gradient", checks, target=i, rows_per_pass=1)
        assert all(torch.equal(b.value[i : i + 1], a.value) for b, a in zip(both, alone, strict=True))
    maps = [ll.explain(net, x, "gradient", target=[0, 1], seed=seed, rows_per_pass=1) for seed in (0, 1)]
    with question_of(net, x, {"rows_per_pass": 1}) as question, Shared(several=True) as shared:
        for a in maps:
            with open_case(question, a, None, shared=shared) as case:
                found = [measure(each, case) for each in checks]
            assert all(same(f, g) for f, g in zip(found, ll.check(net, x, a, checks, rows_per_pass=1), strict=True))


def test_equal_pictures_are_found_however_they_are_asked_for() -> None:
    """A fill of the mean colour is the mean colour, and a constant map's order is the same from both ends."""
    x = pictures(1)
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    found = ll.check(conv_net(), x, "gradient", [ll.Deletion(MeanColour(), 4), ll.Deletion(Fill(mean), 4)], target=0)
    assert [rows_of(each) for each in found] == [5, 0]
    constant = ll.check(conv_net(), x, torch.ones_like(x), ll.SRG((BLUR,), steps=4), target=0)[0]
    assert rows_of(constant) == 5 and float(constant.value) == 0


def test_only_the_examples_that_are_not_known_run() -> None:
    """The curve of a constant map from the bottom is the one from the top; those of the others in its batch are not."""
    x = pictures(3)
    values = torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values[1] = 1.0
    srg = ll.SRG((BLUR,), steps=4)
    found = ll.check(conv_net(), x, values, srg, target=0, rows_per_pass=1)[0]
    assert rows_of(found) == 8 + 5 + 8
    alone = [ll.check(conv_net(), x[[i]], values[[i]], srg, target=0, rows_per_pass=1)[0] for i in range(3)]
    assert found.value.tolist() == [float(each.value) for each in alone]


def test_an_imputer_of_ones_own_shares_with_none() -> None:
    class Checkers(Imputer):
        def prepare(self, x: Tensor, rng: Streams) -> Any:
            return lambda hidden, step: torch.where(hidden, 0.1 * step, x)

    check, other = ll.Deletion(Checkers(), steps=4), ll.Deletion(Checkers(), steps=4, on="probability")
    first, again = ll.check(conv_net(), pictures(2), "gradient", [check, other], target=0)
    assert rows_of(first) == 10 and rows_of(again) == 8 and again.shared_rows == 2  # x alone
    assert torch.equal(first.value, again.value)


def test_a_target_that_cannot_be_hashed_shares_with_none() -> None:
    @dataclass(frozen=True)
    class Weighed(Target):
        weights: list[float]

        def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
            found: Tensor = outputs @ outputs.new_tensor(self.weights)
            return found

    target = Weighed([1.0, 0.0, -1.0, 0.0, 2.0])
    first, again = ll.check(conv_net(), pictures(2), "gradient", [ll.Deletion(steps=4)] * 2, target=target)
    assert rows_of(first) == rows_of(again) == 10 and torch.equal(first.value, again.value)


def test_contents_are_equal_for_equal_values_alone() -> None:
    hidden = torch.rand(4, UNITS) > 0.5
    assert len(set(contents(hidden))) == 4 and contents(hidden) == contents(hidden.clone())
    values = torch.rand(4, 3, 5)
    changed = values.clone()
    changed[2, 1, 3] = torch.nextafter(changed[2, 1, 3], torch.tensor(2.0))
    equal = [a == b for a, b in zip(contents(values), contents(changed), strict=True)]
    assert equal == [True, True, False, True]
    assert contents(values.mT.contiguous().mT) == contents(values)
    assert contents(values.bfloat16()) != contents(values)


def test_a_subset_of_a_case_has_its_own_scores() -> None:
    with question_of(conv_net(), pictures(2), {"target": [0, 1]}) as question:
        a = ll.explain(conv_net(), pictures(2), "gradient", target=[0, 1])
        with open_case(question, a, None) as case:
            part = case.select([1])
            assert part.shared is not case.shared and replace(case, mask=None).shared is case.shared
