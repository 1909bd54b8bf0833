"""The numbers that the methods' definitions give by hand."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods import QUADRATURES

from .networks import CASES, ReluOfDifference, conv_net, linear_net, pictures, smooth_net

pytestmark = pytest.mark.quick

D = torch.float64


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=D)


@pytest.mark.parametrize("rewritten", [False, True])
def test_integrated_gradients_does_not_depend_on_how_the_function_is_written(rewritten: bool) -> None:
    # Along t(3, 1) the function is 0 until t = 1/2 and has gradient (1, -1) from there.
    a = ll.explain(ReluOfDifference(rewritten), row(3, 1), ll.IntegratedGradients(ll.Midpoint(100)))
    torch.testing.assert_close(a.values, row(1.5, -0.5), atol=1e-12, rtol=0)
    assert abs(float(a.delta)) < 1e-12 and float(a.score) == 1 and float(a.baseline_score) == 0


def test_integrated_gradients_sees_what_a_saturated_gradient_does_not() -> None:
    saturated = ll.Differentiable(lambda x: 1 - torch.relu(1 - x))
    p = ll.explain(saturated, row(2), [ll.Gradient(), ll.IntegratedGradients(ll.Midpoint(10))])
    assert float(p["gradient"].values) == 0
    assert float(p["integrated-gradients"].values) == pytest.approx(1, abs=1e-12)
    assert any("identically zero" in note for note in p["gradient"].notes)


def test_integrated_gradients_of_a_separable_function() -> None:
    f = ll.Differentiable(lambda x: (5 * x[:, 0] + x[:, 1] ** 2 + torch.sin(x[:, 2]))[:, None])
    a = ll.explain(f, row(1, 2, 3), "integrated-gradients(gauss-legendre(32))", baseline=row(0.5, 1, 1))
    torch.testing.assert_close(a.values, row(2.5, 3, math.sin(3) - math.sin(1)), atol=1e-9, rtol=0)
    assert float(a.values[0, 2]) == pytest.approx(-0.7004, abs=5e-5)


@pytest.mark.parametrize(
    ("rule", "order"), [(ll.RiemannLeft, 1), (ll.RiemannRight, 1), (ll.Midpoint, 2), (ll.Trapezoid, 2)]
)
def test_quadratures_converge_at_their_order(rule: type[ll.Quadrature], order: int) -> None:
    net, x = smooth_net(), torch.linspace(-1.5, 2, 6, dtype=D)[None]
    exact = ll.explain(net, x, ll.IntegratedGradients(ll.GaussLegendre(64)), target=1).values

    def error(intervals: int) -> float:
        n = intervals + 1 if rule is ll.Trapezoid else intervals
        return float((ll.explain(net, x, ll.IntegratedGradients(rule(n)), target=1).values - exact).abs().max())

    observed = math.log2(error(64) / error(128))
    assert observed == pytest.approx(order, abs=0.1)


def test_gauss_legendre_is_spectrally_accurate_and_weights_sum_to_one() -> None:
    net, x = smooth_net(), torch.linspace(-1, 1, 6, dtype=D)[None]
    a = ll.explain(net, x, ll.IntegratedGradients(ll.GaussLegendre(16)), target=0)
    assert abs(float(a.delta)) < 1e-9 * abs(float(a.score - a.baseline_score))
    for rule in (ll.GaussLegendre, ll.Midpoint, ll.RiemannLeft, ll.RiemannRight, ll.Trapezoid):
        assert sum(weight for _, weight in rule(7)) == pytest.approx(1, abs=1e-14)


def test_right_riemann_is_the_textbook_sum() -> None:
    assert list(ll.RiemannRight(4)) == [(0.25, 0.25), (0.5, 0.25), (0.75, 0.25), (1.0, 0.25)]
    with pytest.raises(ValueError, match=r"Trapezoid\.n=1"):
        ll.Trapezoid(1)


def test_grad_cam_worked_example() -> None:
    conv, linear = nn.Conv2d(1, 2, 3), nn.Linear(8, 4)
    with torch.no_grad():
        conv.weight.fill_(1)
        conv.bias.copy_(torch.tensor([-50.0, -75.0]))
        linear.weight.copy_(torch.tensor([[1.0] * 5 + [-1.0] * 3] * 4))
        linear.bias.zero_()
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), linear, nn.ReLU()).double()
    x = torch.arange(16, dtype=D).view(1, 1, 4, 4)
    a = ll.explain(net, x, ll.GradCAM(relu=False), target=0, layer="0")
    torch.testing.assert_close(a.raw, torch.tensor([[[[11.25, 13.5], [20.25, 22.5]]]], dtype=D))
    assert a.values.shape == (1, 1, 4, 4) and a.layer == "0"


def test_occlusion_worked_example() -> None:
    x = torch.zeros(1, 1, 5, 5, dtype=D)
    x[0, 0, 1, 1] = x[0, 0, 3, 3] = 1
    f = ll.Differentiable(lambda x: 3 * x.flatten(1).sum(1, keepdim=True))
    a = ll.explain(f, x, ll.Occlusion(3, 1, reduce="sum"))
    expected = [[3, 6, 6, 3, 0], [6, 15, 18, 12, 3], [6, 18, 24, 18, 6], [3, 12, 18, 15, 6], [0, 3, 6, 6, 3]]
    torch.testing.assert_close(a.values[0, 0], torch.tensor(expected, dtype=D))


def test_occlusion_of_single_features() -> None:
    # linear2-relu net of the notes; hiding one feature at a time is feature ablation: (80, 200, 120).
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        net[0].weight.fill_(1), net[0].bias.copy_(torch.tensor([-10.0, 1, 1, 1]))
        net[2].weight.fill_(1), net[2].bias.fill_(-1)
    a = ll.explain(net, row(20, 50, 30), ll.Occlusion(1, 1))
    torch.testing.assert_close(a.values, row(80, 200, 120))


def test_occlusion_covers_the_border_with_a_whole_window() -> None:
    x = torch.ones(1, 1, 7, dtype=D)
    f = ll.Differentiable(lambda x: x.flatten(1).sum(1, keepdim=True))
    a = ll.explain(f, x, ll.Occlusion(3, 3, reduce="sum"))  # windows at 0, 3 and 4
    assert a.values[0, 0].tolist() == [3, 3, 3, 3, 6, 6, 3]
    assert any("never hidden" in note for note in ll.explain(f, x, ll.Occlusion(1, 2 + 2)).notes)


def test_input_x_gradient_and_completeness_on_a_linear_model() -> None:
    net, x = linear_net(), pictures()
    g = ll.explain(net, x, "gradient", target=[0, 1, 2])
    for method in CASES:
        if method.no_sum is None:
            a = ll.explain(net, x, method, target=[0, 1, 2], baseline=ll.Constant(0.25))
            # Players' are shares of groups of pixels, a layer's are its own, and IDGI weighs by the squared gradient.
            if not (hasattr(method, "players") or isinstance(method, ll.AtLayer | ll.Conductance | ll.IDGI)):
                torch.testing.assert_close(a.values, (x - 0.25) * g.values, atol=1e-12, rtol=1e-9)
            assert a.delta.abs().max() < 1e-10
    torch.testing.assert_close(ll.explain(net, x, "input-x-gradient", target=[0, 1, 2]).values, x * g.values)


@pytest.mark.parametrize("inner", [ll.Gradient(), ll.IntegratedGradients(ll.Midpoint(3)), ll.Occlusion(4, 4)])
@pytest.mark.parametrize("antithetic", [False, True])
def test_smoothing_statistics_equal_plain_ones_over_the_same_samples(inner: ll.Method, antithetic: bool) -> None:
    net, x = conv_net(), pictures(2)
    maps: list[Tensor] = []

    class Spy(type(inner)):  # type: ignore[misc]
        def run(self, score, x, baseline, rng):  # type: ignore[no-untyped-def]
            estimate = super().run(score, x, baseline, rng)
            maps.append(estimate.values)
            return estimate

    spy = Spy(**{each.name: getattr(inner, each.name) for each in fields(inner)})
    settings = {"samples": 6, "antithetic": antithetic}
    found = {}
    for kind in (ll.SmoothGrad, ll.SmoothGradSquared, ll.VarGrad):
        maps.clear()
        found[kind] = ll.explain(net, x, kind(spy, **settings), target=1)
        each = torch.cat(maps).reshape(6, 2, *maps[0].shape[1:])  # sample-major
        units = each.reshape(3, 2, *each.shape[1:]) if antithetic else each[:, None]
        if kind is ll.VarGrad:
            expected = each.var(0, correction=0)
            shifted = units - each.mean(0)
            influence = shifted.square().mean(1)  # how far each unit's mean squared deviation is from the rest
        else:
            power = each if kind is ll.SmoothGrad else each**2
            expected = power.mean(0)
            influence = (units if kind is ll.SmoothGrad else units**2).mean(1)
        torch.testing.assert_close(found[kind].values, expected, atol=1e-13, rtol=1e-9)
        stderr = influence.std(0) / math.sqrt(len(influence))
        torch.testing.assert_close(found[kind].stderr, stderr, atol=1e-13, rtol=1e-7)


def test_antithetic_pairs_give_the_exact_gradient_of_a_quadratic() -> None:
    f = ll.Differentiable(lambda x: (x**2).sum(1, keepdim=True))
    x = row(1, -2, 0.5)
    a = ll.explain(f, x, ll.SmoothGrad(samples=8))  # the gradient is odd in the noise: a pair cancels it
    torch.testing.assert_close(a.values, 2 * x, atol=1e-12, rtol=0)
    loose = ll.explain(f, x, ll.SmoothGrad(samples=8, antithetic=False))
    assert (loose.values - 2 * x).abs().max() > 1e-3


def test_variance_is_never_negative_where_the_mean_square_formula_is() -> None:
    f = ll.Differentiable(lambda x: 1e8 * x.sum(1, keepdim=True))
    a = ll.explain(f, row(1, 2), ll.VarGrad(samples=8))
    assert a.values.tolist() == [[0.0, 0.0]]


def test_expected_gradients_reach_integrated_gradients_averaged_over_references() -> None:
    net, x = conv_net(), pictures(2)
    data = ll.Samples(pictures(4, seed=9), n=4)
    exact = ll.explain(net, x, ll.IntegratedGradients(ll.GaussLegendre(64)), target=0, baseline=data)
    a = ll.explain(net, x, ll.ExpectedGradients(samples=512), target=0, baseline=data)
    error = (a.values - exact.values).flatten(1).norm(dim=1)
    assert (error / exact.values.flatten(1).norm(dim=1) < 0.05).all()
    assert (error < 2 * a.stderr.flatten(1).norm(dim=1)).all()  # independent draws would be at about 1
    assert exact.spread is not None and float(exact.spread.max()) > 0
    torch.testing.assert_close(a.baseline_score, exact.baseline_score)


def test_adaptive_integration_meets_its_tolerance_and_says_when_it_does_not() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.IntegratedGradients(ll.GaussLegendre(2), tolerance=1e-3), target=0)
    change = (a.score - a.baseline_score).abs()
    assert (a.delta.abs() <= 1e-3 * change).all()
    assert [note.split(":")[0] for note in a.notes if " converged with" in note] == ["example 0", "example 1"]
    hard = ll.IntegratedGradients(ll.RiemannRight(2), tolerance=1e-12, most_nodes=8)
    assert sum("NOT converged" in note for note in ll.explain(net, x, hard, target=0).notes) == 2


@pytest.mark.parametrize("rule", QUADRATURES, ids=lambda rule: rule.__name__)
def test_refinement_wastes_no_row(rule: type[ll.Quadrature]) -> None:
    """Every node that was run is in the map: three of the rule, then one in each of the gaps that miss most."""
    net, x = conv_net(), pictures(1)
    a = ll.explain(net, x, ll.IntegratedGradients(rule(3), tolerance=1e-12, most_nodes=27), target=0)
    (nodes,) = {int(part.split(" nodes")[0].split()[-1]) for part in a.notes if "NOT converged" in part}
    assert a.backward_rows == nodes == 27
    exact, coarse = (
        ll.explain(net, x, ll.IntegratedGradients(each), target=0).values for each in (ll.GaussLegendre(60), 9)
    )
    assert (a.values - exact).abs().sum() < (coarse - exact).abs().sum()  # wherever its first three nodes are


def test_smoothing_stops_each_example_by_itself() -> None:
    net, x = conv_net(), pictures(3)
    method = ll.SmoothGrad(samples=64, tolerance=0.2, noise=0.3)
    together = ll.explain(net, x, method, target=0)
    assert together.forward_rows < 3 + 3 * 64
    assert sum("converged after" in note for note in together.notes) == 3
    for i in range(3):
        alone = ll.explain(net, x[i : i + 1], method, target=0)
        torch.testing.assert_close(alone.values[0], together.values[i], atol=1e-13, rtol=1e-9)
    error = together.stderr.flatten(1).norm(dim=1) / together.values.flatten(1).norm(dim=1)
    assert (error <= 0.2).all()


NETS = {"relu": ReluOfDifference(), "smooth": smooth_net(2)}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize(
    "method",
    [
        ll.IntegratedGradients(),
        ll.ExpectedGradients(8),
        ll.ExpectedGradients(8, noise=0.1),
        ll.DeepLift(),
        ll.DeepLift("reveal-cancel"),
        ll.DeepShap(),
    ],
    ids=repr,
)
def test_without_the_factor_a_map_is_per_unit_of_the_input(net: nn.Module, method: Any) -> None:
    """Times x - b it is the map with the factor, which the same passes make."""
    x, b = torch.tensor([[3.0, 1.0], [2.0, -0.5]], dtype=D), torch.tensor([[0.25, -0.5]], dtype=D)
    whole, bare = (ll.explain(net, x, replace(method, multiply=each), target=0, baseline=b) for each in (True, False))
    if not isinstance(method, ll.ExpectedGradients) or not method.noise:
        torch.testing.assert_close((x - b) * bare.values, whole.values)
        torch.testing.assert_close(((x - b) * bare.values).sum(1) - (bare.score - bare.baseline_score), whole.delta)
    assert not bare.complete and bool(bare.delta.isnan().all()) and "per unit of the input" in bare.method.no_sum
    assert not any(note.kind == "incomplete" for note in bare.notes)
    assert bare.forward_rows == whole.forward_rows
    alone = ll.explain(net, x[1:], replace(method, multiply=False), target=0, baseline=b, rows_per_pass=1)
    torch.testing.assert_close(alone.values, bare.values[1:])


@pytest.mark.parametrize("rule", [ll.GaussLegendre(4), ll.Midpoint(4)], ids=repr)
def test_an_average_gradient_meets_its_tolerance(rule: ll.Quadrature) -> None:
    """The map without the factor is what is to settle, and f(x) - f(b) what the one with it is to sum to."""
    net, x, b = smooth_net(2), torch.tensor([[3.0, 1.0], [2.0, -0.5]], dtype=D), torch.tensor([[0.25, -0.75]], dtype=D)
    a = ll.explain(net, x, ll.IntegratedGradients(rule, 0.01, multiply=False), target=0, baseline=b)
    truth = ll.explain(net, x, ll.IntegratedGradients(512), target=0, baseline=b).values / (x - b)
    assert bool(((a.values - truth).abs().sum(1) <= 0.01 * truth.abs().sum(1)).all())
    assert bool((((x - b) * a.values).sum(1) - (a.score - a.baseline_score)).abs().max() <= 0.01)
    assert len([note for note in a.notes if note.startswith("example") and ": converged with" in note]) == 2


def test_the_average_gradient_and_the_multipliers_by_hand() -> None:
    """The gradient of relu(relu(a) - 1 - relu(b)) along (3, 1) t: both units are on from t = 1/2 to 1."""
    net, x = ReluOfDifference(), torch.tensor([[3.0, 1.0]], dtype=D)
    a = ll.explain(net, x, ll.IntegratedGradients(ll.Midpoint(1000), multiply=False))
    torch.testing.assert_close(a.values, torch.tensor([[0.5, -0.5]], dtype=D))
    # relu(a) and relu(b) have slope 1 from 0; the last relu rises by 1 where its input rises by 2.
    for method in (ll.DeepLift(multiply=False), ll.DeepShap(multiply=False)):
        torch.testing.assert_close(ll.explain(net, x, method).values, torch.tensor([[0.5, -0.5]], dtype=D))


def test_a_number_is_that_many_equal_nodes_without_refinement() -> None:
    assert ll.IntegratedGradients(50) == ll.IntegratedGradients(ll.Midpoint(50)) == ll.IntegratedGradients(n_steps=50)
    assert ll.IntegratedGradients(50).stop is None and ll.IntegratedGradients(50).rows(torch.Size([3])) == 50
    assert replace(ll.IntegratedGradients(n_steps=50), tolerance=0.1) == ll.IntegratedGradients(50, tolerance=0.1)
    assert ll.parse_method("integrated-gradients(n_steps=50)").as_text() == "integrated-gradients(midpoint(50))"
    assert ll.parse_method("integrated-gradients(tolerance=0.02)") == ll.IntegratedGradients(tolerance=0.02)
    with pytest.raises(ValueError, match="n_steps=50: use it or quadrature=7"):
        ll.IntegratedGradients(7, n_steps=50)
    assert ll.parse_method("integrated-gradients(50, tolerance=0.1)") == ll.IntegratedGradients(50, tolerance=0.1)
    assert ll.parse_method(ll.IntegratedGradients(50).as_text()) == ll.IntegratedGradients(50)
    net, x = smooth_net(2), torch.rand(1, 2, dtype=D)
    a, b = (ll.explain(net, x, ll.IDGI(ll.IntegratedGradients(each)), target=0) for each in (7, ll.Midpoint(7)))
    assert torch.equal(a.values, b.values)  # IDGI takes as many equal steps, whatever the nodes
    for wrong in (0, -3, True, 2.5, "fifty"):
        with pytest.raises(ValueError, match=r"IntegratedGradients\.quadrature=.*: use a number of nodes, or a Quad"):
            ll.IntegratedGradients(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ll.IntegratedGradients(steps=50), "IntegratedGradients: there is no setting 'steps'; use quadrature"),
        (lambda: ll.InternalInfluence(n_steps=50), "there is no setting 'n_steps'; use quadrature"),
        (lambda: ll.SmoothGrad(n_samples=8), "there is no setting 'n_samples'; use samples"),
        (lambda: ll.Occlusion(strides=8), "there is no setting 'strides'; use stride"),
        (lambda: ll.KernelShap(draws=8), "there is no setting 'draws'; its settings: samples, players, tolerance"),
        (lambda: ll.Gradient(abs=True), "Gradient: there is no setting 'abs'; its settings: none"),
        (lambda: ll.Blur(sigmas=8), "Blur: there is no setting 'sigmas'; use sigma"),
        (lambda: replace(ll.RISE(), mask=8), "RISE: there is no setting 'mask'; use masks"),
    ],
    ids=lambda part: part if isinstance(part, str) else "setting",
)
def test_a_setting_that_does_not_exist(make: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make()


def test_the_text_of_a_setting_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"cannot read 'integrated-gradients\(steps=50\)' \(.*; use quadrature\)"):
        ll.parse_method("integrated-gradients(steps=50)")
    with pytest.raises(ValueError, match=r"IDGI\.inner=.*use one with multiply=True: IDGI reads its path alone"):
        ll.IDGI(ll.IntegratedGradients(multiply=False))
