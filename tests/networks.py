"""Small networks that the tests explain, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.rules.patterns import fingerprint


def conv_net(seed: int = 0, classes: int = 5) -> nn.Module:
    """Convolutions, batch norm with statistics of its own, in-place ReLU, a residual sum and dropout."""
    torch.manual_seed(seed)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
            self.body = nn.Conv2d(6, 6, 3, padding=1)
            self.act = nn.Softplus()
            self.drop = nn.Dropout(0.5)
            self.head = nn.Linear(6, classes)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = self.act(x + self.body(x))
            return self.head(self.drop(x.mean((2, 3))))

    net = Net().double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)
    return net.eval()


def smooth_net(features: int = 6) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def linear_net() -> nn.Module:
    """A picture's linear classifier with a spatial map on the way, so that CAMs run too."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 8, 3)).double()


class Named(nn.Module):
    """`conv_net()` whose outputs are a mapping, as many libraries have it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x)}


def pictures(batch: int = 3, seed: int = 0, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, size, size, dtype=torch.float64, generator=generator)


class ReluOfDifference(nn.Module):
    """f = relu(relu(x1) - 1 - relu(x2)), and with `rewritten` the equal relu(relu(x1 - 1) - relu(x2))."""

    def __init__(self, rewritten: bool = False) -> None:
        super().__init__()
        self.rewritten = rewritten

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, :1], x[:, 1:]
        first = torch.relu(a - 1) if self.rewritten else torch.relu(a) - 1
        return torch.relu(first - torch.relu(b))


PATTERNS = ll.estimate_patterns(conv_net(), [pictures(16, seed=11)])


def patterns_for(model: nn.Module, method: ll.Method) -> ll.Method:
    """The method with PATTERNS marked as this model's, which wraps `conv_net()` or has its weights in float32."""
    if not isinstance(method, ll.PatternNet | ll.PatternAttribution):
        return method
    return replace(method, patterns=replace(PATTERNS, model=fingerprint(model)))


# Every method with settings that keep the tests short; the defaults are tested by name in test_methods.py.
SHORT: dict[type[ll.Method], dict[str, object]] = {
    ll.IntegratedGradients: {"quadrature": ll.Midpoint(6)},
    ll.ExpectedGradients: {"samples": 6},
    ll.BlurIntegratedGradients: {"steps": 5, "max_sigma": 6.0},
    ll.GuidedIntegratedGradients: {"steps": 6, "max_dist": 0.3},
    ll.IDGI: {"inner": ll.IntegratedGradients(ll.Midpoint(6))},
    ll.XRAI: {"inner": ll.IntegratedGradients(ll.Midpoint(3)), "segments": ll.Grid(3)},
    ll.AtLayer: {"inner": ll.IntegratedGradients(ll.Midpoint(5))},
    ll.Conductance: {"steps": 5},
    ll.InternalInfluence: {"quadrature": ll.Midpoint(5)},
    ll.SmoothGrad: {"samples": 4},
    ll.SmoothGradSquared: {"samples": 3},
    ll.VarGrad: {"samples": 3},
    ll.SSCAM: {"samples": 2},
    ll.Occlusion: {"window": 4, "stride": 3},
    ll.FeatureAblation: {"players": ll.Grid(2)},
    ll.RISE: {"masks": 12, "cells": 3},
    ll.MeaningfulPerturbation: {"steps": 4, "size": 4},
    ll.ExtremalPerturbation: {"areas": (0.1, 0.3), "steps": 4, "step": 2, "sigma": 3.0, "blur": 2.0},
    ll.ExactShapley: {"players": ll.Grid(2)},
    ll.KernelShap: {"players": ll.Grid(3), "samples": 40},
    ll.ShapleySampling: {"players": ll.Grid(3), "permutations": 4},
    ll.PermutationShap: {"players": ll.Grid(3), "permutations": 4},
    ll.PartitionShap: {"players": ll.Grid(4), "evaluations": 62},
    ll.ShapleyInteractions: {"players": ll.Grid(2)},
    ll.Lime: {"players": ll.Grid(3), "samples": 30},
    ll.PatternNet: {"patterns": PATTERNS},
    ll.PatternAttribution: {"patterns": PATTERNS},
}
EXTRA: tuple[ll.Method, ...] = (
    ll.IntegratedGradients(ll.GaussLegendre(2), tolerance=0.02, most_nodes=64),
    ll.ExpectedGradients(samples=4, noise=0.1),
    ll.GuidedIntegratedGradients(steps=5, fraction=0.1, max_dist=1.0),
    ll.IDGI(ll.BlurIntegratedGradients(steps=4)),
    ll.IDGI(ll.GuidedIntegratedGradients(steps=4)),
    ll.XRAI(ll.Gradient(), scales=(1.0, 20.0), dilation=1, least=2),
    ll.XRAI(ll.IntegratedGradients(ll.Midpoint(3)), ll.Grid(3), extremes=False, colours="max"),
    ll.AtLayer(ll.GuidedIntegratedGradients(steps=4)),
    ll.AtLayer(ll.SmoothGrad(ll.IntegratedGradients(ll.Midpoint(3)), samples=2)),
    ll.AtLayer(ll.DeepLift()),
    ll.AtLayer(ll.LRP()),
    ll.AtLayer(ll.DeepShap()),
    ll.GuidedGradCAM(inner=ll.IntegratedGradients(ll.Midpoint(3))),
    ll.IntegratedGradients(ll.Midpoint(6), multiply=False),
    ll.DeepLift(multiply=False),
    ll.SmoothGrad(ll.AtLayer(ll.IntegratedGradients(ll.Midpoint(3))), samples=2),
    ll.FullGrad(signed=False),
    ll.SmoothGrad(ll.FullGrad(), samples=2),
    ll.TaylorDecomposition("nearest"),
    ll.SmoothGrad(ll.IntegratedGradients(ll.Midpoint(3)), samples=4),
    ll.SmoothGrad(ll.GradCAM(), samples=4),
    ll.SSCAM(samples=2, noise="inputs"),
    ll.FinerCAM(ll.LayerCAM(), alpha=0.6, classes=2),
    ll.SmoothGrad(ll.FinerCAM(classes=1), samples=2),
    ll.SmoothGrad(ll.Occlusion(4, 3), samples=2),
    ll.SmoothGrad(samples=32, tolerance=0.3),
    ll.SmoothGradSquared(samples=4, antithetic=True),
    ll.VarGrad(samples=4, antithetic=True),
    ll.GradCAM(relu=False),
    ll.DeepLift("reveal-cancel"),
    ll.DeepLift("genomics"),
    ll.LRP("epsilon"),
    ll.LRP("epsilon-gamma-box"),
    ll.ExcitationBackprop(contrastive=True),
    ll.SmoothGrad(ll.LRP(), samples=4),
    ll.Occlusion(3, 2, reduce="sum", channels="each"),
    ll.Occlusion(4, 3, incremental=False),
    ll.RISE(256, cells=2, tolerance=0.5),
    ll.RISE(12, cells=3, centred=False),
    ll.ExtremalPerturbation((0.2,), "dual", steps=3, step=2, sigma=3.0, blur=2.0),
    ll.KernelShap(160, players=ll.Grid(3), tolerance=0.05),
    ll.PermutationShap(32, players=ll.Grid(2), tolerance=0.02),
    ll.SmoothGrad(samples=32, steadiness=0.8),
    ll.RISE(512, cells=2, steadiness=0.8),
    ll.ShapleySampling(32, players=ll.Grid(2), steadiness=0.8),
    ll.KernelShap(160, players=ll.Grid(3), steadiness=0.8),
    ll.Lime(300, players=ll.Grid(3), steadiness=0.5),
    ll.ShapleyInteractions(2, "main", players=ll.Grid((2, 4))),
    ll.SmoothGrad(ll.KernelShap(14, players=ll.Grid(2)), samples=2),
)
CASES: tuple[ll.Method, ...] = (*(method(**SHORT.get(method, {})) for method in ll.METHODS), *EXTRA)  # type: ignore[arg-type]
EACH = CASES[: len(ll.METHODS)]  # a case of each method, where its other settings would prove no more


def some_and_all(some: tuple[ll.Method, ...], methods: tuple[ll.Method, ...] = CASES) -> pytest.MarkDecorator:
    """Try some methods, and in the long run all of them."""
    cases = [pytest.param(each, marks=() if each in some else pytest.mark.long) for each in methods]
    return pytest.mark.parametrize("method", cases, ids=repr)


OFTEN = (*EACH, *EXTRA[::3])
every_case = some_and_all(OFTEN)
few_cases = some_and_all(CASES[::6])  # for what costs many maps


def refusing(net: nn.Module) -> nn.Module:
    """Make a network that has no copy: its class says so."""

    def refuse(self: nn.Module, memo: object) -> nn.Module:
        raise TypeError("one of a kind")

    net.__class__ = type("Refusing", (type(net),), {"__deepcopy__": refuse})
    return net
