"""LRP's worked numbers and composites, deep Taylor, excitation backprop and patterns."""

from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.rules import (
    COMPOSITES,
    Epsilon,
    Flat,
    Patterns,
    ZBox,
    composite,
    deep_taylor,
    estimate_patterns,
    excitation,
    multipliers,
    pattern_attribution,
    pattern_net,
    weight_of,
)
from limelight.rules.patterns import Estimator
from tests.rules.helpers import constant, frozen, logit, randomise_batch_norm

pytestmark = pytest.mark.quick


def full(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def test_lrp_worked_numbers() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)

    def rectified(r: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(r, full(2, 3, 3))), full(3, 1, 3))[:, 0]

    # The stabiliser is relative: of layers with equal outputs it takes one millionth each.
    values = multipliers(rectified, x, composite("epsilon")).values[0] * (1 + 1e-6) ** 2
    assert values.tolist() == pytest.approx([18, 36, 54], rel=1e-12)

    def bent(r: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(r, full(0.1, 3, 3))), full(0.1, 1, 3))[:, 0]

    values = multipliers(bent, x, composite("epsilon")).values[0].tolist()
    assert values == pytest.approx([0.0269, 0.0537, 0.0806], abs=1e-4)


def test_lrp_skip_connection() -> None:
    """y = W x + x with one row of fives, seen from y's second entry: 25 = 10 + 15 by the layer, 3 past it."""
    x = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    found = multipliers(lambda r: (F.linear(r, full(5, 1, 2)) + r)[:, 1], x, composite("epsilon"))
    assert found.values[0].tolist() == pytest.approx([10 / (1 + 1e-6), 3 + 15 / (1 + 1e-6)], rel=1e-12)


def _net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return frozen(randomise_batch_norm(nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 4))))


@pytest.mark.parametrize("name", COMPOSITES)
def test_every_composite_explains(name: str) -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    found = multipliers(logit(_net()), x, composite(name))
    assert found.values.shape == x.shape and found.values.isfinite().all() and found.values.abs().sum() > 0


def test_unknown_composites_are_named() -> None:
    with pytest.raises(ValueError, match="epsilon-plus-flat"):
        composite("epsilon-minus")


def test_user_entries_come_first() -> None:
    """A rule for one module, found by its weight also in a frozen copy that shares the storage."""
    net, x = _net(), constant(2, 3, 8, 8)
    mine = composite("epsilon").prepend((weight_of(net[0]), Flat()))  # type: ignore[index]
    found = multipliers(lambda r: net(r)[:, 0], x, mine).values
    assert not torch.allclose(found, multipliers(lambda r: net(r)[:, 0], x, composite("epsilon")).values)
    assert torch.allclose(found, found.mean(1, keepdim=True))  # flat: the channels of a pixel are alike
    strong = composite("epsilon").prepend((lambda call, propagate: call.name == "linear", Epsilon(10.0)))
    weaker = multipliers(lambda r: net(r)[:, 0], x, strong).values
    assert weaker.abs().sum() < multipliers(lambda r: net(r)[:, 0], x, composite("epsilon")).values.abs().sum()


@pytest.mark.parametrize("bounded", [False, True])
def test_deep_taylor_is_positive_and_conserves(bounded: bool) -> None:
    net, x = _net(), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    target = net(x).mean(0).argmax().item()
    found = multipliers(lambda r: net(r)[:, target], x, deep_taylor(0.0, 1.0) if bounded else deep_taylor())
    assert (found.score > 0).any()
    for values, score in zip(found.values, found.score, strict=True):
        assert (values * score.sign()).min() >= -1e-12
        # The first epsilon of each z+ keeps about a millionth.
        assert values.sum().item() == pytest.approx(score.item(), rel=1e-3)


def test_excitation_is_a_probability_by_definition() -> None:
    """Two layers by hand: P = sum_j P_j a_i w+_ij / sum_k a_k w+_kj."""
    w, v, x = constant(9, 4), constant(3, 9, seed=1), constant(1, 4, seed=2).abs()
    hidden = F.linear(x, w).relu()[0]

    def by_hand(top: Tensor) -> Tensor:
        p = hidden * top.clamp(min=0)
        p = p / p.sum()
        terms = x[0] * w.clamp(min=0)
        return p @ (terms / terms.sum(1, keepdim=True).clamp(min=1e-30))

    def score(r: Tensor) -> Tensor:
        return F.linear(F.linear(r, w, full(0.0, 9)).relu(), v, full(0.7, 3))[:, 1]

    found = excitation(score, x)
    assert torch.allclose(found.values[0], by_hand(v[1]), rtol=1e-5)
    against = excitation(score, x, contrastive=True)
    assert torch.allclose(against.values[0], (by_hand(v[1]) - by_hand(-v[1])).clamp(min=0), rtol=1e-4, atol=1e-6)


def test_excitation_at_a_layer_has_one_channel() -> None:
    net, x, kept = _net(), constant(2, 3, 8, 8).abs(), []
    layer = net[2]  # type: ignore[index]
    layer.register_forward_hook(lambda module, given, out: kept.append(out))  # type: ignore[union-attr, operator]
    found = excitation(lambda r: net(r)[:, 1], x, at=lambda: kept[-1])
    assert found.values.shape == (2, 1, 6, 6)
    assert torch.allclose(found.values.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64), rtol=1e-3)
    contrast = excitation(lambda r: net(r)[:, 1], x, at=lambda: kept[-1], contrastive=True)
    assert contrast.values.min() >= 0 and not torch.allclose(contrast.values, found.values)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_patterns_find_the_signal_and_not_the_weight(estimator: Estimator, rectified: bool) -> None:
    """x = (y + n, n), w = (1, -1): the signal lies along (1, 0), the weight does not."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0]]))
    model = frozen(nn.Sequential(layer, nn.ReLU()) if rectified else layer)
    y, n = constant(2, 20000)
    y, n = y - y.mean(), n - n.mean()
    n = n - (n @ y) / (y @ y) * y  # uncorrelated in the sample, so that the answer is exact for the linear estimator
    data = torch.stack([y + n, n], 1)
    patterns = estimate_patterns(model, data.split(7000), model, estimator)
    (pattern,) = patterns.tensors.values()
    exact = estimator == "linear" or not rectified
    assert pattern[0].tolist() == pytest.approx([1, 0], abs=1e-6 if exact else 0.02)
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    net = multipliers(lambda r: model(r)[:, 0], x, pattern_net(patterns))
    assert torch.allclose(net.values, pattern)
    found = multipliers(lambda r: model(r)[:, 0], x, pattern_attribution(patterns))
    assert torch.allclose(found.values, pattern * torch.tensor([1.0, -1.0]).double())


def test_patterns_are_their_definition_for_a_convolution() -> None:
    """Slow: every patch of a padded, batch-normalised, rectified convolution; and how batches are cut is no matter."""
    torch.manual_seed(0)
    net = frozen(randomise_batch_norm(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())))
    data = constant(10, 2, 6, 6)
    patterns = estimate_patterns(net, data.split(4), net)
    (found,) = patterns.tensors.values()
    conv, norm = net[0], net[1]  # type: ignore[index]
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    w = (conv.weight * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None]).flatten(1)
    patches = F.unfold(data, 3).permute(0, 2, 1).reshape(-1, 18)
    outputs = norm(conv(data)).flatten(2).permute(0, 2, 1).reshape(-1, 3)
    for o in range(3):
        y = outputs[:, o]
        on = y > 0
        covariance = (patches[on] * y[on, None]).mean(0) - patches[on].mean(0) * y.mean()
        assert torch.allclose(found[o].flatten(), covariance / (w[o] @ covariance), rtol=1e-9)
    whole = estimate_patterns(net, [data], net)
    assert torch.allclose(next(iter(whole.tensors.values())), found, rtol=1e-10)


def test_patterns_are_saved_for_their_model_only(tmp_path: Path) -> None:
    net = _net()
    patterns = estimate_patterns(net, [constant(8, 3, 8, 8)], net)
    patterns.save(tmp_path / "patterns.safetensors")
    again = Patterns.load(tmp_path / "patterns.safetensors", net)
    assert again.estimator == patterns.estimator and again.tensors.keys() == patterns.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in patterns.tensors.items())
    other = _net()
    with torch.no_grad():
        other[0].bias[0] += 1  # type: ignore[index, operator]
    with pytest.raises(ValueError, match="another model"):
        Patterns.load(tmp_path / "patterns.safetensors", other)
    with pytest.raises(ValueError, match="no batch"):
        estimate_patterns(net, [], net)


def test_box_bounds_matter() -> None:
    net, x = _net(), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    wide = composite("epsilon").prepend((weight_of(net[0]), ZBox(-1.0, 2.0)))  # type: ignore[index]
    tight = composite("epsilon").prepend((weight_of(net[0]), ZBox(0.0, 1.0)))  # type: ignore[index]
    first, second = (multipliers(lambda r: net(r)[:, 0], x, p).values for p in (wide, tight))
    assert not torch.allclose(first, second)


def test_a_box_that_the_inputs_leave_is_noted() -> None:
    net, x = _net(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    x[1, 0, 0, 0] = -4
    for method in (
        ll.LRP("epsilon-gamma-box"),
        ll.LRP(rules=((weight_of(net[0]), ZBox()),)),
        ll.DeepTaylor(low=0, high=1),
    ):  # type: ignore[index]
        for rows_per_pass in (1, None):
            noted = [n for n in ll.explain(net, x, method, target=0, rows_per_pass=rows_per_pass).notes if "box" in n]
            assert len(noted) == 1 and "inputs run from -4 to" in noted[0] and "set low= and high=" in noted[0]
        assert not any("box" in note for note in ll.explain(net, x.clamp(0, 1), method, target=0).notes)
    for call in (lambda: ZBox(1.0, 0.0), lambda: ll.LRP(low=1.0), lambda: ll.DeepTaylor(low=2.0, high=2.0)):
        with pytest.raises(ValueError, match=r"(ZBox|LRP|DeepTaylor)\.low=[12]\.0: use a number below high"):
            call()


def test_patterns_of_another_model_are_refused() -> None:
    net, other, x = _net(), _net(), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        other[0].bias[0] += 1  # type: ignore[index, operator]
    patterns = ll.estimate_patterns(net, [constant(8, 3, 8, 8)])
    for kind in (ll.PatternNet, ll.PatternAttribution):
        assert ll.explain(net, x, kind(patterns), target=0).values.any()
        with pytest.raises(ValueError, match=rf"{kind.__name__}\.patterns=.* holds patterns of another model"):
            ll.explain(other, x, kind(patterns), target=0)


def test_cp_lrp_says_why_a_softmax_leaves_nothing() -> None:
    net, x = _net(), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    for target in (ll.Probability(0), ll.LogProbability(0)):
        with pytest.raises(ValueError, match=r"CP-LRP takes the output of .*softmax .* for a constant.*target=Logit"):
            ll.explain(net, x, ll.CPLRP(), target=target)


@pytest.mark.parametrize("method", [ll.DeconvNet(), ll.GuidedBackprop(), ll.GuidedGradCAM()])
def test_a_network_without_a_relu_gets_the_plain_gradient_and_hears_so(method: ll.Method) -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for unit, plain in ((nn.GELU(), True), (nn.SiLU(), True), (nn.ReLU(), False), (nn.ReLU6(), False)):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), unit, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).double()
        found = ll.explain(net, x, method, target=0, layer="0")
        assert any("PLAIN GRADIENT: no ReLU ran" in caution for caution in found.cautions) is plain, unit
        if not isinstance(method, ll.GuidedGradCAM):
            gradient = ll.explain(net, x, ll.Gradient(), target=0).values
            assert torch.allclose(found.values, gradient, rtol=1e-12) is plain
