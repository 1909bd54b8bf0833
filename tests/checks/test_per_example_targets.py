"""Checks on batches of targets that hold a value for each example: rows of the target are selected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from ..networks import conv_net, pictures
from ..rules.test_targets import Detector, Segmenter
from .test_properties import EVERY, masks

CORNERS = torch.tensor([[1.0, 1.0, 5.0, 5.0], [2.0, 2.0, 7.0, 6.0], [0.0, 3.0, 6.0, 8.0]])


def regions() -> Tensor:
    return torch.stack([torch.eye(8), torch.ones(8, 8), torch.eye(8).flip(0)])


# The target of the batch, and the one of example i alone.
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Callable[[int], Any]]] = {
    "region": (Segmenter, ll.Region(regions(), 1), lambda i: ll.Region(regions()[i], 1)),
    "box": (lambda: Detector("torchvision"), ll.Box(CORNERS), lambda i: ll.Box(CORNERS[i])),
    "boxes of classes": (
        lambda: Detector("detr"),
        ll.Box(CORNERS, label=(0, 1, 2)),
        lambda i: ll.Box(CORNERS[i], label=i),
    ),
    "similarity": (conv_net, ll.Similarity(torch.eye(5)[:3]), lambda i: ll.Similarity(torch.eye(5)[i])),
    "neuron": (conv_net, ll.Neuron("body", channel=1), lambda i: ll.Neuron("body", channel=1)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("check", EVERY, ids=lambda each: each.kebab())
def test_an_example_has_the_figure_that_it_has_alone(check: ll.Check, name: str) -> None:
    build, target, target_of = CASES[name]
    model, x = build().double().eval(), pictures(3)
    together = ll.check(model, x, "gradient", check, target=target, mask=masks())[0]
    assert "written for its batch" not in together.reason and "Error" not in together.reason
    for i in (0, 2):
        alone = ll.check(
            model, x[i : i + 1], "gradient", check, target=target_of(i), mask=masks()[i : i + 1], rows_per_pass=i + 1
        )[0]
        torch.testing.assert_close(together.value[i : i + 1], alone.value, atol=1e-9, rtol=1e-7, equal_nan=True)
        assert together.reasons[i] == alone.reasons[0]
