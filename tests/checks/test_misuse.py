"""Models, maps and settings at the edges: a check answers rightly, says why it cannot, or refuses."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.checks.base import Measured
from limelight.checks.case import Case
from limelight.checks.maps import pearson
from limelight.evaluation import budget
from limelight.evaluation.budget import quick_checks
from limelight.evaluation.controls import CONTROLS, RandomMap
from limelight.methods import Estimate

from ..networks import Named, conv_net, pictures


def one(model: Any, x: Tensor, method: Any, check: Any, **options: Any) -> ll.Finding:
    return ll.check(model, x, method, check, **options)[0]


def seeded(make: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


class LeftHalf(nn.Module):
    """Looks at the left half alone; wide enough for passes of other sizes to round otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 512, 3, stride=2, padding=1), nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        half = x[..., : x.shape[-1] // 2].contiguous()
        found: Tensor = self.linear(self.convolution(half).relu().mean((2, 3)))
        return found


class TestDummy:
    def test_an_ignored_half_is_seen_in_any_company(self) -> None:
        net = seeded(LeftHalf)
        x = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
        both = one(net, x, RandomMap(), ll.Dummy())
        assert both.passed is False and bool((both.value > 0.1).all())
        for i in range(2):
            alone = one(net, x[i : i + 1], RandomMap(), ll.Dummy())
            assert float(alone.value) == pytest.approx(float(both.value[i]), rel=1e-6)
        assert one(net, x, "gradient", ll.Dummy()).passed is True

    def test_a_full_probability_ignores_nothing(self) -> None:
        net = nn.Sequential(conv_net(), nn.Linear(5, 5).double()).eval()
        with torch.no_grad():
            net[1].weight.copy_(1000 * torch.eye(5))  # type: ignore[operator]
        x = pictures(2)
        assert net(x).softmax(1).amax(1).tolist() == [1.0, 1.0]
        found = one(net, x, "integrated-gradients(Midpoint(8))", ll.Dummy(), target=ll.Probability())
        assert found.passed is None and "ignores none" in found.reason

    def test_half_precision(self) -> None:
        found = one(conv_net().bfloat16(), pictures(2).bfloat16(), "gradient", ll.Dummy())
        assert found.passed is None and "ignores none" in found.reason

    def test_a_black_box(self) -> None:
        box = ll.BlackBox(lambda rows: np.stack([rows[:, 0], -rows[:, 0]], 1))
        x = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert one(box, x, ll.FeatureAblation(), ll.Dummy(), target=0).detail["ignored"].tolist() == [3, 3]


class Tokens(nn.Module):
    """torch's own transformer layer, which reads its linear layers' weights."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.encoder, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
        return found


class Reading(nn.Module):
    """Reads its layers' weights and calls them by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.tied = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(input=x.to(self.first.weight.dtype)).relu().mean((2, 3))
        return F.linear(self.tied(input=h), self.tied.weight.T)


class Demanding(nn.Module):
    """Asks of its layer what no stand-in can have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        if type(self.linear) is not nn.Linear:
            raise LookupError("no linear layer")
        found: Tensor = self.linear(x.flatten(1))
        return found


class TestRewrittenCopies:
    @pytest.mark.parametrize("kind", [Tokens, Reading])
    def test_what_reads_its_layers_is_rewritten_all_the_same(self, kind: type[nn.Module]) -> None:
        x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        for check in (ll.ImplementationInvariance(), ll.InputShift()):
            assert one(seeded(kind), x, "gradient", check).passed is True, check

    def test_a_copy_that_does_not_run_is_a_reason(self) -> None:
        x = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        found = one(seeded(Demanding), x, "gradient", ll.ImplementationInvariance())
        assert found.passed is None and "does not run: LookupError: no linear layer" in found.reason
        assert one(seeded(Demanding), x, "gradient", ll.InputShift()).passed is True  # its own layer, with another bias

    def test_another_network_in_training_mode_is_left_as_it_is(self) -> None:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
        other = nn.Sequential(*(each for each in net)).train()
        before = {name: value.clone() for name, value in other.state_dict().items()}
        assert one(net.eval(), pictures(2), "gradient", ll.ImplementationInvariance(other.train())).passed is True
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


class TestMaps:
    def test_several_targets_are_asked_in_turn(self) -> None:
        with pytest.raises(ValueError, match="target: 2 for each example"):
            ll.check(conv_net(), pictures(2), "gradient", "gini", target=[[0, 1], [1, 2]])

    @pytest.mark.parametrize("shape", [(2, 8, 1), (2, 1, 1, 8), (2, 5, 8, 8), (1, 3, 8, 8), (2, 64)])
    def test_a_map_of_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"method: a map of shape .* does not fit inputs of shape \(2, 3, 8, 8\)"):
            ll.check(conv_net(), pictures(2), torch.zeros(shape), "gini")

    @pytest.mark.parametrize("shape", [(2, 8, 8), (2, 1, 8, 8), (2, 3, 8, 8)])
    def test_a_map_of_the_right_shape(self, shape: tuple[int, ...]) -> None:
        assert not ll.check(conv_net(), pictures(2), torch.rand(shape), "gini")[0].value.isnan().any()

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_map_with_a_hole(self, bad: float) -> None:
        values = torch.rand(2, 1, 8, 8)
        values[1, 0, 3, 3] = bad
        with pytest.raises(ValueError, match="method: the map has NaN or infinity in example 1"):
            ll.check(conv_net(), pictures(2), values, "deletion")

    def test_an_attribution_has_its_own_target(self) -> None:
        net, x = conv_net(), pictures(2)
        for target in (None, 1, [1, 1], torch.tensor([1, 1]), ll.Logit(1)):
            assert ll.check(net, x, ll.explain(net, x, "gradient", target=1), "gini", target=target)
        for other in (0, [1, 0], ll.Probability(1)):
            with pytest.raises(ValueError, match=r"target: .*, but the attribution explains tensor\(\[1, 1\]\)"):
                ll.check(net, x, ll.explain(net, x, "gradient", target=1), "gini", target=other)
        probability = ll.explain(net, x, "gradient", target=ll.Probability(1))
        assert ll.check(net, x, probability, "gini", target=ll.Probability(1))

    def test_finished_maps_each_keep_their_column(self) -> None:
        net, x = conv_net(), pictures(2)
        maps = [torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
        found = ll.evaluate(net, x, maps, ["gini"])
        assert len(found) == 3 + len(CONTROLS)
        alone = [one(net, x, each, "gini").mean for each in maps]
        assert [cells["gini"].mean for cells in list(found.values())[:3]] == alone


class TestCard:
    def test_checks_of_one_name_have_their_own_controls(self) -> None:
        net, x = conv_net(), pictures(2)
        checks = [ll.Deletion(steps=4, on="score"), ll.Deletion(steps=4, fill=5.0, on="score")]
        card = ll.trust_card(net, x, "gradient", checks, target=0)
        for check, finding in zip(checks, card.findings, strict=True):
            for control in CONTROLS:
                other = one(net, x, control, check, target=0).mean
                assert card.beats(finding)[control.kebab()] == (finding.mean < other)
                assert f"{control.kebab()} {other:.3g}" in card.to_text().replace("\n            ", " ").replace(
                    "- ", "-"
                )
        assert repr(checks[1]) in card.to_text().replace("\n            ", " ")

    def test_a_map_is_compared_where_it_has_a_figure(self) -> None:
        """One example's map has no positive value; on the other it loses to every control, whatever these come to on
        the first."""
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
        values = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
        values[0] = -1
        values[1, 0, :4, :4], values[1, 0, 4:] = 1, 0.6
        mask = torch.zeros(2, 8, 8, dtype=torch.bool)
        mask[0, 0, 0] = mask[1, :4] = True
        x = torch.rand(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        card = ll.trust_card(net, x, values, ll.RelevanceMass(), mask=mask)
        (finding,) = card.findings
        assert finding.value.isnan().tolist() == [True, False]
        constant = one(net, x[1:], CONTROLS[1], ll.RelevanceMass(), mask=mask[1:]).mean
        assert constant == 0.5 and "constant-map 0.5" in card.to_text().replace("\n            ", " ").replace(
            "- ", "-"
        )
        assert card.beats(finding)["constant-map"] is (finding.mean > 0.5)

    def test_json_has_null_where_there_is_no_number(self) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double()
        checks = ["bias-shift", "sensitivity-n(samples=4)", "completeness"]
        x = pictures(2).clone()
        x[0] = 0
        card = ll.trust_card(net, x, "occlusion(window=50)", checks)
        json.loads(card.to_json(), parse_constant=lambda name: pytest.fail(name))
        found = one(net, x, "integrated-gradients(Midpoint(4))", "completeness").to_dict()
        assert found["passed_each"] == [None, True] and found["passed"] is True and found["value"][0] is None


class TestFigures:
    @pytest.mark.parametrize(("order", "better"), [("morf", "lower"), ("lerf", "higher"), ("both", "higher")])
    def test_road_knows_its_better_side(self, order: str, better: str) -> None:
        check = ll.ROAD(shares=(0.3, 0.6), order=order)  # type: ignore[arg-type]
        assert check.better == better
        found = ll.evaluate(conv_net(), pictures(3), ["gradient"], [check], target=0)
        means = [cell.mean for _, cell in found.ranking("road")]
        assert means == sorted(means, reverse=better == "higher")

    @pytest.mark.parametrize("top", [nn.LayerNorm(4), nn.BatchNorm1d(4), nn.PReLU()])
    def test_a_layer_of_equal_numbers_is_not_drawn_anew(self, top: nn.Module) -> None:
        def make() -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), top
            ).double()

        found = one(seeded(make), pictures(2), "gradient", ll.Randomisation(stages=2))
        assert found.passed is True and float(found.value.max()) < 0.7
        assert found.notes == ("layers replaced, in turn: 4, down to 0",)

    def test_one_example_does_not_take_the_others_with_it(self) -> None:
        class Sometimes(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                found = x.mean((2, 3))
                lost = (found[:, 0] > 1) & (x.amin((1, 2, 3)) < 0.5)
                return torch.where(lost[:, None], torch.nan, found)

        x = pictures(2) * 0.3
        x[0] += 5
        values = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        rows = torch.arange(64).view(8, 8) // 16
        labels = torch.stack([rows, rows.T])
        for tensor, number in (
            (ll.Deletion(fill=torch.full_like(x, 0.1), steps=4), ll.Deletion(fill=0.1, steps=4)),
            (ll.IROF(labels, fill=0.1), ll.IROF(labels[1], fill=0.1)),
            (ll.IROF(ll.Segments(labels), fill=0.1), ll.IROF(labels[1], fill=0.1)),
            (ll.Deletion(fill=ll.Black(torch.full_like(x, 0.1)), steps=4), ll.Deletion(fill=0.1, steps=4)),
        ):
            expected = one(Sometimes(), x, values, number).value
            assert expected.isnan().tolist() == [True, False]
            torch.testing.assert_close(one(Sometimes(), x, values, tensor).value, expected, equal_nan=True)

    def test_an_empty_mask_and_a_plain_picture_are_reasons(self) -> None:
        net, x = conv_net(), pictures(2).clone()
        mask = torch.zeros(2, 8, 8, dtype=torch.bool)
        mask[1, :4] = True
        for check in (ll.RelevanceMass(), ll.GridPointing()):
            found = one(net, x, torch.rand(2, 8, 8), check, mask=mask)
            assert found.value.isnan().tolist() == [True, False] and found.reason == "the mask is empty"
        x[0] = 0.5
        found = one(net, x, "gradient", ll.MaxSensitivity(samples=2))
        assert found.value.isnan().tolist() == [True, False] and "absolute_radius" in found.reason

    def test_rounding_is_no_variation(self) -> None:
        constant = torch.full((1, 5), 0.1, dtype=torch.float64)
        for steps in range(2, 6):
            constant[0, steps - 1] = sum([0.1 / steps] * steps)
        assert pearson(constant, torch.rand(1, 5)).isnan().all()
        assert float(pearson(torch.arange(5.0)[None], 1 + 1e-9 * torch.arange(5.0).double()[None])) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            (ll.Deletion, {"on": "logit"}),
            (ll.IROF, {"on": "logit"}),
            (ll.Infidelity, {"patch": -1}),
            (ll.Infidelity, {"noise": 0.0}),
            (ll.FaithfulnessCorrelation, {"size": -5}),
            (ll.Determinism, {"rows_per_pass": 0}),
            (ll.Dummy, {"features": 0}),
        ],
    )
    def test_settings_are_refused_by_name(self, kind: type[ll.Check], settings: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=rf"{kind.__name__}\.{next(iter(settings))}="):
            kind(**settings)

    def test_determinism_never_compares_equal_passes(self) -> None:
        found = {}
        for rows in (3, 5):
            seen: list[int] = []

            class Watching(nn.Module):
                def forward(self, x: Tensor) -> Tensor:
                    seen.append(len(x))  # noqa: B023  called within the turn
                    return x.flatten(2).mean(2)

            one(Watching(), pictures(1), "smooth-grad(samples=16)", ll.Determinism(), rows_per_pass=rows)
            found[rows] = set(seen)
        assert max(found[3]) == 5 and max(found[5]) == 5 and 3 in found[5]

    def test_linearity_takes_a_tolerance_of_nothing(self) -> None:
        assert one(conv_net(), pictures(2), "grad-cam", ll.Linearity(tolerance=0.0)).passed is False


def test_memory_that_ran_out_is_no_word_on_the_map() -> None:
    @dataclass(frozen=True)
    class Hungry(ll.Check):
        kind = "faithfulness"

        def run(self, case: Case) -> Measured:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        ll.check(conv_net(), pictures(2), "gradient", Hungry())


def test_outputs_in_a_mapping_are_read_as_outputs() -> None:
    x = pictures(2)
    checks = [ll.Deletion(steps=4), ll.Linearity(), ll.BiasShift((0.1,)), ll.Randomisation(stages=2, keep_class=False)]
    plain, named = (ll.check(net, x, "gradient", checks) for net in (conv_net(), Named()))
    for ours, theirs in zip(plain[:3], named[:3], strict=True):
        torch.testing.assert_close(theirs.value, ours.value)
        assert set(theirs.detail) == set(ours.detail)
    assert not named[3].value.isnan().any()  # its layers have other names, and so other draws


def test_patterns_go_along_to_the_copies_that_checks_make() -> None:
    net, x = conv_net(), pictures(2)
    patterns = ll.estimate_patterns(net, [pictures(8, seed=3)])
    checks = [ll.InputShift(), ll.Randomisation(stages=1, draws=1), ll.ImplementationInvariance()]
    for method in (ll.PatternNet(patterns), ll.SmoothGrad(ll.PatternAttribution(patterns), samples=2)):
        shift, drawn, written = ll.check(net, x, method, checks, target=0)
        assert shift.passed is True and not drawn.value.isnan().any(), (shift, drawn)
        assert "another model" not in written.reason


@dataclass(frozen=True)
class ByTheBatch(ll.Method):
    """Scaled by the batch's largest value, as some libraries do: each map depends on its company."""

    no_sum = "it is scaled"

    def run(self, score: Any, x: Tensor, baseline: Tensor, rng: Any) -> Estimate:
        slope = score.gradient(x)
        return Estimate(slope / slope.abs().max())


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_determinism_sees_a_map_that_depends_on_its_company(n: int) -> None:
    net, x = conv_net(), pictures(4) * torch.tensor([1.0, 3.0, 0.2, 2.0]).view(4, 1, 1, 1)
    assert one(net, x[:n], ByTheBatch(), ll.Determinism(), target=0).passed is (n == 1 and _mirror_is_smaller(net, x))
    assert one(net, x[:n], "smooth-grad(samples=4)", ll.Determinism(), target=0).passed is True


def _mirror_is_smaller(net: nn.Module, x: Tensor) -> bool:
    slopes = [float(ll.explain(net, each, "gradient", target=0).values.abs().max()) for each in (x[:1], x[:1].flip(-1))]
    return slopes[1] <= slopes[0]


def test_fragility_of_attention() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = one(seeded(Tokens), x, "gradient", ll.Fragility(iterations=4, looks=2, k=6), target=0)
    assert not found.value.isnan().any() and float(found.value.max()) <= 1


def test_a_single_output_has_no_class_to_change() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).double()
    found = ll.check(net, pictures(2), "gradient", [ll.BiasShift((0.1,)), ll.MaxSensitivity(samples=2)])
    assert all("flips" not in each.detail for each in found)


def test_negative_labels_of_segments_are_named() -> None:
    labels = torch.zeros(8, 8, dtype=torch.long) - 1
    found = one(conv_net(), pictures(1), torch.rand(1, 8, 8), ll.IROF(labels))
    assert "IROF.segments: label -1" in found.reason


def test_passes_that_maps_share_count_once_in_the_quick_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = conv_net(), pictures(1)
    panel = ll.explain(net, x, ["gradient", "input-x-gradient", "grad-cam", "layer-cam"], target=0)
    monkeypatch.setattr(budget, "LEAST", 0)
    found = quick_checks(net, panel)
    spent = sum(each.forward_rows + each.backward_rows for findings in found.values() for each in findings)
    assert spent <= panel.forward_rows + panel.backward_rows == 2
    left_out = [each.reason for findings in found.values() for each in findings if "left out" in each.reason]
    assert all("of 2 remain" in reason for reason in left_out) and left_out
