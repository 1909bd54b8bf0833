"""The path family, AtLayer and the Taylor decomposition, against numbers that their definitions give by hand."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods.at_layer import spread

from .networks import conv_net, linear_net, pictures, smooth_net

pytestmark = pytest.mark.quick

D = torch.float64


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=D)


def square_of_sum() -> nn.Module:
    """f = (2x + y)^2."""
    return ll.Differentiable(lambda x: ((2 * x[:, 0] + x[:, 1]) ** 2)[:, None])


class Spiky(nn.Module):
    """A saturating, kinked function in which eight steps of any quadrature miss much."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.sin(9 * x[:, :1]) - x[:, 1:2]) + torch.tanh(40 * (x[:, 1:2] - 0.5)) * x[:, :1]


# Guided IG --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [8, 64, 200])
def test_guided_path_moves_the_flat_direction_first(steps: int) -> None:
    # df/dy = 2(2x + y) is half of df/dx, so y goes first: 9 on x = 0; then x from 0 to 3 at y = 3: 81 - 9.
    a = ll.explain(square_of_sum(), row(3, 3), ll.GuidedIntegratedGradients(steps, max_dist=1.0))
    torch.testing.assert_close(a.values, row(72, 9), atol=1e-9, rtol=0)
    assert abs(float(a.delta)) < 1e-9


@pytest.mark.parametrize("settings", [{"max_dist": 0.0}, {"fraction": 1.0}, {"fraction": 1.0, "max_dist": 1.0}])
def test_guided_path_without_freedom_is_the_straight_line(settings: dict[str, float]) -> None:
    a = ll.explain(square_of_sum(), row(3, 3), ll.GuidedIntegratedGradients(**settings))  # type: ignore[arg-type]
    torch.testing.assert_close(a.values, row(54, 27), atol=1e-9, rtol=0)


def test_guided_path_stays_within_its_distance_and_brings_the_distance_down_evenly() -> None:
    net, x, b = conv_net(), pictures(2), torch.full((2, 3, 8, 8), 0.3, dtype=D)
    seen: list[Tensor] = []

    class Spy(ll.GuidedIntegratedGradients):
        def walk(self, score, x, baseline):  # type: ignore[no-untyped-def]
            for step in super().walk(score, x, baseline):
                seen.append(step.after)
                yield step

    ll.explain(net, x, Spy(steps=10, max_dist=0.15), target=0, baseline=0.3, rows_per_pass=8)
    whole = (x - b).abs().flatten(1).sum(1)
    moved = [torch.zeros_like(x)]
    for k, point in enumerate(seen, start=1):
        torch.testing.assert_close((x - point).abs().flatten(1).sum(1) / whole, torch.full((2,), 1 - k / 10, dtype=D))
        share = (point - b) / (x - b)
        assert share.min() > k / 10 - 0.15 - 1e-9 and share.max() < k / 10 + 0.15 + 1e-9
        assert (share >= moved[-1] - 1e-12).all()  # nothing goes back
        moved.append(share)
    assert len(seen) == 10 and torch.equal(seen[-1], x)
    assert (moved[5] - moved[5].mean()).abs().max() > 0.1  # it uses its freedom


def test_guided_path_is_complete_at_any_number_of_steps_and_says_when_that_took_much() -> None:
    x = torch.tensor([[0.9, 0.8], [0.3, -0.4]], dtype=D)
    for steps in (2, 7):
        a = ll.explain(Spiky(), x, ll.GuidedIntegratedGradients(steps, max_dist=0.5), baseline=-0.2)
        assert a.delta.abs().max() < 1e-12 and (a.score - a.baseline_score).abs().min() > 0.05
        assert any("steps' own error" in note for note in a.notes)
    fine = ll.explain(Spiky(), x, ll.GuidedIntegratedGradients(2000, max_dist=0.5), baseline=-0.2)
    assert fine.delta.abs().max() < 1e-10 and not any("steps' own error" in note for note in fine.notes)


def test_guided_path_of_a_saturated_start_is_ordered_by_what_comes_next() -> None:
    # At 0 the gradient is zero. y's slope is the smaller one on the way, so it goes first and gets relu(y) = 1 alone.
    f = ll.Differentiable(lambda x: torch.relu(x[:, :1]) * 2 + torch.relu(x[:, 1:]))
    a = ll.explain(f, row(1, 1), ll.GuidedIntegratedGradients(10, max_dist=1.0))
    torch.testing.assert_close(a.values, row(2, 1), atol=1e-12, rtol=0)


# Blur IG ----------------------------------------------------------------------------------------------


def test_blur_path_of_a_sum_is_the_input_less_its_blur() -> None:
    x = torch.zeros(1, 1, 5, 5, dtype=D)
    x[0, 0, 1, 1], x[0, 0, 2, 2] = 0.7, 1
    f = ll.Differentiable(lambda x: x.flatten(1).sum(1, keepdim=True))
    a = ll.explain(f, x, ll.BlurIntegratedGradients(max_sigma=10))
    # The gradient is 1 everywhere, so the integral is x - blur(x), whatever the steps. A blur of 10 pixels leaves a
    # point about 1 / (2 pi 100) of its height.
    blurred = ll.Blur(10).references(x, None)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(a.values, x - blurred, atol=1e-12, rtol=0)
    assert float(blurred[0, 0, 2, 2]) == pytest.approx(1.7 / (200 * torch.pi), rel=0.05)


def test_blur_path_is_complete_with_respect_to_the_blurred_input() -> None:
    net, x = conv_net(), pictures(2)
    blurred = ll.Blur(4).references(x, None)[0]  # type: ignore[arg-type]
    change = (net(x) - net(blurred))[:, 1].detach()
    a = ll.explain(net, x, ll.BlurIntegratedGradients(steps=150, max_sigma=4), target=1)
    torch.testing.assert_close(a.values.flatten(1).sum(1), change, atol=1e-4, rtol=0)
    assert a.delta.isnan().all() and sum("f(x blurred by 4 pixels)" in note for note in a.notes) == 2


def test_blur_path_does_not_depend_on_the_batch() -> None:
    net, x, method = conv_net(), pictures(64), ll.BlurIntegratedGradients(steps=6)
    whole = ll.explain(net, x, method, target=0)
    for i in (0, 31, 63):
        alone = ll.explain(net, x[i : i + 1], method, target=0)
        torch.testing.assert_close(alone.values[0], whole.values[i], atol=1e-13, rtol=1e-10)


def test_blur_path_converges_at_second_order() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 2)).double()
    x = pictures(1)

    def values(steps: int) -> Tensor:
        return ll.explain(net, x, ll.BlurIntegratedGradients(steps, max_sigma=3), target=0).values

    exact = values(256)
    errors = [float((values(steps) - exact).abs().max()) for steps in (16, 32)]
    assert 3.5 < errors[0] / errors[1] < 4.6


def test_blur_path_needs_space() -> None:
    with pytest.raises(ValueError, match=r"inputs: shape \(1, 6\); BlurIntegratedGradients"):
        ll.explain(smooth_net(), torch.zeros(1, 6, dtype=D), "blur-integrated-gradients", target=0)


# IDGI -------------------------------------------------------------------------------------------------


def test_idgi_of_a_linear_model_is_the_squared_gradient() -> None:
    # Sum (1, -2, 3) . x: every step divides its change by g^2 = (1, 4, 9) / 14, in all f(x) - f(b) = 2.
    f = ll.Differentiable(lambda x: (x @ torch.tensor([1.0, -2, 3], dtype=D))[:, None])
    a = ll.explain(f, row(1, 1, 1), ll.IDGI())
    torch.testing.assert_close(a.values, row(1, 4, 9) / 7, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "inner",
    [
        ll.IntegratedGradients(ll.Midpoint(3)),
        ll.GuidedIntegratedGradients(4, max_dist=0.3),
        ll.IntegratedGradients(tolerance=0.1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("rows_per_pass", [None, 1, 5])
def test_idgi_sums_exactly_at_any_number_of_steps(inner: ll.Method, rows_per_pass: int | None) -> None:
    a = ll.explain(conv_net(), pictures(3), ll.IDGI(inner), target=[0, 1, 2], rows_per_pass=rows_per_pass)
    assert a.delta.abs().max() < 1e-12 and a.values.abs().min() >= 0


def test_idgi_leaves_out_points_without_a_gradient_and_stays_complete() -> None:
    # (2x + y)^2 has gradient 0 at 0; everywhere else g^2 is in proportion 4 : 1, and f(x) - f(0) = 81.
    a = ll.explain(square_of_sum(), row(3, 3), ll.IDGI(ll.IntegratedGradients(ll.Midpoint(5))))
    torch.testing.assert_close(a.values, row(64.8, 16.2), atol=1e-12, rtol=0)
    assert "example 0: 1 points of the path have no gradient and were left out" in a.notes
    # Flat, then steep, then flat again: the score runs from .4 to .6, and both features are alike.
    step = ll.Differentiable(lambda x: x.sum(1, keepdim=True).clamp(0.4, 0.6))
    a = ll.explain(step, row(0.5, 0.5), ll.IDGI(ll.IntegratedGradients(ll.Midpoint(10))))
    torch.testing.assert_close(a.values, row(0.1, 0.1), atol=1e-12, rtol=0)
    flat = ll.Differentiable(lambda x: x.sum(1, keepdim=True).clamp(max=0) * 0 + 1)
    a = ll.explain(flat, row(1, 1), ll.IDGI())
    assert a.values.abs().max() == 0 and any("all of them" in note for note in a.notes)


def test_idgi_of_a_blur_promises_what_the_blur_does() -> None:
    net, x = conv_net(), pictures(1)
    a = ll.explain(net, x, ll.IDGI(ll.BlurIntegratedGradients(steps=5, max_sigma=4)), target=0)
    blurred = ll.Blur(4).references(x, None)[0]  # type: ignore[arg-type]
    change = float((net(x) - net(blurred))[0, 0])
    assert float(a.values.sum()) == pytest.approx(change, abs=1e-12) and a.delta.isnan().all()
    with pytest.raises(ValueError, match="a path method"):
        ll.IDGI(ll.Gradient())


# XRAI -------------------------------------------------------------------------------------------------


def coloured(*weights: list[float]) -> nn.Module:
    weight = torch.tensor(weights, dtype=D)
    return ll.Differentiable(lambda x: (x[:, 0] * weight).flatten(1).sum(1, keepdim=True))


def test_xrai_gives_each_given_segment_its_mean() -> None:
    # Inputs of ones: darkest and brightest value are the same 1, so the question's baseline 0 is asked for instead.
    f, x = coloured([1, 3, 5], [2, 4, 9]), torch.ones(1, 1, 2, 3, dtype=D)
    labels = torch.tensor([[7, 7, 2], [7, 2, 2]])
    a = ll.explain(f, x, ll.XRAI(segments=labels, extremes=False))
    expected = torch.tensor([[2, 2, 6], [2, 6, 6]], dtype=D)
    torch.testing.assert_close(a.values[0, 0], expected)  # (1 + 3 + 2) / 3 and (5 + 4 + 9) / 3
    assert a.values.shape == (1, 1, 2, 3) and float(a.values.sum()) == pytest.approx(24)


def test_xrai_averages_the_darkest_and_the_brightest_baseline() -> None:
    # A linear map's attribution is (x - b) w; over b = 0 and b = 1 the mean is (x - 1/2) w.
    f = coloured([1, 3], [2, 4])
    x = torch.tensor([[[[0.0, 1.0], [0.5, 0.75]]]], dtype=D)
    a = ll.explain(f, x, ll.XRAI(segments=ll.Pixels()), baseline=5.0)
    torch.testing.assert_close(a.values[0, 0], torch.tensor([[-0.5, 1.5], [0.0, 1.0]], dtype=D))


def test_xrai_ranks_greedily_by_what_a_segment_adds() -> None:
    from limelight.methods.xrai import _ranked

    maps = torch.tensor([[8.0, 6.0, 1.0, 0.0]], dtype=D)
    masks = torch.tensor([[[1, 1, 0, 0]], [[1, 1, 1, 0]], [[0, 1, 1, 0]]], dtype=torch.bool)
    # First the pair of mean 7; of the others only pixel 2 is left to add; pixel 3 is in no segment.
    assert _ranked(maps, masks, 1).tolist() == [[7, 7, 1, 0]]
    # A segment must add two pixels: the pair, and then nothing; what is left is one region of mean 1/2.
    assert _ranked(maps, masks, 2).tolist() == [[7, 7, 0.5, 0.5]]


def test_xrai_finds_segments_at_several_scales() -> None:
    pytest.importorskip("skimage", reason="scikit-image finds the segments")
    x = torch.zeros(1, 3, 40, 40, dtype=D)
    x[:, :, 10:30, 10:30] = 1
    f = ll.Differentiable(lambda x: x[:, :, 10:30, 10:30].flatten(1).sum(1, keepdim=True))
    a = ll.explain(f, x, ll.XRAI(dilation=0))
    inside = torch.zeros(40, 40, dtype=torch.bool)
    inside[10:30, 10:30] = True
    found = a.values[0, 0]
    assert found[inside].min() > found[~inside].max() and found[inside].unique().numel() < 20


def test_xrai_without_scikit_image_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"limelight\[segments\]"):
        ll.explain(conv_net(), pictures(1), ll.XRAI(ll.Gradient()), target=0)
    ll.explain(conv_net(), pictures(1), ll.XRAI(ll.Gradient(), segments=ll.Grid(2)), target=0)


def test_dilation_is_a_disk() -> None:
    from limelight.methods.xrai import _dilated

    mask = torch.zeros(1, 7, 7, dtype=torch.bool)
    mask[0, 3, 3] = True
    assert int(_dilated(mask, 2).sum()) == 13  # 1 + 3 + 5 + 3 + 1
    assert torch.equal(_dilated(mask, 0), mask)
    corner = torch.zeros(1, 5, 8, dtype=torch.bool)
    corner[0, 0, 0] = True
    y, x = torch.meshgrid(torch.arange(5), torch.arange(8), indexing="ij")
    for radius in (3, 5, 7, 8, 9, 40):  # up to disks larger than the picture
        assert torch.equal(_dilated(corner, radius)[0], y**2 + x**2 <= radius**2), radius


# AtLayer ----------------------------------------------------------------------------------------------


def chain() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Identity(), nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5), nn.Tanh(),
        nn.Linear(5, 3),
    ).double()  # fmt: skip


@pytest.mark.parametrize(
    "inner",
    [
        ll.IntegratedGradients(ll.Midpoint(9)),
        ll.Gradient(),
        ll.InputXGradient(),
        ll.ExpectedGradients(8),
        ll.GuidedIntegratedGradients(6),
        ll.IDGI(ll.IntegratedGradients(ll.Midpoint(6))),
        ll.TaylorDecomposition(),
        ll.SmoothGrad(samples=4),
        ll.DeepLift(),
        ll.DeepLift("reveal-cancel"),
        ll.DeepLift(multiply=False),
        ll.DeepShap(),
        ll.LRP(),
        ll.LRP("epsilon-gamma-box"),
        ll.DeepTaylor(0.0, 1.0),
        ll.DeepTaylor(),
        ll.GuidedBackprop(),
        ll.AttnLRP(),
        ll.ExcitationBackprop(),
        ll.ExcitationBackprop(contrastive=True),
    ],
    ids=repr,
)
def test_at_the_input_layer_a_method_is_itself(inner: ll.Method) -> None:
    net, x, baseline = chain(), pictures(3), ll.Samples(pictures(4, seed=8), n=2)
    own = ll.explain(net, x, inner, target=[0, 1, 2], baseline=baseline)
    at = ll.explain(net, x, ll.AtLayer(inner, "0"), target=[0, 1, 2], baseline=baseline)
    if isinstance(inner, ll.ExpectedGradients | ll.SmoothGrad):  # other random numbers, named after the method
        assert at.values.shape == own.values.shape
    else:
        torch.testing.assert_close(at.values, own.values, atol=1e-13, rtol=1e-10)
    assert at.layer == "0" and torch.equal(at.delta.isnan(), own.delta.isnan())


@pytest.mark.parametrize("layer", ["1", "2", "3", "4", "5"])
def test_layer_integrated_gradients_are_complete_where_the_layer_cuts_the_graph(layer: str) -> None:
    net, x = chain(), pictures(2)
    a = ll.explain(net, x, ll.AtLayer(ll.IntegratedGradients(ll.GaussLegendre(16)), layer), target=1, baseline=0.4)
    assert a.raw is not None
    change = a.score - a.baseline_score
    torch.testing.assert_close(a.raw.flatten(1).sum(1), change, atol=1e-9, rtol=0)
    assert a.delta.abs().max() < 1e-9  # the values too, spread over the pixels where the layer has any
    assert a.values.shape == ((2, 1, 8, 8) if layer in "12" else a.raw.shape)
    assert not any("does not all run" in note for note in a.notes)


def test_layer_integrated_gradients_of_a_linear_tail_by_hand() -> None:
    # f = w . h at layer h: the layer's IG is w (h(x) - h(b)), whatever lies before.
    net, x = chain()[:4].append(nn.Linear(64, 3)).double(), pictures(2)
    a = ll.explain(net, x, ll.AtLayer(ll.IntegratedGradients(ll.Midpoint(1)), "3"), target=2)
    h = net[:4](x) - net[:4](torch.zeros_like(x))
    torch.testing.assert_close(a.values, (net[4].weight[2] * h).detach(), atol=1e-12, rtol=0)


def test_a_skip_connection_around_the_layer_stays_at_the_input_and_is_told() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.AtLayer(ll.IntegratedGradients(ll.GaussLegendre(32)), "body"), target=0)
    # By hand: the tail with the stem's output at x, and the body's moved to what it is at the baseline.
    stem, zero = net.stem(x), net.body(net.stem(torch.zeros_like(x)))
    cut = net.head(net.act(stem + zero).mean((2, 3)))[:, 0]
    assert a.raw is not None
    torch.testing.assert_close(a.raw.flatten(1).sum(1), (a.score - cut).detach(), atol=1e-8, rtol=0)
    assert sum("does not all run through body" in note for note in a.notes) == 2


def test_at_layer_agrees_with_captum() -> None:
    captum = pytest.importorskip("captum.attr", reason="the peer")
    net, x = chain(), pictures(2)
    theirs = captum.LayerIntegratedGradients(net, net[2]).attribute(x, target=1, n_steps=16)
    ours = ll.explain(net, x, ll.AtLayer(ll.IntegratedGradients(ll.GaussLegendre(16)), "2"), target=1)
    torch.testing.assert_close(ours.raw, theirs, atol=1e-9, rtol=1e-6)


def test_at_layer_uses_the_questions_layer_and_refuses_what_it_cannot_ask() -> None:
    net, x = chain(), pictures(1)
    named = ll.explain(net, x, ll.AtLayer(layer="2"), target=0)
    asked = ll.explain(net, x, ll.AtLayer(), target=0, layer="2")
    assert asked.layer == named.layer == "2"
    torch.testing.assert_close(named.values, asked.values)
    with pytest.raises(ValueError, match="'9' is not a module of the model"):
        ll.explain(net, x, ll.AtLayer(layer="9"), target=0)
    for inner in (ll.GradCAM(), ll.GuidedGradCAM(), ll.Occlusion()):
        with pytest.raises(ValueError, match=r"AtLayer\.inner"):
            ll.AtLayer(inner)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.act(x)).flatten(1)

    with pytest.raises(ValueError, match=r"runs more than once|runs 2 times"):
        ll.explain(Twice(), x, ll.AtLayer(layer="act"), target=0)


@pytest.mark.parametrize("rule", ["rescale", "reveal-cancel", "genomics"])
def test_deep_lift_step_by_step_by_hand(rule: Any) -> None:
    """2 relu(a) + 2 relu(b - 1.5) at (1, 2) from 0: contributions (2, 1) at each layer, and the multipliers of it."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2)), net[0].bias.copy_(torch.tensor([0, -1.5]))
        net[2].weight.fill_(2), net[2].bias.zero_()
    x = torch.tensor([[1.0, 2.0]], dtype=D)
    for layer, multipliers in (("0", [2.0, 0.5]), ("1", [2.0, 2.0])):
        contributions = ll.explain(net, x, ll.AtLayer(ll.DeepLift(rule), layer))
        assert contributions.values.tolist() == [[2, 1]] and contributions.delta.tolist() == [0]
        own = ll.explain(net, x, ll.AtLayer(ll.DeepLift(rule, multiply=False), layer))
        assert own.values.tolist() == [multipliers] and not own.complete
        relevance = ll.explain(net, x, ll.AtLayer(ll.LRP("zero"), layer)).values  # 2 relu(1) and 2 relu(0.5), no bias
        torch.testing.assert_close(relevance, torch.tensor([[2.0, 1.0]], dtype=D), atol=1e-8, rtol=0)


class Skip(nn.Module):
    """relu(h(x) + x), whose skip connection runs around the layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.h, self.act, self.out = nn.Linear(4, 4).double(), nn.ReLU(), nn.Linear(4, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.act(self.h(x) + x))
        return found


def test_deep_lift_at_a_layer_beside_a_skip_connection_by_hand() -> None:
    """The multiplier at h is that of the whole network's pass: the sum's change counts, skip connection included."""
    net, x, b = Skip(), pictures(2).flatten(1)[:, :4], torch.full((1, 4), -0.5, dtype=D)
    z, z0 = net.h(x) + x, net.h(b) + b
    m = net.out.weight[1] * (z.relu() - z0.relu()) / (z - z0)
    for rule in ("rescale", "reveal-cancel"):
        a = ll.explain(net, x, ll.AtLayer(ll.DeepLift(rule), "h"), target=1, baseline=-0.5)  # type: ignore[arg-type]
        if rule == "rescale":
            torch.testing.assert_close(a.values, (m * (net.h(x) - net.h(b))).detach())
        own = a.values.sum(1)
        said = [note for note in a.notes if "does not all run through h" in note]
        assert len(said) == 2 and f"the values hold {float(own[0]):.4g}" in said[0]
        cut = ll.explain(net, x, ll.AtLayer(ll.DeepLift(rule), "act"), target=1, baseline=-0.5)  # type: ignore[arg-type]
        torch.testing.assert_close(cut.values.sum(1), cut.score - cut.baseline_score)
        assert not any("does not all run" in note for note in cut.notes)


@pytest.mark.parametrize("layer", ["0", "1", "2", "3", "4", "5"])
@pytest.mark.parametrize("inner", [ll.DeepLift(), ll.DeepLift("reveal-cancel"), ll.DeepShap()], ids=repr)
def test_deep_lift_is_complete_at_every_layer(inner: ll.Method, layer: str) -> None:
    net, x, b = chain(), pictures(3), ll.Samples(pictures(4, seed=8), n=2)
    a = ll.explain(net, x, ll.AtLayer(inner, layer), target=[0, 1, 2], baseline=b)
    assert a.delta.abs().max() < 1e-12 and a.raw is not None
    alone = ll.explain(net, x[1:2], ll.AtLayer(inner, layer), target=1, baseline=b, rows_per_pass=1)
    torch.testing.assert_close(alone.values, a.values[1:2])


@pytest.mark.parametrize("layer", ["1", "2", "4", "5"])
@pytest.mark.parametrize("multiply", [True, False])
def test_deep_lift_at_a_layer_is_captums(layer: str, multiply: bool) -> None:
    captum = pytest.importorskip("captum.attr", reason="the peer")
    net, x = chain(), pictures(2)
    theirs = captum.LayerDeepLift(net, net[int(layer)], multiply).attribute(x, torch.full_like(x, 0.25), target=1)
    ours = ll.explain(net, x, ll.AtLayer(ll.DeepLift(multiply=multiply), layer), target=1, baseline=0.25)
    torch.testing.assert_close(ours.raw, theirs.detach(), atol=1e-9, rtol=1e-6)


def test_relevance_at_a_layer_continues_to_the_input() -> None:
    """LRP of the layers before it, from the relevance at the layer, gives LRP at the input."""
    torch.manual_seed(4)
    first, rest = nn.Linear(6, 5, bias=False), nn.Sequential(nn.ReLU(), nn.Linear(5, 3, bias=False))
    net, x = nn.Sequential(first, *rest).double(), pictures(2).flatten(1)[:, :6]
    at = ll.explain(net, x, ll.AtLayer(ll.LRP("epsilon"), "0"), target=2)
    terms = first.weight * x[:, None]  # (n, out, in)
    shares = terms / terms.sum(2, keepdim=True)
    found = ll.explain(net, x, ll.LRP("epsilon"), target=2).values
    torch.testing.assert_close(found, (at.values[..., None] * shares).sum(1).detach(), atol=1e-5, rtol=1e-5)


def test_a_zero_map_of_a_layer_without_part_in_the_score_is_told() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 2).double(), nn.Linear(4, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            self.a(x)
            found: Tensor = self.b(x)
            return found

    a = ll.explain(Aside(), pictures(1).flatten(1)[:, :4], ll.AtLayer(ll.DeepLift(), "a"), target=0)
    assert not a.values.any() and any(note.kind == "zero-map" for note in a.notes)


def test_layer_values_are_spread_over_pixels_with_their_sum() -> None:
    maps = pictures(2, size=5) - 0.5
    for space in ((5, 5), (8, 13), (3, 4)):
        found = spread(maps, torch.Size(space))
        assert found.shape == (2, 3, *space)
        torch.testing.assert_close(found.flatten(2).sum(2), maps.flatten(2).sum(2))
    assert torch.equal(spread(maps, torch.Size((5, 5))), maps)


def test_at_layer_leaves_the_model_alone_in_the_middle_of_a_pass() -> None:
    net, x = chain(), pictures(2)
    before = [len(module._forward_hooks) for module in net.modules()]
    with pytest.raises(RuntimeError, match="stop"):
        ll.explain(net, x, ll.AtLayer(layer="2"), target=lambda outputs: (_ for _ in ()).throw(RuntimeError("stop")))
    assert [len(module._forward_hooks) for module in net.modules()] == before


# Taylor -----------------------------------------------------------------------------------------------


def test_taylor_around_the_baseline() -> None:
    # f = (x + y)^2 - 4 at (3, 1), root (1, 1) with f = 0 and gradient (4, 4): (8, 0); f(x) - f(root) = 12, 4 left.
    f = ll.Differentiable(lambda x: (x.sum(1) ** 2 - 4)[:, None])
    a = ll.explain(f, row(3, 1), ll.TaylorDecomposition(), baseline=row(1, 1))
    torch.testing.assert_close(a.values, row(8, 0))
    assert any("root at L2 distance 2 with score 0; beyond the first order f(x) - f(root) has 4" in n for n in a.notes)


def test_taylor_finds_the_nearest_root_along_the_gradient() -> None:
    # The gradient at (3, 1) is along (1, 1): the root is (2, 0), at distance sqrt 2, with gradient (4, 4): (4, 4).
    f = ll.Differentiable(lambda x: (x.sum(1) ** 2 - 4)[:, None])
    x = torch.tensor([[3.0, 1.0], [0.5, 0.5]], dtype=D)
    a = ll.explain(f, x, ll.TaylorDecomposition("nearest"))
    # From (.5, .5), where f is negative, the root lies up the gradient: (1, 1), so (4, 4) * (-.5, -.5).
    torch.testing.assert_close(a.values, torch.tensor([[4.0, 4.0], [-2.0, -2.0]], dtype=D), atol=2e-3, rtol=0)
    assert not a.cautions
    alone = ll.explain(f, x[1:], ll.TaylorDecomposition("nearest"))
    torch.testing.assert_close(alone.values[0], a.values[1], atol=1e-14, rtol=0)


def test_taylor_of_a_linear_function_is_exact_whatever_the_root() -> None:
    net, x = linear_net(), pictures(2)
    g = ll.explain(net, x, "gradient", target=0).values
    found = ll.explain(net, x, ll.TaylorDecomposition("nearest"), target=0)
    torch.testing.assert_close(found.values.flatten(1).sum(1), found.score, atol=1e-3, rtol=1e-3)
    root = x - found.values / g
    assert net(root)[:, 0].abs().max() < 2e-4 * float(found.score.abs().max())


def test_taylor_says_when_there_is_no_root() -> None:
    f = ll.Differentiable(lambda x: (x.sum(1) ** 2 + 4)[:, None])
    a = ll.explain(f, row(3, 1), ll.TaylorDecomposition("nearest"))
    assert any("the search for a root did not converge: the smallest |f|" in note for note in a.cautions)
    flat = ll.explain(f, row(1, -1), ll.TaylorDecomposition("nearest"))  # no gradient to search along
    assert flat.values.abs().max() == 0 and any("did not converge" in note for note in flat.cautions)
    with pytest.raises(ValueError, match=r"TaylorDecomposition\.root='closest'"):
        ll.TaylorDecomposition("closest")  # type: ignore[arg-type]
