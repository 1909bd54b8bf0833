"""Bright pixels against the dark ones between them, on models of which it is known what they read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll


class Weighted(nn.Module):
    """f = sum_i w_i x_i over pixels, x of one channel."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 0] * self.weights).sum((1, 2))[:, None].repeat(1, 2)


def sparse() -> Tensor:
    """9 pixels, two apart."""
    weights = torch.zeros(8, 8, dtype=torch.float64)
    weights[1:6:2, 1:6:2] = 1.0
    return weights


def block() -> Tensor:
    weights = torch.zeros(8, 8, dtype=torch.float64)
    weights[:7, :7] = 1.0
    return weights


X = torch.ones(1, 1, 8, 8, dtype=torch.float64)
NINE = ll.FineDetail(share=9 / 64, fill=0.0)


def finding(weights: Tensor, shown: Tensor, check: ll.Check = NINE) -> ll.Finding:
    return ll.check(Weighted(weights), X, shown[None], check, target=0)[0]


def test_a_model_of_bright_pixels_alone_gets_1() -> None:
    found = finding(sparse(), sparse())
    assert float(found.value) == 1.0
    assert [float(found.detail[name]) for name in ("bright", "gaps", "pixels")] == [9.0, 0.0, 9.0]


def test_grain_on_a_model_that_reads_a_block_gets_0() -> None:
    """The map is bright at 9 pixels of a block that counts as one: hiding 9 between them costs as much."""
    found = finding(block(), sparse())
    assert float(found.value) == 0.0 and float(found.detail["gaps"]) == float(found.detail["bright"]) == 9.0


@pytest.mark.parametrize("weight", [0.25, 1.0, 3.0])
def test_gaps_of_a_known_weight(weight: float) -> None:
    weights = torch.where(sparse() > 0, 1.0, weight).double()
    assert float(finding(weights, sparse()).value) == pytest.approx((1 - weight) / (1 + weight))


def test_the_exact_map_beats_its_negative_at_every_scale_and_sign() -> None:
    """Signed weights with every score: the exact map of a linear model is w x."""
    weights = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, -1.0, 1e-6):
        exact = scale * weights
        assert float(finding(exact, exact).value) > float(finding(exact, -exact).value)


def test_reach_counts_pixels_across_and_at_an_angle() -> None:
    one = torch.zeros(8, 8, dtype=torch.float64)
    one[4, 4] = 1.0
    weights = torch.zeros(8, 8, dtype=torch.float64)
    weights[2, 2] = weights[4, 4] = 1.0
    shown = one.clone()
    shown[weights == 0] = 0.1  # the only |A| of 0 is the pixel two away
    near, far = (finding(weights, shown, ll.FineDetail(1 / 64, reach, fill=0.0)) for reach in (1, 2))
    assert float(near.detail["gaps"]) == 0 and float(far.detail["gaps"]) == 1
    assert float(near.value) == 1 and float(far.value) == 0


def test_no_figure_has_its_reason() -> None:
    assert "one value everywhere" in finding(block(), torch.ones(8, 8, dtype=torch.float64)).reason
    corner = torch.zeros(8, 8, dtype=torch.float64)
    corner[7, 7] = 1.0
    assert "move the score" in finding(corner, sparse()).reason
    net = nn.Linear(4, 2).double()
    assert "pictures" in ll.check(net, torch.rand(1, 4).double(), "gradient", NINE, target=0)[0].reason
    for settings, name in (({"share": 0.0}, "share"), ({"reach": 0}, "reach"), ({"on": "logit"}, "on")):
        with pytest.raises(ValueError, match=rf"FineDetail\.{name}="):
            ll.FineDetail(**settings)  # type: ignore[arg-type]
