"""Sampling in two precisions: the correction by definition, honest errors, who takes part, what is counted.

The processor need not multiply in bfloat16: torch emulates it. What is timed needs the hardware, see the benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.engine.bfloat16_rows import Bfloat16Rows
from limelight.methods.two_precision import TwoPrecision, corrected, relative_cost, share_to_correct

from .networks import pictures

D = torch.float64
METHODS = (
    ll.RISE(256, cells=3),
    ll.RISE(256, cells=3, centred=False),
    ll.Lime(300, alpha=0.0, players=ll.Grid(4)),
    ll.KernelShap(300, players=ll.Grid(4)),
    ll.ShapleySampling(64, players=ll.Grid(4)),
)


def net() -> nn.Module:
    """A network whose score varies with masks; in bfloat16 it differs by 0.05% of that variance."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
    ).eval()


def inputs(batch: int = 1) -> Tensor:
    return 3 * pictures(batch).float()


def two(
    method: ll.Method, model: nn.Module | None = None, x: Tensor | None = None, **options: object
) -> ll.Attribution:
    asked = {"target": 2, "baseline": 0.25, "arithmetic": "two-precision", **options}
    return ll.explain(net() if model is None else model, inputs() if x is None else x, method, **asked)


def plain(method: Any, **options: Any) -> Any:
    return two(method, **{"arithmetic": "plain", **options})


def instead(monkeypatch: pytest.MonkeyPatch, rounding: Callable[[Tensor], Tensor]) -> None:
    """Let bfloat16 rows give what `rounding` makes of the float32 outputs."""
    monkeypatch.setattr(Bfloat16Rows, "_call", lambda self, rows: rounding(self.runner.call(rows.clone())))


def coarse(outputs: Tensor) -> Tensor:
    """A rounding with a systematic part and 2% of the scores' variance, forty times that of bfloat16 here."""
    return 1.1 * outputs + 0.01 + 0.002 * torch.sin(5000 * outputs)


def test_over_all_choices_the_expectation_is_the_float32_result() -> None:
    generator = torch.Generator().manual_seed(0)
    exact, cheap = torch.randn(2, 7, 3, dtype=D, generator=generator)
    for known in (2, 3, 7):
        found = []
        for chosen in combinations(range(7), known):
            place = list(chosen)
            in_both, mean = corrected(cheap[place], exact[place], 7)
            y = cheap + mean
            y[place] = in_both
            found.append(y)
        torch.testing.assert_close(torch.stack(found).mean(0), exact, atol=1e-12, rtol=0)


def test_a_difference_that_is_the_same_for_all_is_removed_by_any_two() -> None:
    exact = torch.randn(50, dtype=D, generator=torch.Generator().manual_seed(0))
    in_both, mean = corrected(exact[:2] - 0.3, exact[:2], 50)
    torch.testing.assert_close(in_both, exact[:2])
    torch.testing.assert_close(mean, torch.tensor(0.3, dtype=D))
    with pytest.raises(ValueError, match="samples: 1 of 50"):
        corrected(exact[:1], exact[:1], 50)


def test_the_best_split_is_the_cheapest() -> None:
    """At the best share the cost times the variance is that of the formula, and no share does better."""
    for ratio, cost in ((3e-4, 0.56), (0.01, 0.42), (0.03, 0.755)):
        shares = torch.linspace(1e-3, 1, 100_000, dtype=D)
        products = (cost + shares) * (1 + ratio / shares)
        assert float(products.min()) == pytest.approx(relative_cost(ratio, cost), rel=1e-6)
        share = share_to_correct(ratio, cost)
        assert math.log2(share).is_integer() and share <= max(1 / 64, 2 * math.sqrt(cost * ratio))
        assert (cost + share) * (1 + ratio / share) < 1.06 * relative_cost(ratio, cost)
    assert share_to_correct(0.0, 0.5) == 1 / 64 and share_to_correct(math.inf, 0.5) == 1


def test_a_large_difference_does_not_pay() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(32, dtype=D, generator=generator)
    for noise, pays in ((0.01, True), (1.0, False)):
        rows = TwoPrecision(0.55)
        assert rows.next(range(100)) == range(32)
        rows.add(exact, exact + noise * torch.randn(32, dtype=D, generator=generator))
        assert rows.pays is pays
        assert bool(rows.next(range(32, 10_000))) is pays


@pytest.mark.long  # forty seeds of each
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_intervals_hold_the_truth_as_often_as_they_say(method: ll.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 95% intervals, over 40 seeds and all players or pixels, where both parts of the error are large."""
    instead(monkeypatch, coarse)
    long = {
        ll.RISE: lambda: ll.RISE(20_000, cells=3, centred=method.centred),
        ll.Lime: lambda: ll.Lime(65_534, alpha=0.0, players=ll.Grid(4)),
    }.get(type(method), lambda: ll.ExactShapley(players=method.players))()
    truth = plain(long, seed=10_000, rows_per_pass=2048)
    inside, adopted = [], 0
    for seed in range(40):
        a = two(method, seed=seed, rows_per_pass=512)
        assert a.stderr is not None
        adopted += any(" in bfloat16, " in note for note in a.notes)
        inside.append(((a.values - truth.values).abs() <= 1.96 * a.stderr).double().mean())
    assert adopted > 30
    assert 0.92 <= float(torch.stack(inside).mean()) <= 0.98


@pytest.mark.long  # forty seeds of each
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_maps_are_those_of_float32_rows_on_average(method: ll.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounding's systematic part, 10% of the map, is gone: over seeds the mean difference is within its error."""
    instead(monkeypatch, coarse)
    differences, maps = [], []
    for seed in range(30):
        exact = plain(method, seed=seed, rows_per_pass=512)
        differences.append((two(method, seed=seed, rows_per_pass=512).values - exact.values).double())
        maps.append(exact.values.double())
    mean, error = torch.stack(differences).mean(0), torch.stack(differences).std(0) / math.sqrt(30)
    assert float((mean / error).square().mean()) < 2
    # The test has the power to see the bias that stays without corrections.
    assert float((0.1 * torch.stack(maps).mean(0) / error).square().mean()) > 2


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_where_the_difference_is_too_large_float32_rows_take_over(
    method: ll.Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(monkeypatch, lambda outputs: 3 * torch.sin(500 * outputs))
    a, wanted = two(method), plain(method)
    torch.testing.assert_close(a.values, wanted.values, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(a.stderr, wanted.stderr, atol=1e-6, rtol=1e-4)
    assert any("in float32 from the" in note for note in a.notes)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_nan_in_bfloat16_leaves_the_float32_map(method: ll.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first rows on, or later."""
    threshold = float(net()(inputs())[0, 2].detach())
    for limit in (-math.inf, threshold):
        calls = []

        def rounding(outputs: Tensor, limit: float = limit, calls: list[int] = calls) -> Tensor:
            calls.append(len(outputs))
            late = limit == -math.inf or sum(calls) > 100
            return torch.where((outputs > limit) & (len(calls) > 1) & late, torch.nan, outputs)

        instead(monkeypatch, rounding)
        a, wanted = two(method), plain(method)
        torch.testing.assert_close(a.values, wanted.values, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(a.stderr, wanted.stderr, atol=1e-6, rtol=1e-4)
        assert any("NaN or infinite" in note for note in a.notes)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_map_is_the_same_in_any_batch_and_any_pass(method: ll.Method) -> None:
    """To a small part of its error: a kernel may round a row otherwise in another pass."""
    x = inputs(3)
    whole = two(method, x=x)
    for i in range(3):
        alone = two(method, x=x[i : i + 1], rows_per_pass=5)
        assert ((alone.values - whole.values[i]).abs() <= 0.02 * whole.stderr[i] + 1e-7).all()


def test_the_correction_is_needed_and_small_in_real_bfloat16() -> None:
    """Real rows, real differences: nearer to float32 rows on the same masks than a tenth of the standard error."""
    for method in METHODS:
        a, exact = two(method), plain(method)
        assert a.stderr is not None and float((a.values - exact.values).abs().amax()) > 0
        assert float((a.values - exact.values).norm() / exact.stderr.norm()) < 0.25
        torch.testing.assert_close(a.stderr.norm(), exact.stderr.norm(), atol=0, rtol=0.1)


def test_rows_are_counted_and_told() -> None:
    method = ll.RISE(400, cells=3)
    a, ordinary = two(method), plain(method)
    (note,) = (note for note in a.notes if "in bfloat16," in note)
    in_both = int(note.text.split(" masks in bfloat16, ")[1].split()[0])
    assert note.text.startswith("400 masks") and 32 <= in_both <= 100
    assert a.forward_rows == ordinary.forward_rows + in_both + 1  # the row that bfloat16 was tried on
    assert (a.arithmetic, ordinary.arithmetic) == ("two-precision", "plain")
    assert any("two-precision" in line for line in a.caption())


def test_a_tolerance_is_met_by_both_parts_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limelight.methods.two_precision.has_bfloat16", lambda device: True)
    for method in (ll.RISE(4000, cells=3, tolerance=0.15), ll.ShapleySampling(512, players=ll.Grid(4), tolerance=0.05)):
        a = two(method, arithmetic=None)
        assert a.arithmetic == "two-precision" and a.stderr is not None
        assert any(note.startswith("example 0: converged") for note in a.notes)
        assert plain(method).arithmetic == "plain"


def test_adopted_by_the_processor_and_the_fields_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, adaptive = ll.RISE(200, cells=3), ll.RISE(200, cells=3, tolerance=0.5)
    for fast in (False, True):
        monkeypatch.setattr("limelight.methods.two_precision.has_bfloat16", lambda device, fast=fast: fast)
        found = {method: two(method, arithmetic=None).arithmetic for method in (fixed, adaptive)}
        assert found == {fixed: "plain", adaptive: "two-precision" if fast else "plain"}
        cautions = two(fixed).cautions
        assert any("emulated" in note for note in cautions) is not fast


def test_methods_that_sample_no_scores_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"arithmetic: 'two-precision' .*rise.*not for gradient, partition-shap"):
        two([ll.Gradient(), ll.PartitionShap()])
    panel = two([ll.Gradient(), ll.RISE(100, cells=3)])
    assert [each.arithmetic for each in panel.values()] == ["plain", "two-precision"]
    assert any("does not sample in two precisions" in note for note in panel["gradient"].notes)


class Stubborn(nn.Module):
    """Multiplies by a float32 constant that is no buffer, which a bfloat16 copy cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = torch.ones(64, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows.flatten(1)[:, :64] @ self.constant) * self.scale


class Infinite(nn.Module):
    """Overflows in bfloat16 alone."""

    def forward(self, rows: Tensor) -> Tensor:
        outputs = rows.flatten(1)[:, :5]
        return outputs if outputs.dtype == torch.float32 else outputs / 0


def test_models_that_cannot_go_on_in_their_own_precision() -> None:
    method = ll.RISE(100, cells=3)
    cases = (
        (net().double(), {"x": inputs().double()}, "float64"),
        (Stubborn(), {}, "RuntimeError"),
        (nn.Sequential(Infinite(), nn.Linear(5, 5)), {}, "NaN or infinite"),
        (net(), {"target": [[0, 1]]}, "several targets"),
        (net(), {"target": ll.Neuron("0", (1, 2, 2))}, "reads a layer"),
        (ll.BlackBox(lambda rows: rows.reshape(len(rows), -1)[:, :5]), {}, "black box"),
    )
    for model, options, reason in cases:
        a = two(method, model, **options)
        wanted = plain(method, model=model, **options)
        assert torch.equal(a.values, wanted.values) and a.arithmetic == "plain"
        assert any("not in two precisions, because" in note and reason in note for note in a.notes), reason


def test_the_users_model_is_as_before() -> None:
    model = net()
    before = [(each, each.data_ptr(), each.detach().clone()) for each in (*model.parameters(), *model.buffers())]
    two(ll.RISE(64, cells=3), model)
    after = [*model.parameters(), *model.buffers()]
    for (each, place, values), now in zip(before, after, strict=True):
        assert each is now and now.data_ptr() == place and torch.equal(now, values)


def test_every_coalition_is_run_in_float32() -> None:
    """Nothing is sampled, so there is nothing to correct."""
    method = ll.Lime(300, players=ll.Grid(2))
    a, wanted = two(method), plain(method)
    assert torch.equal(a.values, wanted.values) and a.arithmetic == "plain"
