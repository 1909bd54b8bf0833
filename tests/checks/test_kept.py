"""Average drop, increase in confidence and ADCC, worked by hand from their definitions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from ..networks import conv_net, pictures

X = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)


class Sum(nn.Module):
    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * x.flatten(1).sum(1, keepdim=True)


def one(check: ll.Check, values: object, model: nn.Module | None = None, x: Tensor = X) -> ll.Finding:
    return ll.check(model or Sum(), x, values, check, target=0)[0]  # type: ignore[arg-type]


def test_average_drop_of_a_sum() -> None:
    # The map 3, 2, 1, 0 stretched: 1, 2/3, 1/3, 0 keep .4 + .2 + .2/3 of 1.
    map_ = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    found = one(ll.AverageDrop(), map_)
    assert float(found.value) == pytest.approx(1 - (0.4 + 0.2 + 0.2 / 3))
    assert float(one(ll.AverageDrop(), 10 * map_ - 5).value) == pytest.approx(float(found.value))
    # With the fill .1 what goes leaves .1: .4 + .1 + 2/3 .2 + .1 + 1/3 .1 + .1.
    filled = 0.4 + (0.1 + 2 / 3 * 0.2) + (0.1 + 1 / 3 * 0.1) + 0.1
    assert float(one(ll.AverageDrop(fill=0.1), map_).value) == pytest.approx(1 - filled)


def test_what_has_no_figure_says_why() -> None:
    for check in (ll.AverageDrop(), ll.IncreaseInConfidence(), ll.ADCC()):  # ARCC needs pictures
        flat = one(check, ll.evaluation.controls.ConstantMap())
        assert math.isnan(float(flat.value)) and "constant" in flat.reason
    for check in (ll.AverageDrop(), ll.ADCC()):
        negative = one(check, "input-x-gradient", Sum(-1.0))
        assert math.isnan(float(negative.value)) and "not positive" in negative.reason
    assert "finished map" in one(ll.ADCC(), X).reason


def test_increase_in_confidence() -> None:
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    # Without the -2 the sum rises from -.5; without the 1 it falls.
    for kept, rises in (([1.0, 0.0, 1.0], 1), ([0.0, 1.0, 0.0], 0)):
        found = one(ll.IncreaseInConfidence(), torch.tensor([kept], dtype=torch.float64), x=x)
        assert float(found.value) == rises


def test_adcc_of_a_sum() -> None:
    """Input x gradient of a sum is x: m = (1, 2/3, 1/3, 0) keeps (.4, .2, .2/3, 0), which is its map again."""
    found = one(ll.ADCC(), "input-x-gradient")
    kept = torch.tensor([0.4, 0.2, 0.2 / 3, 0], dtype=torch.float64)
    drop, complexity = 1 - float(kept.sum()), 0.5
    coherency = (1 + float(torch.corrcoef(torch.stack([X[0], kept]))[0, 1])) / 2
    assert found.detail["average drop"].tolist() == pytest.approx([drop])
    assert found.detail["coherency"].tolist() == pytest.approx([coherency])
    assert found.detail["complexity"].tolist() == pytest.approx([complexity])
    assert float(found.value) == pytest.approx(3 / (1 / (1 - drop) + 1 / coherency + 1 / (1 - complexity)))


def test_arcc_is_the_harmonic_mean_of_road_coherency_and_simplicity() -> None:
    net, x = conv_net(), pictures(2)
    shares = (0.2, 0.4, 0.6, 0.8)
    arcc, adcc, road = ll.check(net, x, "grad-cam", [ll.ARCC(), ll.ADCC(), ll.ROAD(shares)], target=1)
    assert torch.equal(arcc.detail["road"], road.value) and road.forward_rows == 0
    for name in ("coherency", "complexity"):
        torch.testing.assert_close(arcc.detail[name], adcc.detail[name])
    parts = (road.value.clamp(0, 1), adcc.detail["coherency"], 1 - adcc.detail["complexity"])
    torch.testing.assert_close(arcc.value, 3 / sum(1 / each for each in parts))


class Turned(ll.InputXGradient):
    def run(self, *given: Any) -> Any:
        found = super().run(*given)
        return replace(found, values=-found.values)


def test_arcc_gives_nothing_to_an_order_that_is_no_better_than_its_negative() -> None:
    """Of a linear score hiding the lowest first costs less: r > 0 for x w, and r = 0 for -x w, however stable it is."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2, bias=False)).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    right, wrong = (ll.check(net, x, each, ll.ARCC(), target=0)[0] for each in ("input-x-gradient", Turned()))
    assert (right.value > 0).all() and right.value.max() <= 1 and wrong.value.tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"ARCC.shares=\(2,\)"):
        ll.ARCC(shares=(2,))


def test_adcc_gives_nothing_to_a_map_that_turns_the_score_negative() -> None:
    """x w of u = (1, 1, -.9, -.9) x at ones keeps 2 of .2; its negative keeps -1.8, so ten times the score is lost."""
    net = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 1.0, -0.9, -0.9]]))
    right, wrong = (one(ll.ADCC(), each, net, torch.ones_like(X)) for each in ("input-x-gradient", Turned()))
    assert float(right.value) == pytest.approx(3 / (1 + 1 + 1 / 0.5))
    assert wrong.detail["average drop"].tolist() == pytest.approx([10]) and float(wrong.value) == 0


def test_probabilities_are_taken_of_logits() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, "grad-cam", target=1)
    share = a.values.flatten(1)
    share = (share - share.amin(1, keepdim=True)) / (share.amax(1, keepdim=True) - share.amin(1, keepdim=True))
    with torch.no_grad():
        before = net(x).softmax(1)[:, 1]
        after = net(x * share.view(2, 1, 8, 8)).softmax(1)[:, 1]
    found = ll.check(net, x, a, [ll.AverageDrop(), ll.IncreaseInConfidence()], target=1)
    torch.testing.assert_close(found[0].value, (before - after).clamp(min=0) / before)
    torch.testing.assert_close(found[1].value, (after > before).double())
