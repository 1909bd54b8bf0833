"""Cases of methods whose values must add up."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import shap
import torch
import torch.nn.functional as F
from captum import attr
from torch import Tensor, nn
from zennit.attribution import Gradient, IntegratedGradients
from zennit.composites import EpsilonPlus

import limelight as ll

from .row import Row

TARGET = 1


class Twice(nn.Module):
    """One ReLU that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.relu(self.second(self.relu(self.first(x)))).flatten(1))
        return out


class Functional(Twice):
    """The same, with F.relu."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.second(F.relu(self.first(x)))).flatten(1))
        return out


class Residual(nn.Module):
    """A sum of two branches, a maximum and a ReLU in place."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, bias=bias), nn.Conv2d(4, 4, 3, padding=1, bias=bias)
        self.first, self.second, self.pool = nn.ReLU(), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.head = nn.Linear(36, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        out: Tensor = self.head(self.pool(self.second(x + self.body(x))).flatten(1))
        return out


class Gated(nn.Module):
    """A product of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.sigmoid, self.head = nn.Sigmoid(), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((self.value(x) * self.sigmoid(self.gate(x))).flatten(1))
        return out


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))


NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "plain": ("convolution, ReLU, pooling", plain),
    "twice": ("one ReLU that runs twice", Twice),
    "functional": ("`F.relu`", Functional),
    "residual": ("a sum of branches, ReLU in place", Residual),
    "gated": ("a product of branches", Gated),
}


def scene(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, two examples and their baselines, in float64, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make().double().eval()
        x, b = torch.rand(2, 2, 3, 8, 8, dtype=torch.float64)
    return net, x, b


def missed(values: Tensor, net: nn.Module, x: Tensor, b: Tensor | float) -> float:
    """By how much the sums miss f(x) - f(b), as a share of it, of the worst example."""
    with torch.no_grad():
        change = (net(x) - net(torch.zeros_like(x) + b))[:, TARGET]
    return float(((values.flatten(1).sum(1) - change) / change).abs().max())


def _deep_lift(name: str, make: Callable[[], nn.Module], words: str) -> Row:
    def ours() -> float:
        net, x, b = scene(make)
        return missed(ll.explain(net, x, "deep-lift", target=TARGET, baseline=b).values, net, x, b)

    def captum() -> float:
        net, x, b = scene(make)
        found = attr.DeepLift(net).attribute(x.clone().requires_grad_(), b, TARGET).detach()
        return missed(found, scene(make)[0], x, b)

    def deep_shap() -> float:
        net, x, b = scene(make)
        parts = []
        for one, other in zip(x.split(1), b.split(1), strict=True):
            values = shap.DeepExplainer(net, other).shap_values(one, check_additivity=False)
            parts.append(torch.as_tensor(values[..., TARGET]))
        return missed(torch.cat(parts), scene(make)[0], x, b)

    sides = {"limelight": ours, "captum": captum, "shap": deep_shap}
    return Row(f"deep-lift-{name}", f"DeepLIFT: {words}", "the values sum to f(x) - f(b)", sides, 1e-6)


def _trapezoid() -> Row:
    weights = torch.tensor([[1.0, -2.0, 3.0], [2.0, 0.5, -1.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64)

    def net() -> nn.Module:
        made = nn.Linear(3, 2, bias=False).double()
        made.weight.data = weights.clone()
        return made

    def off(values: Tensor) -> float:
        return float((values - x * weights[TARGET]).abs().max() / (x * weights[TARGET]).abs().max())

    def ours() -> float:
        return off(ll.explain(net(), x, ll.IntegratedGradients(ll.Trapezoid(5)), target=TARGET).values)

    def captum() -> float:
        return off(
            attr.IntegratedGradients(net()).attribute(x, target=TARGET, n_steps=5, method="riemann_trapezoid").detach()
        )

    sides = {"limelight": ours, "captum": captum}
    right = "of a linear function: weight times input, by any rule"
    return Row("trapezoid", "integrated gradients by the trapezoid rule, 5 nodes", right, sides, 1e-9)


@cache
def photograph() -> tuple[nn.Module, Tensor, int]:
    model = ll.load_model("efficientnet-lite0")
    assert isinstance(model, ll.ImageModel)
    model.loaded = False
    return model, model.preprocess(ll.demo_image("chelsea")), 281


def _of_photograph(values: Tensor) -> float:
    model, x, target = photograph()
    with torch.no_grad():
        change = float((model(x) - model(torch.zeros_like(x)))[0, target])
    return abs(float(values.double().sum()) / change - 1)


def _completeness() -> Row:
    def ours() -> float:
        model, x, target = photograph()
        return _of_photograph(ll.explain(model, x, "integrated-gradients", target=target).values)

    def captum() -> float:
        model, x, target = photograph()
        return _of_photograph(
            attr.IntegratedGradients(model).attribute(x, target=target, internal_batch_size=10).detach()
        )

    def zennit() -> float:
        model, x, target = photograph()
        with IntegratedGradients(model) as run:
            start = torch.eye(1000)[[target]]
            return _of_photograph(run(x.clone().requires_grad_(), start)[1].detach())

    sides = {"limelight": ours, "captum": captum, "zennit": zennit}
    title = "integrated gradients of a photograph, each library's default nodes"
    return Row("completeness", title, "the values sum to f(x) - f(b), within 1%", sides, 0.01)


def _kept() -> Row:
    """Without biases the zero rule keeps all of the score."""

    def make() -> nn.Module:
        return Residual(bias=False)

    def ours() -> float:
        net, x, _ = scene(make)
        return missed(ll.explain(net, x, "lrp('zero')", target=TARGET).values, net, x, 0.0)

    def captum() -> float:
        net, x, _ = scene(make)
        return missed(attr.LRP(net).attribute(x.clone().requires_grad_(), TARGET).detach(), scene(make)[0], x, 0.0)

    def zennit() -> float:
        net, x, _ = scene(make)
        with Gradient(net, EpsilonPlus()) as run:
            found = run(x.clone().requires_grad_(), lambda out: out * torch.eye(3, dtype=out.dtype)[[TARGET] * 2])[1]
        return missed(found, scene(make)[0], x, 0.0)

    sides = {"limelight": ours, "captum": captum, "zennit": zennit}
    notes = {"zennit": "EpsilonPlus; a canonizer that the reader writes for the architecture makes the sum a module"}
    return Row(
        "lrp-residual", "LRP of a sum of branches, no biases", "the values sum to the score", sides, 1e-4, notes=notes
    )


ROWS = (
    *(_deep_lift(name, make, words) for name, (words, make) in NETWORKS.items()),
    _completeness(),
    _trapezoid(),
    _kept(),
)
