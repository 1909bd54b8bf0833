"""Occlusion and feature ablation by their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64


def linear2_relu() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        net[0].weight.fill_(1), net[0].bias.copy_(torch.tensor([-10.0, 1, 1, 1]))
        net[2].weight.fill_(1), net[2].bias.fill_(-1)
    return net


def test_feature_ablation_worked_example() -> None:
    a = ll.explain(linear2_relu(), torch.tensor([[20, 50, 30]], dtype=D), "feature-ablation")
    assert a.values.tolist() == [[80, 200, 120]] and a.raw is not None and a.raw.tolist() == [[80, 200, 120]]
    # x2 and x3 together: f(20, 0, 0) = 10 + 3 * 21 - 1 = 72 of 392; each holds half of the part's 320.
    grouped = ll.explain(linear2_relu(), a.inputs, ll.FeatureAblation(torch.tensor([4, 7, 7])))
    assert grouped.raw is not None and grouped.raw.tolist() == [[80, 320]]
    assert grouped.values.tolist() == [[80, 160, 160]]


def test_feature_ablation_is_a_plain_loop_over_segments() -> None:
    net, x = conv_net(), pictures(2)
    labels = torch.randint(0, 5, (2, 8, 8), generator=torch.Generator().manual_seed(0)) * 3
    a = ll.explain(net, x, ll.FeatureAblation(labels), target=1, baseline=0.25)
    for i in range(2):
        for rank, label in enumerate(labels[i].unique()):
            without = torch.where(labels[i] == label, torch.full_like(x[i], 0.25), x[i])
            with torch.no_grad():
                lost = (net(x[i : i + 1]) - net(without[None]))[0, 1]
            torch.testing.assert_close(a.raw[i, rank], lost)
            torch.testing.assert_close(a.values[i, 0][labels[i] == label].sum(), lost)
    assert a.forward_rows == 2 + 1 + 1 + 2 * 5  # f(x), f(b), the probe, a row a segment


def test_feature_ablation_of_the_whole_picture_is_the_whole_change() -> None:
    a = ll.explain(conv_net(), pictures(1), ll.FeatureAblation(ll.Grid(1)), target=0)
    torch.testing.assert_close(a.raw[:, 0], a.score - a.baseline_score)
    with pytest.raises(ValueError, match=r"FeatureAblation\.players='slic'"):
        ll.FeatureAblation("slic")


def test_a_black_box_is_explained_by_whole_rows_of_which_there_is_nothing_to_say() -> None:
    net, x = conv_net(), pictures(2)
    box = ll.BlackBox(lambda rows: net(torch.from_numpy(rows)).detach().numpy())
    a = ll.explain(box, x, ll.Occlusion(4, 2), target=0)
    torch.testing.assert_close(a.values, ll.explain(net, x, ll.Occlusion(4, 2), target=0).values)
    assert "whole rows" not in a.notes
    over = ll.explain(lambda rows: net(rows), x, ll.Occlusion(4, 2), target=0)  # a callable over a module is one
    torch.testing.assert_close(over.values, a.values)
    assert "whole rows" not in over.notes


def test_incremental_rows_are_counted_as_the_model_sees_them() -> None:
    seen: list[int] = []
    net = conv_net()
    net.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    a = ll.explain(net, pictures(2), ll.Occlusion(4, 2), target=0, rows_per_pass=2)
    assert sum(seen) == a.forward_rows == 2 + 1 + 1 + 2 * 9 and max(seen) == 2


def test_an_in_place_first_operator_spoils_nothing() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(144, 2))
    net, x = net.double(), pictures(2) - 0.5
    before = x.clone()
    fast, plain = (ll.explain(net, x, ll.Occlusion(3, 2, incremental=each), target=0) for each in (True, False))
    torch.testing.assert_close(fast.values, plain.values)
    assert torch.equal(x, before)


def test_occlusion_of_a_neuron_and_of_a_map() -> None:
    net, x = conv_net(), pictures(2)

    class Map(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, rows: Tensor) -> Tensor:
            return self.net.body(self.net.stem(rows))

    for model, target in ((net, ll.Neuron("stem", channel=2, pooling="max")), (Map(), ll.Region(x[0, 0] > 0.5, 1))):
        fast, plain = (
            ll.explain(model, x, ll.Occlusion(3, 2, incremental=each), target=target) for each in (True, False)
        )
        torch.testing.assert_close(fast.values, plain.values, atol=1e-13, rtol=1e-9)
