"""Class activation maps: numbers derived by hand, definitions, rows spent, memory."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll

from .memory import peaks
from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64


def worked() -> tuple[nn.Module, Tensor]:
    """The network of the notes. At its convolution A = [[-5, 4], [31, 40]], [[-30, -21], [6, 15]], the gradient is
    g = [[0, 1], [1, 1]], [[0, 0], [-1, -1]] (the ReLU hides what is negative) and f = 4 + 31 + 40 - 6 - 15 = 54."""
    conv, linear = nn.Conv2d(1, 2, 3), nn.Linear(8, 4)
    with torch.no_grad():
        conv.weight.fill_(1)
        conv.bias.copy_(torch.tensor([-50.0, -75.0]))
        linear.weight.copy_(torch.tensor([[1.0] * 5 + [-1.0] * 3] * 4))
        linear.bias.zero_()
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), linear, nn.ReLU()).double()
    return net, torch.arange(16, dtype=D).view(1, 1, 4, 4)


A0 = torch.tensor([[-5.0, 4], [31, 40]], dtype=D)
A1 = torch.tensor([[-30.0, -21], [6, 15]], dtype=D)


@pytest.mark.parametrize(
    "method, expected",
    [
        (ll.GradCAM, [[11.25, 13.5], [20.25, 22.5]]),
        (ll.HiResCAM, [[0, 4], [25, 25]]),
        (ll.LayerCAM, [[0, 4], [31, 40]]),
        (ll.XGradCAM, 75 / 70 * A0 + 21 / 30 * A1),  # sums of g A over sums of A: 75/70 and -21/-30
        (ll.GradCAMPlusPlus, 3 / 72 * A0),  # three positions of 1/(2 + 70); no positive gradient in the other channel
        (ll.EigenCAM, math.sqrt(2) * (A0 - 17.5)),  # the centred channels are equal, so v = (1, 1)/sqrt 2
        (ll.AblationCAM, A0 - 21 / 54 * A1),  # f without the first is relu(-21) = 0, without the second 75
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@pytest.mark.parametrize("relu", [False, True])
def test_worked_example(method: type[ll.Method], expected: object, relu: bool) -> None:
    net, x = worked()
    a = ll.explain(net, x, method(relu=relu), target=0, layer="0")  # type: ignore[call-arg]
    wanted = torch.as_tensor(expected, dtype=D)
    assert a.raw is not None
    torch.testing.assert_close(a.raw[0, 0], wanted.relu() if relu else wanted)
    torch.testing.assert_close(a.values, F.interpolate(a.raw, size=(4, 4), mode="bilinear"))


def test_score_cam_by_hand() -> None:
    """Channels x and -x of x = 0..3 see x/3 and 1 - x/3 of the input; f = sum x' is 14/3 and 4/3 of these."""
    conv, linear = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        linear.weight.copy_(torch.tensor([[1.0] * 4 + [0.0] * 4]))
    x = torch.arange(4, dtype=D).view(1, 1, 2, 2)
    a = ll.explain(nn.Sequential(conv, nn.Flatten(), linear).double(), x, ll.ScoreCAM(), target=0)
    torch.testing.assert_close(a.values, math.tanh(5 / 3) * x)  # softmax's difference of the two weights


def test_cam_by_hand_and_where_it_does_not_apply() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.CAM(relu=False), target=[3, 1])
    act: list[Tensor] = []
    net.act.register_forward_hook(lambda module, args, output: act.append(output.detach()))
    net(x)
    expected = torch.einsum("nk,nkhw->nhw", net.head.weight.detach()[[3, 1]], act[0])
    torch.testing.assert_close(a.values[:, 0], expected)
    assert (a.forward_rows, a.backward_rows) == (2 + 1, 0)  # f(x) and the probe
    with pytest.raises(ValueError, match="needs a model that is global average pooling and one linear layer after '0'"):
        ll.explain(*worked(), ll.CAM(), target=0, layer="0")
    # An average and a linear layer, but of another layer's map.
    with pytest.raises(ValueError, match="after 'stem'"):
        ll.explain(net, x, ll.CAM(), layer="stem")


def test_cam_grad_cam_and_hires_cam_agree_after_the_last_convolution() -> None:
    """Where the model is GAP + linear: CAM = |P| Grad-CAM = |P| HiResCAM, and HiResCAM sums to f less the bias."""
    net, x = conv_net(), pictures(2)
    cam, grad, hires = (ll.explain(net, x, m(relu=False), target=2) for m in (ll.CAM, ll.GradCAM, ll.HiResCAM))
    torch.testing.assert_close(cam.values, 64 * grad.values)
    torch.testing.assert_close(hires.values, grad.values)
    torch.testing.assert_close(hires.values.sum((1, 2, 3)), hires.score - net.head.bias[2].detach())


def without_each_channel(net: nn.Module, layer: str, x: Tensor, channels: int) -> Tensor:
    """Outputs `(channels, n, classes)` of the whole network with one of the layer's channels set to zero."""
    found = []
    for k in range(channels):

        def silence(module: nn.Module, args: object, output: Tensor, k: int = k) -> Tensor:
            output = output.clone()
            output[:, k] = 0
            return output

        handle = net.get_submodule(layer).register_forward_hook(silence)
        with torch.no_grad():
            found.append(net(x))
        handle.remove()
    return torch.stack(found)


class InPlace(nn.Module):
    """A front that a careless memory of it would get wrong: writes in place, hands tensors on, uses a module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.same, self.body, self.last = nn.Identity(), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x))
        self.relu(h)  # its return value is not looked at
        h = self.same(h)
        h += self.body(h)
        y = F.softplus(self.last(self.relu(h)), beta=3.0).mul_(2)
        out: Tensor = self.head(y.square().mean((2, 3)))
        return out


@pytest.mark.parametrize("layer", ["last", "same", "norm", "body"])
def test_only_the_tail_runs_again_and_gives_what_the_whole_would(layer: str) -> None:
    torch.manual_seed(0)
    net, x = InPlace().double().eval(), pictures(3)
    target = [0, 1, 2]
    with torch.no_grad():
        whole = net(x)[torch.arange(3), target]
        without = without_each_channel(net, layer, x, 6)[:, torch.arange(3), target]
    a = ll.explain(net, x, ll.AblationCAM(relu=False), target=target, layer=layer, rows_per_pass=4)
    act: list[Tensor] = []
    net.get_submodule(layer).register_forward_hook(lambda module, args, output: act.append(output.detach().clone()))
    net(x)
    expected = torch.einsum("kn,nkhw->nhw", (whole - without) / whole, act[0])
    assert a.raw is not None
    torch.testing.assert_close(a.raw[:, 0], expected)
    assert "forward" not in vars(net.conv)


def test_ablation_runs_the_front_once_and_the_tail_once_a_channel() -> None:
    runs = {"front": 0, "tail": 0}

    class Counted(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self._count = lambda rows: runs.__setitem__(name, runs[name] + rows)  # functions are not copied

        def forward(self, x: Tensor) -> Tensor:
            self._count(len(x))
            return x.exp()

    conv, linear = nn.Conv2d(3, 7, 3), nn.Linear(7 * 36, 2)
    net = nn.Sequential(Counted("front"), conv, nn.Softplus(), Counted("tail"), nn.Flatten(), linear).double()
    a = ll.explain(net, pictures(2), ll.AblationCAM(), target=0, layer="2")
    clean = 2 + 1  # f(x) and the probe
    assert runs == {"front": clean + 2, "tail": clean + 2 + 7 * 2}
    assert (a.forward_rows, a.backward_rows) == (clean + 2 + 7 * 2, 0)


@pytest.mark.parametrize("target", [2, ll.Probability(2), ll.Margin(2, 1)], ids=repr)
def test_ablation_is_closed_form_after_average_and_linear_layer(target: object) -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.AblationCAM(relu=False), target=target)
    assert (a.forward_rows, a.backward_rows) == (2 + 1, 0)  # f(x) and the probe: no row of its own
    score = {int: lambda z: z[..., 2], ll.Probability: lambda z: z.softmax(-1)[..., 2]}.get(
        type(target), lambda z: z[..., 2] - z[..., 1]
    )
    act: list[Tensor] = []
    net.act.register_forward_hook(lambda module, args, output: act.append(output.detach()))
    with torch.no_grad():
        whole = score(net(x))
    without = score(without_each_channel(net, "act", x, 6))
    expected = torch.einsum("kn,nkhw->nhw", (whole - without) / whole, act[0])
    torch.testing.assert_close(a.values[:, 0], expected)


def test_ablation_of_negative_and_zero_scores() -> None:
    net, x = conv_net(), pictures(1)
    with torch.no_grad():
        net.head.bias -= 10
    a = ll.explain(net, x, ll.AblationCAM(), target=0)
    assert a.score[0] < 0 and any("evidence AGAINST" in note for note in a.notes)
    with pytest.raises(ValueError, match="the score of example 0 is 0"):
        ll.explain(net, x, ll.AblationCAM(), target=lambda z: z[:, 0] * 0)


def test_eigen_cam_does_not_ask_for_the_target_and_follows_the_mean() -> None:
    net, x = conv_net(), pictures(2)
    a, b = (ll.explain(net, x, ll.EigenCAM(relu=False), target=t) for t in (0, 4))
    # The gradient tells where the score does not depend on the layer, which is said; the map does not need it.
    assert torch.equal(a.values, b.values) and a.backward_rows == 2
    act: list[Tensor] = []
    net.act.register_forward_hook(lambda module, args, output: act.append(output.detach()))
    net(x)
    flat = act[0].flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    covariance = centred @ centred.mT
    first = torch.linalg.eigh(covariance).eigenvectors[:, :, -1]
    expected = torch.einsum("nkp,nk->np", centred, first)
    expected = expected * torch.sign((expected * centred.mean(1)).sum(1, keepdim=True))
    torch.testing.assert_close(a.values.flatten(1), expected)


def test_grad_cam_plus_plus_where_its_denominator_is_zero() -> None:
    """2 g^2 + g^3 sum A = 0 at g = 1 for a channel that sums to -2: that position is left out, not divided by 0."""
    x = torch.tensor([[[-3.0, 0.5, 0.5]]], dtype=D)
    net = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[2].weight.copy_(torch.tensor([[1.0, 2.0, 0.0]]))
    a = ll.explain(net, x, ll.GradCAMPlusPlus(relu=False), target=0)
    # The position with g = 2 counts 2 * 4 / (2 * 4 - 2 * 8) = -1.
    torch.testing.assert_close(a.values, -x)


def test_x_grad_cam_of_a_channel_that_sums_to_zero() -> None:
    x = torch.tensor([[[-1.0, 1.0]]], dtype=D)
    net = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.fill_(1)
    a = ll.explain(net, x, ll.XGradCAM(relu=False), target=0)
    assert a.values.tolist() == [[[0, 0]]] and "example 0: the map is identically zero" in a.notes


def test_x_grad_cam_after_instance_norm() -> None:
    """There a channel sums to rounding, which is no number to divide by, whatever the rows of a pass."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.InstanceNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()
    for rows_per_pass in (None, 1):
        a = ll.explain(net, torch.rand(2, 3, 16, 16), ll.XGradCAM(), target=1, layer="1", rows_per_pass=rows_per_pass)
        assert not a.values.any() and "example 1: the map is identically zero" in a.notes


def test_score_cam_leaves_constant_channels_out() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 2)).double(), pictures(2)
    with torch.no_grad():
        net[0].bias[:] = torch.tensor([5.0, -50, 5, -50, 5])  # two channels are always 0
    a = ll.explain(net, x, ll.ScoreCAM(), target=0)
    assert a.forward_rows == 2 + 1 + 2 * 3
    with torch.no_grad():
        net[0].bias[:] = -50
    a = ll.explain(net, x, ll.ScoreCAM(), target=0)
    assert a.values.abs().max() == 0 and a.forward_rows == 2 + 1


def test_score_cam_by_definition() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.ScoreCAM(), target=1)
    act: list[Tensor] = []
    handle = net.body.register_forward_hook(lambda module, args, output: act.append(output.detach()))
    net(x)
    handle.remove()
    small = nn.Sequential(net, nn.Identity())
    b = ll.explain(small, x, ll.ScoreCAM(relu=False), target=1, layer="0.body")
    scores = torch.zeros(2, 6, dtype=D)
    for i in range(2):
        for k in range(6):
            mask = (act[0][i, k] - act[0][i, k].min()) / (act[0][i, k].max() - act[0][i, k].min())
            with torch.no_grad():
                scores[i, k] = net((x[i] * mask)[None])[0, 1]
    torch.testing.assert_close(b.values[:, 0], torch.einsum("nk,nkhw->nhw", scores.softmax(1), act[0]))
    assert a.forward_rows == 2 + 1 + 12


def test_score_cam_of_the_channels_that_vary_most() -> None:
    net, x = conv_net(), pictures(2)
    small = nn.Sequential(net, nn.Identity())
    a = ll.explain(small, x, ll.ScoreCAM(relu=False, most_channels=2), target=1, layer="0.body")
    found: list[Tensor] = []
    handle = net.body.register_forward_hook(lambda module, args, output: found.append(output.detach()))
    net(x)
    handle.remove()
    (act,) = found
    assert a.forward_rows == 2 + 1 + 2 * 2
    for i in range(2):
        chosen = act[i].flatten(1).var(1).argsort(descending=True)[:2]
        masks = torch.stack([(act[i, k] - act[i, k].min()) / (act[i, k].max() - act[i, k].min()) for k in chosen])
        with torch.no_grad():
            weights = net(x[i] * masks[:, None])[:, 1].softmax(0)
        torch.testing.assert_close(a.values[i, 0], torch.einsum("k,khw->hw", weights, act[i, chosen]))
    every = ll.explain(small, x, ll.ScoreCAM(relu=False, most_channels=99), target=1, layer="0.body")
    assert torch.equal(every.values, ll.explain(small, x, ll.ScoreCAM(relu=False), target=1, layer="0.body").values)
    with pytest.raises(ValueError, match="most_channels=0: use a whole number of 1 or more"):
        ll.ScoreCAM(most_channels=0)


@pytest.mark.long
def test_memory_of_score_cam_is_flat_in_the_number_of_channels() -> None:
    """Peak resident memory of 512 channels is within 10% of 32 channels', each in a process of its own."""
    script = """
        front, k = torch.nn.Conv2d(3, 64, 3, padding=1), {channels}
        net = torch.nn.Sequential(front, torch.nn.AvgPool2d(16), torch.nn.Conv2d(64, k, 1), torch.nn.Softplus(),
                                  torch.nn.Flatten(), torch.nn.Linear(k * 64, 2))
        x = torch.rand(1, 3, 128, 128)
        before = peak()
        a = ll.explain(net, x, ll.ScoreCAM(), target=0, rows_per_pass=8)
        assert a.forward_rows >= k
    """
    (few, _), (many, _) = (peaks(script.format(channels=channels)) for channels in (32, 512))
    assert many <= 1.1 * few


@pytest.mark.parametrize("layers", [["stem", "act"], "stem, act"], ids=repr)
def test_several_layers_are_averaged_at_equal_scale(layers: object) -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.GradCAM(relu=False), target=1, layer=layers)  # type: ignore[call-overload]
    alone = [ll.explain(net, x, ll.GradCAM(relu=False), target=1, layer=each).values for each in ("stem", "act")]
    scaled = [each / each.abs().amax((1, 2, 3), keepdim=True) for each in alone]
    torch.testing.assert_close(a.values, (scaled[0] + scaled[1]) / 2)
    assert a.layer == "stem, act" and a.raw is None
    assert torch.equal(ll.explain(net, x, ll.GradCAM(relu=False), target=1, layer=a.layer).values, a.values)
    with pytest.raises(ValueError, match="name one layer or several different ones"):
        ll.explain(net, x, ll.GradCAM(), layer=["act", net.act])


ALL = (
    ll.CAM,
    ll.GradCAM,
    ll.GradCAMPlusPlus,
    ll.XGradCAM,
    ll.HiResCAM,
    ll.LayerCAM,
    ll.EigenCAM,
    ll.ScoreCAM,
    ll.SSCAM,
)


@pytest.mark.parametrize("method", [*ALL, ll.AblationCAM], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("space", [(12,), (8, 6), (6, 4, 8)], ids=str)
def test_inputs_of_one_to_three_spatial_axes(method: type[ll.Method], space: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(space) - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[len(space) - 1]
    net = nn.Sequential(
        conv(2, 4, 3, padding=1, stride=2), nn.Softplus(), pool(1), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    x = torch.rand(2, 2, *space, dtype=D)
    a = ll.explain(net, x, method(), target=0)
    assert a.layer == "1" and a.values.shape == (2, 1, *space)
    assert a.raw is not None and a.raw.shape == (2, 1, *(each // 2 for each in space))
