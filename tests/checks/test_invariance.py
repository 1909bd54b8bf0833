"""The same function written otherwise, and shifted class scores: which maps stay, which do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.model_edits.positive_part import Rectified
from limelight.model_edits.rewrite import rewritten

from ..networks import Named, conv_net, pictures


def perceptron(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()


class Residual(nn.Module):
    """Between rectifiers: `first` by its batch norm; not `second`, which a sum reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.second(self.relu(self.norm(self.first(x)))))


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU6(), Residual()),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(),
        nn.Sequential(nn.Linear(24, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
    ).double()  # fmt: skip
    with torch.no_grad():
        for each in net.modules():
            if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor in (each.weight, each.bias, each.running_mean):
                    tensor.uniform_(-0.7, 0.7)  # type: ignore[union-attr]
                each.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]
    return net.eval()


def finding(net: nn.Module, x: Tensor, method: object, check: ll.Check, **options: object) -> ll.Finding:
    return ll.check(net, x, method, check, **options)[0]  # type: ignore[arg-type]


def rectified(net: nn.Module) -> list[str]:
    return [name for name, each in net.named_modules() if isinstance(each, Rectified)]


def test_layers_between_rectifiers_are_found_and_compute_the_same() -> None:
    net, x = convolutional(), torch.randn(5, 3, 12, 12, dtype=torch.float64)
    with rewritten(net, x) as (other, done):
        assert rectified(other) == ["1.0", "1.2.first", "5.0"]
        assert not rectified(net) and done[0].startswith("3 layers between rectifiers")
        for scale in (1.0, 30.0):
            torch.testing.assert_close(other(scale * x), net(scale * x), rtol=1e-10, atol=1e-10)
    with rewritten(net, x, ["1.0"]) as (other, _):
        assert rectified(other) == ["1.2.first", "5.0"]  # its output is looked at


class Reads(nn.Module):
    """A layer between rectifiers, by functions, whose output something else reads too, where `how` says so."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        a = torch.tanh(self.first(x)) if self.how == "signed" else nn.functional.relu(self.first(x))
        h = self.second(a)
        if self.how == "twice":
            h = self.second(h.relu())
            return self.last(torch.tanh(h))
        out: Tensor = self.last(h.clamp(min=0)) if self.how == "clamp" else self.last(h.relu_())
        if self.how == "sum":
            return out + h.sum(1, keepdim=True)  # of what the rectifier wrote in its place
        return out + self.second(a).exp().sum(1, keepdim=True) if self.how == "both" else out


@pytest.mark.parametrize(
    ("how", "fits"),
    [("plain", True), ("clamp", True), ("sum", True), ("signed", False), ("both", False), ("twice", False)],
)
def test_a_layer_is_rewritten_where_every_use_of_it_allows_it(how: str, fits: bool) -> None:
    torch.manual_seed(1)
    net, x = Reads(how).double(), torch.randn(6, 6, dtype=torch.float64)
    with rewritten(net, x) as (other, _):
        assert rectified(other) == (["second"] if fits else [])
        torch.testing.assert_close(other(x), net(x))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("method", "passed"),
    [
        *((name, True) for name in ("gradient", "input-x-gradient", "integrated-gradients", "lrp('epsilon')")),
        *((name, False) for name in ("deep-lift", "deep-lift('reveal-cancel')", "lrp('gamma')", "deep-taylor")),
        *((name, False) for name in ("guided-backprop", "deconv-net")),
    ],
)
def test_implementation_invariance_of_methods_on_a_perceptron(method: str, passed: bool, seed: int) -> None:
    torch.manual_seed(seed)
    net = perceptron(seed)
    x = torch.randn(4, 6, dtype=torch.float64)
    found = finding(net, x, method, ll.ImplementationInvariance(), target=0)
    assert found.passed is passed, found.value
    assert float(found.value.max()) < 1e-4 or not passed
    assert "1 layers between rectifiers as relu(u) - v" in found.notes[0]


@pytest.mark.parametrize(("epsilon", "passed"), [("lrp('epsilon')", True), ("lrp('gamma')", False)])
def test_a_stabiliser_alone_fails_no_map(epsilon: str, passed: bool) -> None:
    """A unit of 1e-5 of its layer's mean: one stabiliser more takes 1e-6 / 1e-5 / 2 of its relevance."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
        net[0].bias.fill_(0.0)
        net[2].weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        net[2].bias.fill_(0.0)
        net[4].weight.copy_(torch.tensor([[1e5, 1.0]]))
    x = torch.tensor([[1.0, 1.0 - 2e-5]]).double()
    found = finding(net, x, epsilon, ll.ImplementationInvariance(), target=0)
    assert found.passed is passed, found.value
    assert "epsilon=1e-10" in found.notes[-1]


@pytest.mark.parametrize(("method", "passed"), [("gradient", True), ("grad-cam", True), ("deep-lift", False)])
def test_implementation_invariance_of_methods_on_convolutions(method: str, passed: bool) -> None:
    net, x = convolutional(), torch.rand(3, 3, 12, 12, dtype=torch.float64)
    assert finding(net, x, method, ll.ImplementationInvariance(), target=0).passed is passed


def test_deep_lift_differs_by_what_its_definition_gives() -> None:
    """f = relu(a - 2 c) of a = relu(x1), c = relu(x2), from (0, 1) to (1, 0): h goes from -2 to 1, f from 0 to 1, so a
    gets 1/3 and c 2/3. Rewritten with u = a - c and v = c: u goes from -1 to 1, relu(u) from 0 to 1, relu(u) - v from
    -1 to 1, f from 0 to 1. Each unit of relu(u) - v gets 1/2, each of u half of that: a 1/4, c 1/4 and from v 1/2."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1), nn.ReLU()).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
        net[2].weight.copy_(torch.tensor([[1.0, -2.0]]))
        net[2].bias.fill_(0.0)
    x, reference = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    with rewritten(net, x) as (other, _):
        first, second = (ll.explain(each, x, "deep-lift", target=0, baseline=reference).values for each in (net, other))
    assert first.tolist() == [pytest.approx([1 / 3, 2 / 3])]
    assert second.tolist() == [pytest.approx([1 / 4, 3 / 4])]
    found = finding(net, x, "deep-lift", ll.ImplementationInvariance(), target=0, baseline=reference)
    assert float(found.value) == pytest.approx((1 / 12) / (2 / 3))


TARGETS = (0, "probability(0)", "log-probability(0)", "margin(0)", "centred-logit(0)")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "method", ["gradient", "integrated-gradients(Midpoint(4))", "lrp", "grad-cam", "occlusion(4, 4)"]
)
def test_a_constant_added_to_all_class_scores_changes_no_map(method: str, target: object) -> None:
    for net in (conv_net(), Named()):
        found = finding(net, pictures(2), method, ll.LogitShift(3.0), target=target)
        assert found.passed is True and float(found.value.max()) < 1e-9, found


class Weighted(ll.Gradient):
    """The gradient times the logit itself: what a constant added to all of them moves."""

    def run(self, score, x, baseline, rng):  # type: ignore[no-untyped-def]
        made = super().run(score, x, baseline, rng)
        scores = score.stream_values(iter([x]))[0]
        return type(made)(made.values * scores.view(-1, 1, 1, 1))


def test_a_map_that_depends_on_where_the_logit_lies_fails() -> None:
    net, x = conv_net(), pictures(2)
    z = net(x)[:, 0].detach()
    found = finding(net, x, Weighted(), ll.LogitShift(3.0), target=0)
    assert found.passed is False
    torch.testing.assert_close(found.value, (3 / z).abs())  # (z + 3) g against z g
    assert finding(net, x, Weighted(), ll.LogitShift(3.0), target="margin(0)").passed is True


def test_outputs_that_are_no_class_scores_have_a_reason() -> None:
    net, x = conv_net(), pictures(2)
    softmax = nn.Sequential(net, nn.Softmax(1))
    assert "no shift of logits" in finding(softmax, x, "gradient", ll.LogitShift(), target="probability(0)").reason
    single = nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).double()
    assert finding(single, x, "gradient", ll.LogitShift(), target=0).passed is True
    squared = finding(net, x, "gradient", ll.LogitShift(), target=lambda outputs: outputs[:, 0].square())
    assert "one constant" in squared.reason and squared.value.isnan().all()
    assert finding(net, x, "gradient", ll.LogitShift(), target=lambda outputs: outputs.sum(1)).passed is True
    neuron = finding(net, x, "gradient", ll.LogitShift(), target=ll.Neuron("body", channel=0))
    assert "reads a layer" in neuron.reason


def test_a_probability_of_1_has_no_figure_in_float32() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    x = pictures(1).float()
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([15.0, 0.0, 0.0]))
    sure = finding(net, x, "gradient", ll.LogitShift(), target="probability(0)")
    assert "rounding of float32" in sure.reason
    assert finding(net, x, "gradient", ll.LogitShift(), target=0).passed is True
    assert finding(net.double(), x.double(), "gradient", ll.LogitShift(), target="probability(0)").passed is True
