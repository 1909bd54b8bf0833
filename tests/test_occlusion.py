"""Occlusion and feature ablation by their definitions."""

from __future__ import annotations

from dataclasses import replace

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


class Mirrored(nn.Module):
    """The network that sees the mirrored picture."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.flip(-1))
        return out


def windows(method: ll.Occlusion, size: int) -> set[tuple[int, int]]:
    """The windows along one axis, read off the rows that the method runs."""
    seen = set()

    def watch(rows: Tensor) -> Tensor:
        for row in rows:
            hidden = (row == 0).nonzero()[:, 0].tolist()
            if hidden:
                seen.add((hidden[0], hidden[-1] + 1))
        return rows.sum(1, keepdim=True)

    ll.explain(watch, torch.ones(1, size, dtype=D), method, target=0)
    return seen - {(0, size)}  # the baseline itself


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        ("move", {(0, 4), (4, 8), (6, 10)}),
        ("cut", {(0, 4), (4, 8), (8, 10)}),
        ("centre", {(0, 3), (3, 7), (7, 10)}),
    ],
)
def test_windows_at_the_border(border: str, expected: set[tuple[int, int]]) -> None:
    assert windows(ll.Occlusion(4, 4, border=border), 10) == expected  # type: ignore[arg-type]
    assert windows(ll.Occlusion(4, 2, border=border), 10) == {(0, 4), (2, 6), (4, 8), (6, 10)}  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Occlusion\.border='fold': use 'move', 'cut' or 'centre'"):
        ll.Occlusion(border="fold")  # type: ignore[arg-type]


@pytest.mark.parametrize("border", ["move", "cut", "centre"])
def test_which_rows_of_windows_are_their_own_mirror_image(border: str) -> None:
    """For every stride up to the window; the docstring says it."""
    for stride in range(1, 6):
        for window in range(stride, 7):
            for size in range(window + 1, 12):
                found = windows(ll.Occlusion(window, stride, border=border), size)  # type: ignore[arg-type]
                mirrored = {(size - stop, size - start) for start, stop in found}
                beyond = -(size - window) % stride
                expected = (
                    beyond == 0
                    or (border == "centre" and beyond % 2 == 0)
                    or (border == "move" and size - window <= stride)
                )
                assert (found == mirrored) == expected, (size, window, stride)
                assert {i for start, stop in found for i in range(start, stop)} == set(range(size))


@pytest.mark.parametrize(
    ("method", "same"),
    [
        (ll.Occlusion(4, 4), False),
        (ll.Occlusion(4, 4, border="cut"), False),
        (ll.Occlusion(4, 4, border="centre"), True),  # two positions reach beyond
        (ll.Occlusion(4, 3, border="cut"), True),  # 0, 3, 6: they end at the border
        (ll.Occlusion(4, 5, border="centre", reduce="sum"), True),  # four of them, and gaps
    ],
    ids=repr,
)
@pytest.mark.parametrize("incremental", [True, False])
def test_the_map_of_the_mirrored_picture(method: ll.Occlusion, same: bool, incremental: bool) -> None:
    net, x = conv_net(), torch.rand(2, 3, 10, 10, dtype=D, generator=torch.Generator().manual_seed(0))
    method = replace(method, incremental=incremental)
    a = ll.explain(net, x, method, target=1).values
    b = ll.explain(Mirrored(net), x.flip(-1), method, target=1).values.flip(-1)
    assert bool((a - b).abs().max() < 1e-12 * a.abs().max()) == same


@pytest.mark.parametrize("border", ["cut", "centre"])
def test_cut_windows_are_the_same_incrementally_and_as_whole_rows(border: str) -> None:
    net, x = conv_net(), torch.rand(2, 3, 10, 11, dtype=D, generator=torch.Generator().manual_seed(0))
    for size in ((4, 4), (5, 3)):
        method = ll.Occlusion(*size, border=border)  # type: ignore[arg-type]
        a, b = (ll.explain(net, x, replace(method, incremental=each), target=1) for each in (True, False))
        torch.testing.assert_close(a.values, b.values, atol=1e-12, rtol=1e-9)
        assert a.forward_rows == b.forward_rows


def test_cut_windows_are_captums() -> None:
    captum = pytest.importorskip("captum.attr")
    net, x = conv_net(), torch.rand(1, 3, 10, 10, dtype=D, generator=torch.Generator().manual_seed(0))
    for window, stride in ((4, 4), (5, 2), (3, 3)):
        theirs = captum.Occlusion(net).attribute(x, (3, window, window), target=1, strides=(3, stride, stride))
        a = ll.explain(net, x, ll.Occlusion(window, stride, border="cut"), target=1)
        torch.testing.assert_close(
            a.values[:, 0].float(), theirs[:, 0], atol=1e-7, rtol=1e-5
        )  # Captum answers in float32


@pytest.mark.parametrize("channels", ["together", "each"])
@pytest.mark.parametrize("window", [3, (2, 4), ll.Circle(3)])
def test_raw_is_what_each_window_costs_on_the_grid_of_their_places(window: object, channels: str) -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.Occlusion(window=window, stride=2, channels=channels), target=1, baseline=0.25)
    assert a.raw is not None
    mask = (
        window.mask(2) if isinstance(window, ll.Circle) else torch.ones(window if isinstance(window, tuple) else (3, 3))
    )
    height, width = mask.shape
    tops, lefts = ([*range(0, 8 - side, 2), 8 - side] for side in (height, width))
    wanted = torch.zeros(2, 3 if channels == "each" else 1, len(tops), len(lefts), dtype=D)
    for c in range(wanted.shape[1]):
        for i, top in enumerate(tops):
            for j, left in enumerate(lefts):
                hidden = x.clone()
                chosen = slice(c, c + 1) if channels == "each" else slice(None)
                box = hidden[:, chosen, top : top + height, left : left + width]
                box[:] = torch.where(mask.bool(), 0.25, box)
                wanted[:, c, i, j] = (net(x) - net(hidden))[:, 1].detach()
    torch.testing.assert_close(a.raw, wanted if channels == "each" else wanted[:, 0])


def test_the_probability_with_each_window_hidden_as_values_and_as_a_picture() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.Occlusion(4, 4), target=ll.Probability(1), baseline=0.0)
    found = ll.window_scores(a)
    assert found.scores.shape == (2, 2, 2)
    hidden = x.clone()
    hidden[:, :, 4:, :4] = 0
    torch.testing.assert_close(found.scores[:, 1, 0], net(hidden).softmax(1)[:, 1].detach())
    torch.testing.assert_close(found.unhidden, net(x).softmax(1)[:, 1].detach())
    assert found.show(1).width > 900
    with pytest.raises(ValueError, match="a map by gradient; window_scores takes one by occlusion"):
        ll.window_scores(ll.explain(net, x, "gradient", target=0))


def test_windows_may_be_filled_by_another_baseline_than_the_questions() -> None:
    net, x = conv_net(), pictures(1)
    blurred = ll.explain(net, x, "occlusion(window=circle(3), stride=2)", target=1, baseline=ll.Blur(2))
    filled = ll.explain(net, x, "occlusion(window=circle(3), stride=2, fill=blur(2))", target=1, baseline=0.5)
    assert torch.equal(blurred.values, filled.values)
    assert any("filled from Blur" in note for note in filled.notes)
    assert ll.METHODS.read(filled.method.as_text()) == filled.method
    with pytest.raises(ValueError, match=r"Occlusion.fill=Noise.*gives 3 references; give it as baseline"):
        ll.explain(net, x, ll.Occlusion(3, fill=ll.Noise(samples=3)), target=1)


def test_a_mask_that_hides_nothing_at_a_border_leaves_a_hole() -> None:
    net, x = conv_net(), pictures(1)
    mask = torch.zeros(4, 4)
    mask[0, 0] = 1
    a = ll.explain(net, x, ll.Occlusion(mask, stride=3, border="centre"), target=1)
    assert a.raw is not None and a.raw.isnan().any() and not a.raw.isnan().all()
    assert a.forward_rows >= int((~a.raw.isnan()).sum())
