"""Integrated gradients on a small network in float64, against 2,048 nodes: what each quadrature buys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from captum import attr
from torch import Tensor, nn

import limelight as ll

RULES: tuple[tuple[type[ll.Quadrature], str], ...] = (
    (ll.GaussLegendre, "gausslegendre"),
    (ll.Midpoint, "riemann_middle"),
    (ll.Trapezoid, "riemann_trapezoid"),
    (ll.RiemannRight, "riemann_right"),
    (ll.RiemannLeft, "riemann_left"),
)
NODES = (8, 50)


@dataclass(frozen=True)
class Accuracy:
    """Relative L1 errors of the map by `nodes` nodes of `rule`, ours and Captum's."""

    network: str
    rule: str
    nodes: int
    ours: float
    theirs: float


def accuracies() -> list[Accuracy]:
    found = []
    for name, activation in (("ReLU", nn.ReLU), ("GELU", nn.GELU)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
            model = _network(activation)
        reference = _ours(model, x, ll.GaussLegendre(2048) if name == "GELU" else ll.Midpoint(2048))
        for rule, captums in RULES:
            for nodes in NODES:
                theirs = attr.IntegratedGradients(model).attribute(
                    x, 0.0, 0, n_steps=nodes, method=captums, internal_batch_size=16
                )
                errors = (_error(each, reference) for each in (_ours(model, x, rule(nodes)), theirs))
                found.append(Accuracy(name, rule.__name__, nodes, *errors))
    return found


def _network(activation: type[nn.Module]) -> nn.Module:
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        activation(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 32),
        activation(),
        nn.Linear(32, 4),
    ]
    return nn.Sequential(*layers).double().eval()


def _ours(model: nn.Module, x: Tensor, rule: ll.Quadrature) -> Tensor:
    return ll.explain(model, x, ll.IntegratedGradients(rule), target=0, rows_per_pass=16).values


def _error(values: Tensor, reference: Tensor) -> float:
    return float((values - reference).abs().sum() / reference.abs().sum())
