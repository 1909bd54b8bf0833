"""Every target under every method by rules, on five architectures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import limelight as ll
from tests.rules.test_targets import _SOFTMAX_ALONE, CASES, RULES
from tests.zoo.architectures import CLASSES, ZOO

pytestmark = pytest.mark.long
pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
NETWORKS = [
    "torchvision resnet18",
    "torchvision mobilenet_v3_small",
    "timm vit",
    "timm convnextv2",
    "transformers llama",
]
# One for each target and one loss; tests/rules/test_targets.py has the others.
TARGETS = [
    "logit",
    "probability",
    "log-probability",
    "margin",
    "centred-logit",
    "region",
    "box",
    "detection",
    "similarity",
    "neuron",
    "cross_entropy",
]


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_target_under_every_method_by_rules(name: str, target_name: str) -> None:
    """The architecture's outputs become a small picture, for the network that returns what the target reads."""
    torch.manual_seed(0)
    build, target = CASES[target_name]
    picture = nn.Sequential(nn.Linear(CLASSES, 3 * 8 * 8), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8)))
    net = nn.Sequential(ZOO[name].network(), picture, build()).double().eval().requires_grad_(False)
    x = ZOO[name].examples(1)
    if isinstance(target, ll.Neuron):
        target = replace(target, at=f"2.{target.at}")
    for kind in RULES:
        # Patterns are of the data that a network was trained on; these networks have none, and deep ones overflow.
        if hasattr(kind, "patterns"):
            continue
        method = kind()
        if method.needs.layer:  # a product of two maps, whose own rule is guided backpropagation's
            continue
        try:
            found = ll.explain(net, x, method, target=target, baseline=0.3)
        except ValueError as error:
            assert kind is ll.CPLRP and all(each in str(error) for each in _SOFTMAX_ALONE), kind
            continue
        assert found.values.isfinite().all(), kind
        assert not [note for note in found.notes if "plain gradient used" in note], kind
    a = ll.explain(net, x, "deep-lift", target=target, baseline=0.3)
    assert float(a.delta.abs()) < (1e-5 if ZOO[name].coarse else 1e-7) * float((a.score - a.baseline_score).abs())
