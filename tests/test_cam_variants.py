"""Finer-CAM and SS-CAM by their definitions, written out in float64; rows spent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.question.random_streams import Streams

from .networks import Named, conv_net, pictures

pytestmark = pytest.mark.quick


def activation_and_gradients(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The activation of `act` `(n, channels, 8, 8)`, all logits' gradients there `(classes, ...)`, logits."""
    held: list[Tensor] = []
    handle = net.get_submodule("act").register_forward_hook(lambda module, args, output: held.append(output))
    logits = net(x)
    handle.remove()
    gradients = [torch.autograd.grad(each, held[0], retain_graph=True)[0] for each in logits.sum(0)]
    return held[0].detach(), torch.stack(gradients), logits.detach()


def undecided(x: Tensor) -> nn.Module:
    """A network whose logits are 0 in the mean over x, so that its examples order the classes differently."""
    net = conv_net()
    with torch.no_grad():
        net.head.bias -= net(x).mean(0)
    return net


def finer(net: nn.Module, x: Tensor, own: int, alpha: float, classes: int, relu: bool) -> Tensor:
    """Grad-CAM of each difference of logits, one example `(1, 3, 8, 8)` and one class after the other."""
    activation, gradients, logits = activation_and_gradients(net, x)
    others = [k for k in logits[0].argsort(descending=True).tolist() if k != own][:classes]
    maps = []
    for k in others:
        weights = (gradients[own, 0] - alpha * gradients[k, 0]).mean((1, 2))
        found = sum(w * each for w, each in zip(weights, activation[0], strict=True))
        maps.append(found.clamp(min=0) if relu else found)  # type: ignore[union-attr]
    return sum(maps) / len(maps)  # type: ignore[return-value]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("alpha", "classes"), [(1.0, 3), (0.6, 2), (1.5, 1)])
def test_finer_cam_by_definition(alpha: float, classes: int, relu: bool) -> None:
    x, target = pictures(4), [0, 3, 4, 1]
    net = undecided(x)
    assert len({tuple(row) for row in net(x).argsort(1).tolist()}) > 1
    a = ll.explain(net, x, ll.FinerCAM(ll.GradCAM(relu=relu), alpha, classes), target=target, layer="act")
    assert a.raw is not None
    for i, own in enumerate(target):
        torch.testing.assert_close(a.raw[i, 0], finer(net, x[i : i + 1], own, alpha, classes, relu))
    assert (a.forward_rows, a.backward_rows) == (4 + 1 + 4 * classes, 4 * classes)  # f(x), the probe, the differences


def test_finer_cam_of_margins_worked_by_hand() -> None:
    """z = (sum A0, sum A1, 0): the difference from each class is worth a ReLU of its own."""
    conv, linear = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(8, 3, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
        linear.weight.copy_(torch.tensor([[1.0] * 4 + [0.0] * 4, [0.0] * 4 + [1.0] * 4, [0.0] * 8]))
    net, x = nn.Sequential(conv, nn.Flatten(), linear).double(), torch.arange(1.0, 5).double().view(1, 1, 2, 2)
    # A0 - A1 = -2x, which the ReLU takes, and A0 - 0 = x; without the ReLU their mean is -x / 2.
    a = ll.explain(net, x, ll.FinerCAM(classes=2), target=0, layer="0")
    torch.testing.assert_close(a.raw, x / 2)
    a = ll.explain(net, x, ll.FinerCAM(ll.GradCAM(relu=False)), target=0, layer="0")
    torch.testing.assert_close(a.raw, -x / 2)


def test_finer_cam_takes_all_others_where_there_are_fewer() -> None:
    net, x = conv_net(classes=3), pictures(2)
    a, b = (ll.explain(net, x, ll.FinerCAM(classes=n), target=1) for n in (2, 9))
    assert torch.equal(a.values, b.values) and b.forward_rows == a.forward_rows == 2 + 1 + 2 * 2
    with pytest.raises(ValueError, match=r"the model has one output, .*; use GradCAM\(relu=True\)"):
        ll.explain(conv_net(classes=1), x, ll.FinerCAM())


def test_finer_cam_beside_a_class_of_the_same_score() -> None:
    """The difference from it is zero all over, and so is its map; all of them zero are an error."""
    net, x = conv_net(), pictures(2)
    with torch.no_grad():
        net.head.weight[3], net.head.bias[3] = net.head.weight[4], net.head.bias[4]
        net.head.bias[[3, 4]] += 9
    a = ll.explain(net, x, ll.FinerCAM(classes=2), target=3, layer="act")
    other = net(x)[0, :3].argmax().item()
    b = ll.explain(net, x, "grad-cam", target=ll.Margin(3, other), layer="act")  # type: ignore[arg-type]
    torch.testing.assert_close(a.values, b.values / 2)
    with pytest.raises(ValueError, match="gradient of the score is zero all over 'act' for example 0, 1"):
        ll.explain(net, x, ll.FinerCAM(classes=1), target=3, layer="act")


@pytest.mark.parametrize("inner", [ll.LayerCAM(), ll.HiResCAM(relu=False), ll.EigenGradCAM()], ids=repr)
def test_finer_cam_of_any_map_by_gradient_is_that_of_a_margin(inner: ll.Method) -> None:
    """With one class it is the map of the margin from the highest other class, which the model chose."""
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.FinerCAM(inner, classes=1), target=2)  # type: ignore[arg-type]
    b = ll.explain(net, x, inner, target=ll.Margin(2))
    torch.testing.assert_close(a.values, b.values)
    zero = ll.explain(net, x, ll.FinerCAM(inner, alpha=0), target=2)  # type: ignore[arg-type]
    torch.testing.assert_close(zero.values, ll.explain(net, x, inner, target=2).values)
    assert a.complete is False


def test_finer_cam_of_outputs_in_a_mapping_of_several_targets_and_layers() -> None:
    net, x, method = conv_net(), pictures(2), ll.FinerCAM(classes=2)
    plain = ll.explain(net, x, method, target=[[0, 3], [2, 1]], layer="act")
    assert plain.values.shape[:2] == (2, 2)
    mapping = ll.explain(Named(), x, method, target=[[0, 3], [2, 1]], layer="net.act")
    torch.testing.assert_close(mapping.values, plain.values)
    for i, classes in enumerate([[0, 3], [2, 1]]):
        for j, own in enumerate(classes):
            expected = finer(net, x[i : i + 1], own, 1.0, 2, True)
            torch.testing.assert_close(plain.values[i, j, 0], expected)
    several = ll.explain(net, x, method, target=0, layer=["stem", "act"])
    assert several.raw is None
    leads = [ll.explain(net, x, "grad-cam", target=ll.Margin(0, k), layer=["stem", "act"]) for k in range(1, 5)]
    order = [k - 1 for k in net(x)[0].argsort(descending=True).tolist() if k][:2]
    torch.testing.assert_close(several.values[0], (leads[order[0]].values[0] + leads[order[1]].values[0]) / 2)


def test_finer_cam_of_noisy_copies_orders_the_classes_of_each_copy() -> None:
    """SmoothGrad repeats an example in a pass: the classes are those of the row."""
    x = pictures(1)
    net = undecided(x)
    smooth = ll.SmoothGrad(ll.FinerCAM(classes=1), samples=4, noise=0.5)
    a = ll.explain(net, x, smooth, target=2, layer="act")
    b = ll.explain(net, x, ll.SmoothGrad(ll.GradCAM(), samples=4, noise=0.5), target=ll.Margin(2), layer="act")
    torch.testing.assert_close(a.values, b.values)


@pytest.mark.parametrize(
    "target", [ll.Probability(1), ll.Margin(1), ll.CentredLogit(1), lambda z: z[:, 0]], ids=lambda t: type(t).__name__
)
def test_finer_cam_of_other_targets(target: object) -> None:
    with pytest.raises(ValueError, match=r"target: FinerCAM compares the logits of classes, not .*; use .* Logit"):
        ll.explain(conv_net(), pictures(1), ll.FinerCAM(), target=target)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"inner": ll.ScoreCAM()},
            r"FinerCAM\.inner=ScoreCAM.*: use an activation map by gradient such as GradCAM\(\)",
        ),
        ({"inner": "grad-cam"}, r"FinerCAM\.inner='grad-cam': use"),
        ({"alpha": -1.0}, r"FinerCAM\.alpha=-1\.0: use 0 or a positive number"),
        ({"classes": 0}, r"FinerCAM\.classes=0: use a whole number of 1 or more"),
    ],
)
def test_settings_of_finer_cam(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ll.FinerCAM(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", ["activations", "inputs"])
def test_sscam_by_definition_with_the_same_draws(noise: str) -> None:
    net, x, sigma = conv_net(), pictures(2), 0.4
    method = ll.SSCAM(relu=False, samples=3, sigma=sigma, noise=noise)  # type: ignore[arg-type]
    a = ll.explain(net, x, method, target=[1, 4], layer="body", seed=5, rows_per_pass=7)
    with torch.no_grad():
        activation = net.get_submodule("body")(net.get_submodule("stem")(x))
        expected = []
        for i, own in enumerate([1, 4]):
            scores = []
            for k in range(6):
                low, high = activation[i, k].min(), activation[i, k].max()
                mask, draws = (activation[i, k] - low) / (high - low), Streams.of(x[i : i + 1], 5).fork("sscam").fork(k)
                found = []
                for j in range(3):
                    if noise == "activations":
                        row = x[i] * (mask + sigma * draws.normal(j, (1, 8, 8), x)[0])
                    else:
                        row = x[i] * mask + sigma * (x[i].max() - x[i].min()) * draws.normal(j, (3, 8, 8), x)[0]
                    found.append(net(row[None])[0, own])
                scores.append(sum(found) / 3)
            weights = torch.stack(scores).softmax(0)  # type: ignore[arg-type]
            expected.append(sum(w * each for w, each in zip(weights, activation[i], strict=True)))
    torch.testing.assert_close(a.values[:, 0], torch.stack(expected))  # type: ignore[arg-type]
    assert (a.forward_rows, a.backward_rows) == (2 + 1 + 2 * 6 * 3, 0)  # f(x), the probe, samples of each channel


@pytest.mark.parametrize("noise", ["activations", "inputs"])
def test_sscam_without_noise_is_score_cam(noise: str) -> None:
    net, x = conv_net(), pictures(2)
    for most in (None, 2):
        plain = ll.ScoreCAM(most_channels=most)
        smooth = ll.SSCAM(most_channels=most, samples=4, sigma=0.0, noise=noise)  # type: ignore[arg-type]
        a, b = (ll.explain(net, x, method, target=1, rows_per_pass=1) for method in (plain, smooth))
        assert torch.equal(a.values, b.values)


def test_the_draws_of_sscam_are_a_mean_that_converges() -> None:
    """More samples come nearer to the mean of many; another seed gives another map, the same seed the same."""
    net, x = conv_net(), pictures(1)
    few, many, more, again = (
        ll.explain(net, x, ll.SSCAM(samples=n, sigma=0.5), target=1, layer="stem", seed=seed).values
        for n, seed in ((2, 0), (64, 1), (512, 2), (2, 0))
    )
    assert torch.equal(few, again)
    assert 0 < float((many - more).abs().max()) < float((few - more).abs().max())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 0}, r"SSCAM\.samples=0: use a whole number of 1 or more"),
        ({"sigma": -0.1}, r"SSCAM\.sigma=-0\.1: use 0 or a positive share of the range"),
        ({"noise": "both"}, r"SSCAM\.noise='both': use 'activations' or 'inputs'"),
        ({"most_channels": 0}, r"SSCAM\.most_channels=0: use a whole number of 1 or more"),
    ],
)
def test_settings_of_sscam(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ll.SSCAM(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", ["activations", "inputs"])
def test_the_standard_error_of_sscam_is_the_spread_between_seeds(noise: str) -> None:
    """Of a layer of the input's size, where nothing is bounded; within what 60 seeds of 8 samples know of a spread."""
    net, x = conv_net(), pictures(1)
    with torch.no_grad():
        net.head.weight.mul_(10)  # the weights of the channels then matter
    method = ll.SSCAM(relu=False, samples=8, sigma=0.3, noise=noise)  # type: ignore[arg-type]
    found = [ll.explain(net, x, method, target=1, layer="body", seed=seed) for seed in range(60)]
    seen = torch.stack([each.values for each in found]).std(0)
    told = torch.stack([each.stderr.square() for each in found]).mean(0).sqrt()  # type: ignore[union-attr]
    assert 0.8 < float(told.norm() / seen.norm()) < 1.25 and float(seen.norm()) > 1e-4


def test_the_standard_error_of_sscam_upsampled_of_several_layers_and_of_one_sample() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Softplus(), nn.Conv2d(4, 4, 3), nn.Softplus(), nn.Flatten(),
        nn.Linear(16, 3),
    ).double()  # fmt: skip
    x = pictures(2)
    both = ll.explain(net, x, ll.SSCAM(samples=6), target=1, layer=["1", "3"])
    alone = [ll.explain(net, x, ll.SSCAM(samples=6), target=1, layer=each) for each in ("1", "3")]
    assert both.stderr is not None and both.stderr.shape == both.values.shape and bool((both.stderr > 0).all())
    scaled = [each.stderr / each.values.abs().amax((1, 2, 3), keepdim=True) for each in alone]  # type: ignore[operator]
    torch.testing.assert_close(both.stderr, (scaled[0] + scaled[1]) / 2)
    single = ll.explain(net, x, ll.SSCAM(samples=1), target=1)
    assert single.stderr is not None and bool(single.stderr.isnan().all())
    assert any("a single draw has no known spread" in note for note in single.cautions)
