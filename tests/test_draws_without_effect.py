"""Models that draw random numbers and answer alike, and other threads that draw: maps and notes are as without."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import limelight as ll

METHODS = (
    "grad-cam",
    "layer-cam",
    "score-cam",
    "ablation-cam",
    "guided-grad-cam",
    "full-grad",
    "lrp",
    "deep-lift",
    "at-layer(gradient)",
    "at-layer(integrated-gradients(GaussLegendre(4)))",
)
X = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


class Drawing(nn.Module):
    """Two convolutions, one of them as a function or as a layer; a draw that nothing reads."""

    def __init__(self, *, draws: bool, function: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 5, 3, padding=1),
            nn.Linear(5, 3),
        )
        random = torch.Generator().manual_seed(0)
        for each in self.parameters():
            each.data.uniform_(-0.3, 0.3, generator=random)
        self.draws, self.function = draws, function

    def forward(self, x: Tensor) -> Tensor:
        if self.draws:
            torch.rand(3)
        x = torch.relu(self.first(x))
        second = self.second
        x = F.conv2d(x, second.weight, second.bias, padding=1) if self.function else second(x)
        found: Tensor = self.head(torch.relu(x).mean((2, 3)))
        return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", [None, "first", "second", "relu#0", "relu#1", "conv2d#0"])
def test_a_draw_that_nothing_reads_changes_nothing(layer: str | None, method: str) -> None:
    """The model is run again to see that it answers alike; that run is none of the layer's."""
    function = layer == "conv2d#0"
    if method in ("full-grad", "lrp", "deep-lift") and layer is not None:
        layer = None
    plain, drawing = (
        ll.explain(Drawing(draws=draws, function=function).eval(), X, method, layer=layer, target=0)
        for draws in (False, True)
    )
    assert torch.equal(plain.values, drawing.values)
    assert plain.notes == drawing.notes and plain.forward_rows == drawing.forward_rows


def test_a_thread_that_draws_changes_nothing() -> None:
    """As one that trains another network meanwhile does."""
    model = Drawing(draws=False, function=False).eval()
    plain = [ll.explain(model, X, method, target=0) for method in METHODS]
    ended = threading.Event()

    def draw() -> None:
        while not ended.is_set():
            torch.rand(1)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for expected in plain:
            for _ in range(3):
                found = ll.explain(model, X, expected.method, target=0)
                assert torch.equal(found.values, expected.values) and found.notes == expected.notes
    finally:
        ended.set()
        thread.join()
