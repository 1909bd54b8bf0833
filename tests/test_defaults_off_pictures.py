"""Default windows, cells and players of tables, series, tokens, volumes and small pictures; windows of any shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods.windows import default_sizes
from limelight.question.random_streams import Streams

from .networks import conv_net, pictures

D = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def squares(*features: int) -> ll.Differentiable:
    """f = sum of w x^2: without interactions, so that hiding a part from 0 loses the sum of its own terms."""
    weights = drawn(*features, seed=7) - 0.5
    return ll.Differentiable(lambda x: (weights * x**2).flatten(1).sum(1, keepdim=True))


def terms(x: Tensor) -> Tensor:
    return (drawn(*x.shape[1:], seed=7) - 0.5) * x**2


@pytest.mark.parametrize(
    ("features", "sizes"),
    [
        ((9,), (1,)),
        ((3, 12), (1,)),
        ((3, 160), (10,)),
        ((1, 1000), (62,)),
        ((3, 224, 224), (32, 32)),
        ((3, 64, 300), (32, 32)),
        ((1, 28, 28), (4, 4)),
        ((3, 32, 80), (5, 11)),
        ((1, 14, 21, 70), (2, 3, 10)),
        ((2, 1, 3, 3), (1, 1, 1)),
    ],
    ids=str,
)
def test_the_window_follows_from_the_inputs_size(features: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    shape = torch.Size(features)
    strides = tuple(max(1, size // 2) for size in sizes)
    assert default_sizes(shape) == sizes
    assert ll.Occlusion().rows(shape) == ll.Occlusion(sizes, strides).rows(shape)


@pytest.mark.parametrize("method", [ll.Occlusion(), ll.FeatureAblation()], ids=repr)
@pytest.mark.parametrize("features", [(4,), (3, 12)], ids=str)
def test_hiding_columns_and_positions_one_by_one(method: ll.Method, features: tuple[int, ...]) -> None:
    x = drawn(2, *features)
    a = ll.explain(squares(*features), x, method, target=0)
    expected = terms(x) if len(features) == 1 else terms(x).sum(1)
    torch.testing.assert_close(a.heatmap("sum") if len(features) > 1 else a.values, expected)
    assert a.forward_rows == 2 + 1 + 1 + 2 * features[-1] and method.rows(x.shape[1:]) == features[-1]


def test_a_long_series_is_hidden_by_sixteenths() -> None:
    x = drawn(1, 2, 64)
    a, b = (ll.explain(squares(2, 64), x, each, target=0) for each in (ll.Occlusion(), ll.Occlusion(4, 2)))
    assert torch.equal(a.values, b.values) and "window 4, stride 2" in a.notes
    assert a.forward_rows == b.forward_rows


@pytest.mark.parametrize("features", [(4,), (2, 5), (1, 4, 4), (1, 2, 3, 2)], ids=str)
def test_default_players_of_every_game(features: tuple[int, ...]) -> None:
    """Columns of a table, positions of a series, cells of pictures and volumes; the game has no interactions."""
    x, net = drawn(2, *features), squares(*features)
    positions = terms(x) if len(features) == 1 else terms(x).sum(1, keepdim=True)
    for method in (
        ll.FeatureAblation(),
        ll.KernelShap(64),
        ll.ShapleySampling(4),
        ll.PermutationShap(4),
        ll.PartitionShap(evaluations=4096),
        ll.Lime(alpha=0.0),
    ):
        a = ll.explain(net, x, method, target=0)
        torch.testing.assert_close(a.values.expand(positions.shape), positions, atol=1e-9, rtol=1e-9)
        forecast = method.rows(x.shape[1:])
        assert forecast is not None and a.forward_rows <= 2 * forecast + 4
    if len(features) < 3:
        exact = ll.explain(net, x, ll.ExactShapley(), target=0)
        torch.testing.assert_close(exact.values.expand(positions.shape), positions)


@pytest.mark.parametrize(
    ("features", "cells", "count"),
    [((30,), 14, 30), ((4, 30), 14, 30), ((3, 224, 224), 14, 196), ((1, 32, 32, 32), 14, 216), ((1, 9, 9, 9), 3, 8)],
    ids=str,
)
def test_how_many_players_there_are(features: tuple[int, ...], cells: int, count: int) -> None:
    method = ll.ExactShapley() if cells == 3 else ll.KernelShap()
    assert method.count(torch.Size(features)) == count


def test_rise_masks_each_column_by_itself() -> None:
    """The map is the estimator's formula over masks that are 0 or 1 for each column, drawn independently."""
    x, n = drawn(1, 6), 400
    a = ll.explain(squares(6), x, ll.RISE(n), target=0)
    rng = Streams.of(x, 0).fork("rise")
    m = torch.cat([rng.uniform(f"mask {k}", (6,), torch.empty(0, dtype=D)) for k in range(n)]) < 0.5
    f = (terms(x) * m).sum(1)
    centred = m.double() - m.double().mean(0)
    slope = (centred * (f - f.mean())[:, None]).sum(0) / centred.square().sum(0)
    torch.testing.assert_close(a.values[0], slope, atol=1e-9, rtol=1e-7)


def test_rise_does_not_depend_on_the_order_of_columns() -> None:
    """A column's map is its own effect, whoever stands beside it: within the standard errors, in either order."""
    x, weights = torch.ones(1, 6, dtype=D), torch.tensor([3.0, 0.0, -2.0, 0.0, 0.5, 0.0], dtype=D)
    for order in (torch.arange(6), torch.tensor([4, 2, 0, 5, 3, 1])):
        model = ll.Differentiable(lambda rows, own=weights[order]: rows @ own[:, None])
        a = ll.explain(model, x[:, order], ll.RISE(5_000), target=0, rows_per_pass=1000)
        assert bool(((a.values[0] - weights[order]).abs() < 4 * a.stderr[0]).all())
        assert float(a.stderr.max()) < 0.1


def test_cells_of_a_series_and_of_a_table() -> None:
    x = drawn(1, 2, 12)
    short, each, blended = (
        ll.explain(squares(2, 12), x, method, target=0).values
        for method in (ll.RISE(300), ll.RISE(300, cells="each"), ll.RISE(300, cells=12))
    )
    assert torch.equal(short, each) and not torch.allclose(each, blended)
    long = drawn(1, 2, 40)
    a, b = (ll.explain(squares(2, 40), long, method, target=0) for method in (ll.RISE(300), ll.RISE(300, cells=16)))
    assert torch.equal(a.values, b.values)
    wide = pictures(1)
    a, b = (ll.explain(conv_net(), wide, method, target=0) for method in (ll.RISE(300), ll.RISE(300, cells=7)))
    assert torch.equal(a.values, b.values)
    table = drawn(1, 5)
    asked, default = (ll.explain(squares(5), table, method, target=0) for method in (ll.RISE(60, 3), ll.RISE(60)))
    assert torch.equal(asked.values, default.values)
    assert any("cells=3 is of spatial axes" in note for note in asked.notes) and len(default.notes) < len(asked.notes)
    with pytest.raises(ValueError, match=r"RISE\.cells='all': use a whole number of 1 or more, or 'each'"):
        ll.RISE(cells="all")  # type: ignore[arg-type]


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words, self.head = nn.Embedding(30, 4).double(), nn.Linear(4, 2).double()

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head((self.words(ids) ** 2).mean(1))
        return found


@pytest.mark.parametrize("method", ["occlusion", "feature-ablation", "smooth-grad(occlusion, samples=2, noise=0)"])
def test_tokens_are_hidden_one_by_one(method: str) -> None:
    net, ids = Words(), torch.arange(48)[None] % 30
    a = ll.explain(net, ids, method, target=1)
    lost = (net.words(ids) ** 2 * net.head.weight[1]).sum(2) / 48
    torch.testing.assert_close(a.heatmap("sum"), lost.detach())


def test_rise_masks_tokens_one_by_one() -> None:
    net, ids = Words(), torch.arange(20)[None]
    a = ll.explain(net, ids, "rise(200)", target=1)
    b = ll.explain(net, ids, "rise(200, cells='each')", target=1)
    assert torch.equal(a.values, b.values) and a.method == ll.RISE(200, cells="each")


def by_hand(net: nn.Module, x: Tensor, mask: Tensor, stride: int, reduce: str) -> Tensor:
    """Slide a mask over pictures, as the definition says."""
    height, width = mask.shape
    total, cover = torch.zeros_like(x[:, :1]), torch.zeros_like(x[:, :1])
    with torch.no_grad():
        whole = net(x)[:, 1]
        for top in range(0, x.shape[2] - height + 1, stride):
            for left in range(0, x.shape[3] - width + 1, stride):
                hidden = torch.zeros(x.shape[2:], dtype=torch.bool)
                hidden[top : top + height, left : left + width] = mask
                lost = whole - net(torch.where(hidden, 0.25, x))[:, 1]
                total += lost.view(-1, 1, 1, 1) * hidden
                cover += hidden
    return total / cover.clamp(min=1) if reduce == "mean" else total


CROSS = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]])


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize(
    ("window", "mask"),
    [
        (CROSS, CROSS.bool()),
        (CROSS.double(), CROSS.bool()),
        (ll.Circle(3), torch.ones(3, 3, dtype=torch.bool)),
        (ll.Circle(4), torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]).bool()),
        (ll.Circle(2), torch.ones(2, 2, dtype=torch.bool)),
        ("window-mask([[1, 0], [1, 1]])", torch.tensor([[True, False], [True, True]])),
    ],
    ids=str,
)
def test_windows_of_any_shape(window: Any, mask: Tensor, reduce: Any) -> None:
    net, x = conv_net(), pictures(2, size=7)
    stride = {2: 5, 3: 2, 4: 3}[len(mask)]  # so that the windows end at the border
    if isinstance(window, str):
        method = ll.parse_method(f"occlusion({window}, {stride}, reduce='{reduce}')")
        assert ll.parse_method(method.as_text()) == method
    else:
        method = ll.Occlusion(window, stride, reduce=reduce)
    a = ll.explain(net, x, method, target=1, baseline=0.25)
    torch.testing.assert_close(a.values, by_hand(net, x, mask, stride, reduce))
    alone = ll.explain(net, x[1:], method, target=1, baseline=0.25, rows_per_pass=1)
    torch.testing.assert_close(alone.values, a.values[1:])


def test_a_circle_is_round_and_a_ball_in_a_volume() -> None:
    assert ll.Circle(5).mask(2).int().tolist() == [
        [0, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [0, 1, 1, 1, 0],
    ]
    ball, disk = ll.Circle(40).mask(3), ll.Circle(40).mask(2)
    assert abs(float(disk.sum()) / (torch.pi * 400) - 1) < 0.02 and abs(float(ball.sum()) / 33510 - 1) < 0.02
    assert bool(ll.Circle(3).mask(1).all())
    for size, at in ((9, slice(3, 6)), (3, slice(None))):  # a larger one is cut to its middle
        x = drawn(1, 1, 3, 3)
        whole = torch.zeros(size, size)
        whole[at, at] = torch.eye(3)
        a = ll.explain(squares(1, 3, 3), x, ll.Occlusion(whole, 1), target=0)
        torch.testing.assert_close(a.values[0, 0].diagonal(), terms(x)[0, 0].diagonal().sum().expand(3))
        assert ("window WindowMask(9 x 9) is larger than the input (3, 3)" in " ".join(a.notes)) == (size == 9)


def test_a_mask_is_printed_as_its_size_and_saved(tmp_path: Any) -> None:
    method = ll.Occlusion(torch.ones(20, 20), 10)
    assert "WindowMask(20 x 20)" in repr(method) and "tensor" not in repr(method) and len(repr(method)) < 150
    assert method == ll.Occlusion(torch.ones(20, 20), 10) != ll.Occlusion(torch.ones(20, 21), 10)
    assert len({method, ll.Occlusion(torch.ones(20, 20), 10)}) == 1
    a = ll.explain(conv_net(), pictures(1), ll.Occlusion(CROSS, 1), target=0)
    assert ll.Attribution.load(a.save(tmp_path / "a.safetensors")).method == a.method
    with pytest.raises(ValueError, match=r"window: a mask of shape \(2, 2\) that hides nothing"):
        ll.Occlusion(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"window: a mask of shape \(3, 3\) for 1 spatial axes; give it one axis"):
        ll.explain(squares(4), drawn(1, 4), ll.Occlusion(CROSS), target=0)
    with pytest.raises(ValueError, match=r"Occlusion\.stride=a tensor \(2,\) of torch\.int64: use 1 or more positions"):
        ll.Occlusion(3, torch.tensor([1, 2]))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"Occlusion\.window='round': use 1 or more positions.*Circle\(16\), or a mask"
    ):
        ll.Occlusion("round")  # type: ignore[arg-type]


def test_a_mask_hides_by_any_baseline_and_border() -> None:
    """By blur, where the windows do not end at the border, and one channel at a time."""
    net, x = conv_net(), pictures(1)
    box = torch.ones(3, 3)
    for settings in ({"border": "cut"}, {"border": "centre"}, {"border": "move"}, {"channels": "each"}):
        masked, whole = (
            ll.explain(net, x, ll.Occlusion(window, 2, **settings), target=1, baseline=ll.Blur(2)).values  # type: ignore[arg-type]
            for window in (box, 3)
        )
        torch.testing.assert_close(masked, whole)
