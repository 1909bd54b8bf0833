"""Every check x every property, driven by CHECKS and METHODS: a new one is tested by being listed there."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.base.arithmetic import rounding_of
from limelight.checks import NotApplicable, parse_check
from limelight.checks.case import Case
from limelight.evaluation.check import as_checks
from limelight.evaluation.controls import CONTROLS

from ..networks import conv_net, every_case, pictures, refusing, smooth_net
from ..test_methods import snapshot

SHORT: dict[type[ll.Check], dict[str, Any]] = {
    ll.Fragility: {"iterations": 4, "looks": 2, "k": 6},
    ll.MaxSensitivity: {"samples": 3},
    ll.AvgSensitivity: {"samples": 3},
    ll.SRG: {"steps": 4},
    ll.PixelFlipping: {"region": 3},
    ll.Infidelity: {"samples": 8},
    ll.SensitivityN: {"samples": 6},
    ll.FaithfulnessCorrelation: {"samples": 8},
    ll.Sensitivity: {"features": 2},
    ll.Dummy: {"features": 3},
    ll.Randomisation: {"stages": 2, "draws": 1},
    ll.BiasShift: {"levels": (0.1, 0.3)},
}
EVERY = tuple(kind(**SHORT.get(kind, {})) for kind in ll.CHECKS)
every_check = pytest.mark.parametrize("check", EVERY, ids=lambda each: each.kebab())
# One that is shared with the clean pass, one that draws and compares with a baseline.
METHODS = ("gradient", "expected-gradients(samples=4)")


def masks(n: int = 3) -> Tensor:
    found = torch.zeros(n, 8, 8, dtype=torch.bool)
    for i in range(n):
        found[i, i : i + 4, 2:7] = True
    return found


def run(check: ll.Check, x: Tensor, method: Any, index: list[int], **options: Any) -> ll.Finding:
    target = [[0, 1, 2][i] for i in index]
    return ll.check(conv_net(), x[index], method, check, target=target, mask=masks()[index], **options)[0]


@every_check
@pytest.mark.parametrize("method", METHODS)
def test_values_do_not_depend_on_the_batch_or_the_passes(check: ll.Check, method: str) -> None:
    x = pictures(3)
    whole = run(check, x, method, [0, 1, 2])
    assert whole.value.shape == (3,) and whole.value.dtype == torch.float64
    for index, options in (([1], {}), ([2, 0], {"rows_per_pass": 5})):
        part = run(check, x, method, index, **options)
        torch.testing.assert_close(part.value, whole.value[index], atol=1e-9, rtol=1e-7, equal_nan=True)
        assert part.reasons == tuple(whole.reasons[i] for i in index)
        if whole.each is not None:
            assert part.each is not None and part.each.tolist() == whole.each[index].tolist()


@every_check
def test_values_do_not_depend_on_how_rows_are_computed(check: ll.Check) -> None:
    """Of a finished map, whose order is the same, on packed and on plain rows, in float32."""
    net, x = conv_net().float(), pictures(2).float()
    a = ll.explain(net, x, "gradient", target=[0, 1])
    assert ll.explain(net, x, "gradient", target=[0, 1], arithmetic="packed").arithmetic == "packed"
    options: dict[str, Any] = {"target": [0, 1], "mask": masks(2)}
    plain = ll.check(net, x, a.values, check, arithmetic="plain", **options)[0]
    packed = ll.check(net, x, a.values, check, arithmetic="packed", **options)[0]
    rounding = 1e-5
    if isinstance(check, ll.FineDetail):  # a share of differences of scores, which may be as small as these
        moved = plain.detail["bright"].abs() + plain.detail["gaps"].abs()
        rounding += float((2 * rounding_of(torch.float32, a.score) / moved).max())
    torch.testing.assert_close(packed.value, plain.value, atol=rounding, rtol=1e-3, equal_nan=True)
    assert packed.reasons == plain.reasons and packed.shared_rows == plain.shared_rows == 0
    assert (packed.forward_rows, packed.backward_rows) == (plain.forward_rows, plain.backward_rows)


@every_check
@pytest.mark.parametrize("method", METHODS)
def test_a_figure_or_a_reason_and_never_both(check: ll.Check, method: str) -> None:
    found = run(check, pictures(3), method, [0, 1, 2])
    for value, reason in zip(found.value.tolist(), found.reasons, strict=True):
        assert math.isnan(value) == bool(reason)
        assert "Error" not in reason, reason  # an unforeseen failure is not an answer
    assert (found.passed is None) == (check.kind != "hard" or bool(found.value.isnan().all()))
    json.dumps(found.to_dict(), allow_nan=False)


@every_check
def test_the_model_is_untouched(check: ll.Check) -> None:
    net, x = conv_net().train(), pictures(2)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    fired: list[int] = []
    net.body.register_forward_hook(lambda *_: fired.append(1))
    before, x_before = snapshot(net), x.clone()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    ll.check(net, x, "gradient", check, mask=masks(2))
    assert str(snapshot(net)) == str(before) and torch.equal(x, x_before)
    assert torch.equal(torch.get_rng_state(), state)


@every_check
def test_a_finished_map_or_a_black_box_gets_a_figure_or_a_reason(check: ll.Check) -> None:
    net, x = conv_net(), pictures(2)
    own = ll.explain(net, x, "gradient")
    for subject in (own, own.values, own.values.sum(1, keepdim=True), own.values.sum(1)):
        found = ll.check(net, x, subject, check, mask=masks(2))[0]
        if check.needs_method:
            assert found.value.isnan().all() and "finished map" in found.reason
    box = ll.check(lambda rows: net(rows).detach(), x, "occlusion(4, 4)", check, mask=masks(2))[0]
    assert all(math.isnan(v) == bool(r) for v, r in zip(box.value.tolist(), box.reasons, strict=True))


@every_check
def test_vectors_are_checked_too(check: ll.Check) -> None:
    x = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = ll.check(smooth_net(), x, "gradient", check, mask=torch.tensor([[1, 1, 0, 0, 0, 0]] * 2))[0]
    for value, reason in zip(found.value.tolist(), found.reasons, strict=True):
        assert math.isnan(value) == bool(reason), (check, reason)


@every_check
@pytest.mark.parametrize("features", [(1,), (1, 1, 1)], ids=str)
def test_inputs_of_one_number_are_checked_too(check: ll.Check, features: tuple[int, ...]) -> None:
    """Its default baseline is an expanded number."""
    first = nn.Linear(1, 4) if len(features) == 1 else nn.Conv2d(1, 4, 1)
    net = nn.Sequential(first, nn.Tanh(), nn.Flatten(), nn.Linear(4, 2)).double()
    x, mask = torch.full((1, *features), 0.7, dtype=torch.float64), torch.ones(1, *features[-2:])
    found = ll.check(net, x, "integrated-gradients", check, target=0, mask=mask)[0]
    assert math.isnan(float(found.value)) == bool(found.reason) and "Error" not in found.reason, found.reason


@every_case
def test_every_method_can_be_checked(method: ll.Method) -> None:
    """The quick ones on each method as it is tested elsewhere; a failure to explain is the method's own to give."""
    checks = [ll.Completeness(), ll.Determinism(), ll.Randomisation(stages=1, draws=1), ll.InputShift()]
    found = ll.check(conv_net(), pictures(1), method, [*checks, ll.Deletion(steps=4)], target=0)
    assert found.by_name("determinism").passed is True
    assert found.by_name("completeness").value.isnan().all() == (method.no_sum is not None)
    assert not found.by_name("deletion").value.isnan().any()
    for each in found:
        assert all(math.isnan(v) == bool(r) for v, r in zip(each.value.tolist(), each.reasons, strict=True))


def test_one_bad_example_does_not_spoil_the_others() -> None:
    class Odd(ll.Completeness):
        def run(self, case: Case) -> Any:
            if any(float(each.mean()) > 0.9 for each in case.x):
                raise NotApplicable("too bright") if len(case) == 1 else ValueError("one of these is too bright")
            return super().run(case)

    x = pictures(3)
    x[1] = 0.99
    found = ll.check(conv_net(), x, "integrated-gradients", Odd(0.5))[0]
    assert found.value.isnan().tolist() == [False, True, False] and found.reasons == ("", "too bright", "")
    assert found.each is not None and found.passed is True


def test_a_fault_in_a_check_is_raised() -> None:
    class Broken(ll.Completeness):
        def run(self, case: Case) -> Any:
            raise KeyError("a fault")

    with pytest.raises(KeyError, match="a fault"):
        ll.check(conv_net(), pictures(1), "gradient", Broken())


def test_names_and_settings_are_read() -> None:
    assert parse_check("deletion(steps=8)") == ll.Deletion(steps=8)
    assert parse_check("max-sensitivity") == ll.MaxSensitivity() and parse_check("IoU") == ll.IoU()
    assert as_checks("srg") == (ll.SRG(),) and as_checks([ll.Gini, "entropy"]) == (ll.Gini(), ll.Entropy())
    for kind in ll.CHECKS:
        assert parse_check(kind.kebab()) == kind() or kind is ll.ImplementationInvariance
        assert kind.__doc__ and kind.meaning and kind.kind
    for wrong, words in (
        ("delete", "did you mean deletion"),
        ("deletion(stops=8)", "settings of deletion: fill, steps"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_check(wrong)
    with pytest.raises(TypeError, match="is not a check"):
        as_checks(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        as_checks([])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (ll.Deletion, {"steps": 0}),
        (ll.SRG, {"imputers": ()}),
        (ll.ROAD, {"shares": (1.2,)}),
        (ll.ROAD, {"order": "best"}),
        (ll.Randomisation, {"stages": 0}),
        (ll.Fragility, {"eps": 0}),
        (ll.InputShift, {"shift": 0}),
        (ll.Completeness, {"tolerance": 0}),
        (ll.PointingGame, {"tolerance": -1}),
    ],
)
def test_bad_settings_name_themselves(kind: type[ll.Check], settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.{next(iter(settings))}=.*: use"):
        kind(**settings)


def test_bad_arguments_name_themselves() -> None:
    net, x = conv_net(), pictures(2)
    with pytest.raises(ValueError, match="does not fit inputs"):
        ll.check(net, x, torch.rand(2, 3, 8, 7), "gini")
    with pytest.raises(ValueError, match=r"mask: shape \(2, 7, 7\)"):
        ll.check(net, x, "gradient", "iou", mask=torch.ones(2, 7, 7))
    with pytest.raises(ValueError, match="other inputs"):
        ll.check(net, x + 1, ll.explain(net, x, "gradient"), "gini")
    assert "no mask was given" in ll.check(net, x, "gradient", "iou")[0].reason


def test_evaluate_ranks_methods_beside_the_controls() -> None:
    net, x = conv_net(), pictures(6)
    table = ll.evaluate(net, x, ["gradient", ll.GradCAM()], [ll.Deletion(steps=4), ll.RelevanceMass()], mask=masks(6))
    assert list(table) == ["gradient", "grad-cam", *(each.kebab() for each in CONTROLS)]
    assert table.controls == ("random-map", "constant-map", "sobel-edges") and table.checks == (
        "deletion",
        "relevance-mass",
    )
    cell = table["gradient"]["deletion"]
    assert cell.n == 6 and cell.low <= cell.mean <= cell.high and cell.beats_edges in (True, False)
    assert table["constant-map"]["relevance-mass"].mean == pytest.approx(float(masks(6).double().mean()))
    assert table["random-map"]["deletion"].beats_edges is None
    ranked = [cell.mean for _, cell in table.ranking("deletion")]
    assert ranked == sorted(ranked)
    assert "(sobel-edges)" in table.to_markdown() and "<table>" in table._repr_html_()
    json.dumps(table.to_dict(), allow_nan=False)
    again = ll.evaluate(net, x, ["gradient"], [ll.Deletion(steps=4)])
    assert (again["gradient"]["deletion"].low, again["gradient"]["deletion"].high) == (cell.low, cell.high)


def test_evaluate_goes_on_past_a_method_that_cannot() -> None:
    table = ll.evaluate(smooth_net(), torch.rand(3, 6).double(), ["gradient", "grad-cam"], "gini")
    assert set(table) == {"gradient", "random-map", "constant-map"}
    assert "spatial" in table.refused["grad-cam"] or "layer" in table.refused["grad-cam"]
    assert not table.refused["grad-cam"].startswith("ValueError")  # a table is no traceback
    assert "- sobel-edges: a control for pictures (batch, channels, H, W), and the inputs are of shape (3, 6)\n" in (
        table.to_markdown()
    )


def test_tables_become_data_frames() -> None:
    pytest.importorskip("pandas")
    findings = ll.check(conv_net(), pictures(2), "gradient", ["gini", "completeness"])
    frame = findings.to_pandas()
    assert list(frame["check"]) == ["gini", "completeness"]
    assert "no sum is promised" in findings.to_markdown() and "<td>gini</td>" in findings._repr_html_()
    table = ll.evaluate(conv_net(), pictures(2), "gradient", "gini").to_pandas()
    assert set(table["method"]) == {"gradient", "random-map", "constant-map", "sobel-edges"}


def test_rows_are_counted() -> None:
    from ..test_methods import Counting

    net, x = Counting(conv_net()), pictures(2)
    a = ll.explain(net, x, "gradient")
    before = (net.rows, net.backward_rows)
    for check in (ll.Deletion(steps=4), ll.Determinism(), ll.MaxSensitivity(samples=2), ll.SensitivityN(samples=4)):
        start = (net.rows, net.backward_rows)
        found = ll.check(net, x, "gradient", check)[0]
        own = (found.forward_rows, found.backward_rows)
        spent = (net.rows - start[0] - a.forward_rows, net.backward_rows - start[1] - a.backward_rows)
        assert own == spent, check
    assert (net.rows, net.backward_rows) > before


def test_a_module_that_hides_its_layers_is_not_edited() -> None:
    """A model that cannot be copied is never randomised or rewired; the reason says so."""

    net = conv_net()
    net = refusing(net)
    for check in (ll.Randomisation(), ll.InputShift(), ll.ImplementationInvariance()):
        before = snapshot(net)
        found = ll.check(net, pictures(1), "gradient", check)[0]
        assert "cannot be copied" in found.reason and str(snapshot(net)) == str(before)


def test_a_target_written_for_its_batch_still_gets_an_answer() -> None:
    class Maps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True).square()

    region = ll.Region(torch.ones(2, 8, 8), 0)
    found = ll.check(Maps(), pictures(2), "gradient", [ll.Deletion(steps=4), ll.BiasShift((0.1,))], target=region)
    assert not found[0].value.isnan().any() and not found[1].value.isnan().any()
