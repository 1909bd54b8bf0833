"""Conductance, internal influence and EigenGradCAM by their definitions; lenses of Guided Grad-CAM; XRAI's colours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from .networks import conv_net, pictures

D = torch.float64


def chain() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3)
    ).double()  # fmt: skip


def by_hand(net: nn.Module, layer: int, x: Tensor, b: Tensor, times: list[float], target: int) -> tuple[Any, Any]:
    """The layer's outputs and the gradients there at the points of the path, `(times, n, *layer)`."""
    outputs, gradients = [], []
    for t in times:
        h = net[: layer + 1](b + t * (x - b)).detach().requires_grad_()
        (slope,) = torch.autograd.grad(net[layer + 1 :](h)[:, target].sum(), h)
        outputs.append(h.detach()), gradients.append(slope)
    return torch.stack(outputs), torch.stack(gradients)


@pytest.mark.parametrize("layer", [0, 1, 3, 4])
def test_conductance_by_its_definition(layer: int) -> None:
    net, x, steps = chain(), pictures(2), 6
    b = torch.full_like(x, 0.25)
    h, g = by_hand(net, layer, x, b, [k / steps for k in range(steps + 1)], 2)
    expected = ((g[1:] + g[:-1]) / 2 * h.diff(dim=0)).sum(0)
    a = ll.explain(net, x, ll.Conductance(layer, steps), target=2, baseline=0.25)
    torch.testing.assert_close(a.raw, expected, atol=1e-12, rtol=1e-9)
    assert a.layer == str(layer) and a.values.shape == ((2, 1, 8, 8) if layer < 2 else expected.shape)
    torch.testing.assert_close(a.values.flatten(1).sum(1), expected.flatten(1).sum(1))
    for rows in (1, 3, 100):
        alone = ll.explain(net, x[1:], ll.Conductance(layer, steps), target=2, baseline=0.25, rows_per_pass=rows)
        torch.testing.assert_close(alone.values, a.values[1:], atol=1e-12, rtol=1e-9)
    assert alone.forward_rows == 1 + 1 + 1 + steps + 1  # the input, the baseline beside the probe, and the path


@pytest.mark.parametrize("layer", ["0", "1", "3", "4"])
def test_conductance_sums_to_the_change_with_an_error_of_second_order(layer: str) -> None:
    net, x = chain(), pictures(2)
    errors = [ll.explain(net, x, ll.Conductance(layer, n), target=1).delta.abs().max() for n in (8, 16, 32)]
    assert float(errors[2]) < 1e-3
    if float(errors[0]) > 1e-12:  # a linear rest of the network is exact
        assert 3.5 < float(errors[0] / errors[1]) < 4.5 and 3.5 < float(errors[1] / errors[2]) < 4.5


def test_conductance_of_a_linear_rest_is_the_change_of_each_unit() -> None:
    net, x = chain()[:3].append(nn.Linear(64, 3)).double(), pictures(1)
    a = ll.explain(net, x, ll.Conductance("2", 1), target=2)
    h = net[:3](x) - net[:3](torch.zeros_like(x))
    torch.testing.assert_close(a.values, (net[3].weight[2] * h).detach())


def test_conductance_and_layer_integrated_gradients_take_different_paths() -> None:
    """h = (t, t^2) for x = t and f = h1 h2: conductance integrates t^2 dt + t d(t^2), the straight line h1 = h2 = t."""

    class Bent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            h = self.h(torch.cat([x, x**2], 1))
            return h[:, :1] * h[:, 1:]

    x = torch.ones(1, 1, dtype=D)
    bent = ll.explain(Bent(), x, ll.Conductance("h", 2000)).values
    torch.testing.assert_close(bent, torch.tensor([[1 / 3, 2 / 3]], dtype=D), atol=1e-6, rtol=0)
    straight = ll.explain(Bent(), x, ll.AtLayer(ll.IntegratedGradients(4), "h")).values
    torch.testing.assert_close(straight, torch.tensor([[0.5, 0.5]], dtype=D))


@pytest.mark.parametrize("layer", [0, 1, 3, 4])
@pytest.mark.parametrize("rule", [ll.Midpoint(5), ll.GaussLegendre(4), ll.Trapezoid(4), 6], ids=repr)
def test_internal_influence_by_its_definition(layer: int, rule: Any) -> None:
    net, x = chain(), pictures(2)
    nodes = list(ll.GaussLegendre(6) if rule == 6 else rule)
    _, g = by_hand(net, layer, x, torch.zeros_like(x), [t for t, _ in nodes], 1)
    expected = sum(weight * each for (_, weight), each in zip(nodes, g, strict=True))
    a = ll.explain(net, x, ll.InternalInfluence(layer, rule), target=1)
    torch.testing.assert_close(a.raw, expected, atol=1e-12, rtol=1e-9)
    assert not a.complete and bool(a.delta.isnan().all())


def test_layers_are_those_of_the_question_and_run_once() -> None:
    net, x = chain(), pictures(1)
    for method in (ll.Conductance(steps=3), ll.InternalInfluence(quadrature=3)):
        asked = ll.explain(net, x, method, target=0, layer="1")
        text = f"{method.kebab()}(layer=1, {'steps' if isinstance(method, ll.Conductance) else 'quadrature'}=3)"
        named = ll.explain(net, x, text, target=0)
        assert asked.layer == named.layer == "1"
        torch.testing.assert_close(asked.values, named.values)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.idle = nn.Tanh(), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.act(x)).flatten(1)

    with pytest.raises(ValueError, match="'act' runs 2 times in a forward pass; choose a module that runs once"):
        ll.explain(Twice(), x, ll.Conductance("act"), target=0)
    with pytest.raises(ValueError, match="'idle' does not run, or does not depend on the inputs"):
        ll.explain(Twice(), x, ll.InternalInfluence("idle"), target=0)
    with pytest.raises(TypeError, match="Conductance: there is no setting 'n_steps'; use steps"):
        ll.Conductance(n_steps=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"InternalInfluence\.quadrature=0: use a number of nodes"):
        ll.InternalInfluence(quadrature=0)


@pytest.mark.parametrize(
    "inner",
    [
        ll.Gradient(),
        ll.IntegratedGradients(ll.Midpoint(4)),
        ll.ExpectedGradients(4),
        ll.DeepLift(),
        ll.Occlusion(4, 2),
        ll.SmoothGrad(samples=4, noise=0.0),
    ],
    ids=repr,
)
def test_guided_grad_cam_through_any_lens(inner: ll.Method) -> None:
    net, x, b = conv_net(), pictures(2), ll.Samples(pictures(4, seed=8), n=2)
    a = ll.explain(net, x, ll.GuidedGradCAM(inner=inner), target=1, baseline=b)
    where = ll.explain(net, x, ll.GradCAM(), target=1)
    what = ll.explain(net, x, inner, target=1, baseline=b).values
    if isinstance(inner, ll.ExpectedGradients):  # other random numbers, named after the method
        assert a.values.shape == what.shape
    else:
        torch.testing.assert_close(a.values, what * where.values)
    torch.testing.assert_close(a.raw, where.raw)


def test_guided_grad_cam_as_published_and_what_it_refuses() -> None:
    net, x = conv_net(), pictures(2)
    plain, named = (
        ll.explain(net, x, m, target=1) for m in (ll.GuidedGradCAM(), ll.GuidedGradCAM(inner=ll.GuidedBackprop()))
    )
    assert torch.equal(plain.values, named.values) and plain.forward_rows == named.forward_rows
    assert ll.parse_method("guided-grad-cam(inner=occlusion(4))") == ll.GuidedGradCAM(inner=ll.Occlusion(4))
    for wrong in (ll.GradCAM(), "gradient"):
        with pytest.raises(ValueError, match=r"GuidedGradCAM\.inner=.*: use a method that reads no layer"):
            ll.GuidedGradCAM(inner=wrong)  # type: ignore[arg-type]


def test_eigen_grad_cam_by_its_definition() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.EigenGradCAM(relu=False), target=1, layer="stem")
    h = net.stem(x).detach().requires_grad_()
    (g,) = torch.autograd.grad(net.head(net.act(h + net.body(h)).mean((2, 3)))[:, 1].sum(), h)
    for i in range(2):
        table = (g * h)[i].detach().flatten(1).T
        table = table - table.mean(0)
        vectors = torch.linalg.eigh(table.T @ table).eigenvectors
        along = (table @ vectors[:, -1]).view(8, 8)
        along = along * torch.sign((along.flatten() * table.sum(1)).sum())
        torch.testing.assert_close(a.raw[i, 0], along, atol=1e-10, rtol=1e-7)
    other = ll.explain(net, x, ll.EigenGradCAM(), target=2, layer="stem")
    assert not torch.allclose(other.values, ll.explain(net, x, ll.EigenGradCAM(), target=1, layer="stem").values)


def test_the_colours_of_xrai() -> None:
    """Two columns of one-pixel regions: where one colour speaks for and one against, their maximum is positive."""
    weights = torch.tensor([[[1.0, 0.0]], [[-2.0, 0.5]], [[0.0, 0.25]]], dtype=D)
    model = ll.Differentiable(lambda rows: (weights * rows).flatten(1).sum(1, keepdim=True))
    x, pixels = torch.ones(1, 3, 1, 2, dtype=D), torch.tensor([[0, 1]])
    for colours, expected in (("sum", [-1.0, 0.75]), ("max", [1.0, 0.5])):
        method = ll.XRAI(ll.InputXGradient(), pixels, colours=colours)  # type: ignore[arg-type]
        assert ll.explain(model, x, method, target=0).values.flatten().tolist() == expected
    with pytest.raises(ValueError, match=r"XRAI\.colours='mean': use 'sum' or 'max'"):
        ll.XRAI(colours="mean")  # type: ignore[arg-type]
