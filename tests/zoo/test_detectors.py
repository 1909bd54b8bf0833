"""Detectors: DETR, and a head written by hand over convolutions, explained at a box, against the definition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from tests.rules.test_targets import RULES
from tests.zoo.architectures import ZOO, shaken

pytestmark = pytest.mark.long
SIDE, LABEL = 64, 1
BOX = (8.0, 12.0, 50.0, 56.0)


class GridHead(nn.Module):
    """A box and class scores for each cell of a map, in the form of torchvision's detectors, without their NMS."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, 4, 1), nn.SiLU()
        )
        self.boxes, self.classes = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        cells = self.body(x)
        corners = self.boxes(cells).flatten(2).transpose(1, 2).sigmoid()
        low, size = corners[..., :2] * SIDE / 2, (corners[..., 2:] + 0.2) * SIDE / 2
        scores = self.classes(cells).flatten(2).transpose(1, 2).softmax(2)
        return [{"boxes": b, "scores": s} for b, s in zip(torch.cat([low, low + size], 2), scores, strict=True)]


def detr() -> nn.Module:
    pytest.importorskip("transformers", reason="transformers is not installed")
    body: nn.Module = ZOO["transformers detr"].network().body  # type: ignore[assignment]
    return body


def grid_head() -> nn.Module:
    torch.manual_seed(0)
    return shaken(GridHead().double(), torch.rand(4, 3, SIDE, SIDE, dtype=torch.float64))


def corners_and_scores(outputs: Any, row: int) -> tuple[Tensor, Tensor]:
    """Each box's corners in pixels and its score for the class."""
    if isinstance(outputs, list):
        found = outputs[row]
        return found["boxes"], found["scores"][:, LABEL]
    centre, size = outputs.pred_boxes[row].split(2, -1)
    return torch.cat([centre - size / 2, centre + size / 2], 1) * SIDE, outputs.logits[row].softmax(-1)[:, LABEL]


def by_definition(net: nn.Module, x: Tensor) -> Tensor:
    """The best overlap (IoU) times class score of any box, for each row."""
    outputs, wanted = net(x), torch.tensor(BOX, dtype=x.dtype)
    best = []
    for row in range(len(x)):
        boxes, scores = corners_and_scores(outputs, row)
        sides = (torch.minimum(boxes[:, 2:], wanted[2:]) - torch.maximum(boxes[:, :2], wanted[:2])).clamp(min=0)
        common = sides.prod(1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (wanted[2:] - wanted[:2]).prod()
        best.append((common / (area - common) * scores).max())
    return torch.stack(best)


@pytest.fixture(params=[detr, grid_head], ids=["detr", "by hand"])
def case(request: pytest.FixtureRequest) -> Iterator[tuple[nn.Module, Tensor]]:
    yield request.param(), torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64)


TARGET = ll.Box(*BOX, label=LABEL)


def test_gradients_occlusion_and_paths_by_the_definition(case: tuple[nn.Module, Tensor]) -> None:
    net, x = case

    def slope(at: Tensor) -> Tensor:
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad(by_definition(net, leaf).sum(), leaf)[0]

    a = ll.explain(net, x, "gradient", target=TARGET)
    score = by_definition(net, x)
    assert float(score.min()) > 0
    torch.testing.assert_close(a.score, score, rtol=1e-9, atol=0)
    largest = float(a.values.abs().max())
    torch.testing.assert_close(a.values, slope(x), rtol=0, atol=1e-9 * largest)
    alone = ll.explain(net, x[1:], "gradient", target=TARGET).values
    torch.testing.assert_close(alone, a.values[1:], rtol=0, atol=1e-9 * largest)
    integrated = ll.explain(net, x, "integrated-gradients(midpoint(2))", target=TARGET, baseline=0.3).values
    along = sum(slope(0.3 + share * (x - 0.3)) for share in (0.25, 0.75)) / 2 * (x - 0.3)
    torch.testing.assert_close(integrated, along, rtol=0, atol=1e-9 * float(along.abs().max()))
    hidden = x.clone()
    hidden[:, :, :32, :32] = 0.3
    occluded = ll.explain(net, x, ll.Occlusion((32, 32), (32, 32), border="cut"), target=TARGET, baseline=0.3).values
    torch.testing.assert_close(occluded[:, 0, 0, 0], score - by_definition(net, hidden), rtol=0, atol=1e-12)


def test_methods_by_rules(case: tuple[nn.Module, Tensor]) -> None:
    net, x = case
    for kind in RULES:
        method = kind()
        if hasattr(kind, "patterns") or method.needs.layer:
            continue
        a = ll.explain(net, x, method, target=TARGET, baseline=0.3)
        assert a.values.isfinite().all() and float(a.values.abs().max()) > 0, kind
        if kind is ll.DeepLift:
            assert float(a.delta.abs().max()) < 1e-9 * float((a.score - a.baseline_score).abs().min())
