"""Frames that a model folds into the rows: their maps have the input's time axis."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.engine.frames import reshaped

D = torch.float64


class Video(nn.Module):
    """Convolutions of each frame, then `after`: an LSTM over time, or a mean. `order` is how frames lie in the rows."""

    def __init__(self, after: str = "lstm", order: str = "rows", channels_second: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.after, self.order, self.channels_second = after, order, channels_second
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 5, 2, stride=2), nn.Softplus())
        self.mix, self.head = nn.LSTM(5, 5, batch_first=True), nn.Linear(5, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2) if self.channels_second else x
        if self.order == "rows":
            maps = self.body(x.reshape(-1, *x.shape[2:])).view(*x.shape[:2], 5, x.shape[3] // 2, -1)
        elif self.order == "interleaved":
            maps = self.body(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (x.shape[1], x.shape[0])).transpose(0, 1)
        else:
            maps = torch.stack([self.body(x[:, t]) for t in range(x.shape[1])], 1)
        return self.read(maps)

    def read(self, maps: Tensor) -> Tensor:
        """Return the scores of maps `(rows, frames, channels, h, w)`."""
        pooled = maps.mean((3, 4))
        out: Tensor = self.head((self.mix(pooled)[0] if self.after == "lstm" else pooled).mean(1))
        return out


def case(rows: int, channels_second: bool, after: str = "lstm") -> tuple[Video, Tensor, Tensor, dict[str, Any]]:
    """Return a model, its input, its maps `(rows, frames, channels, h, w)`, and options of explain()."""
    net = Video(after, channels_second=channels_second).eval()
    frames = torch.randn(rows, 3, 3, 12, 8, dtype=D, generator=torch.Generator().manual_seed(1))
    maps = net.body(frames.flatten(0, 1)).unflatten(0, (rows, 3))
    return (
        net,
        frames.transpose(1, 2) if channels_second else frames,
        maps,
        {} if channels_second else {"axes": "NTCHW"},
    )


def spread(raw: Tensor) -> Tensor:
    return F.interpolate(raw, size=(3, 12, 8), mode="trilinear", align_corners=False)


@pytest.mark.parametrize("channels_second", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("layer", [None, "body"])
def test_maps_by_their_definition(rows: int, channels_second: bool, layer: str | None) -> None:
    """The model's part after the maps, run by hand, gives weights over channels; sums are over all frames."""
    net, x, maps, options = case(rows, channels_second)
    (slope,) = torch.autograd.grad(net.read(maps)[:, 1].sum(), maps)
    a = maps.detach()
    whole, shares = net.read(a)[:, 1], []
    for channel in range(5):
        without = net.read(a.index_fill(2, torch.tensor([channel]), 0))[:, 1]
        shares.append(((whole - without) / whole).detach())
    wanted = {
        ll.GradCAM(relu=False): torch.einsum("nk,ntkhw->nthw", slope.mean((1, 3, 4)), a),
        ll.HiResCAM(relu=False): (slope * a).sum(2),
        ll.LayerCAM(relu=False): (slope.relu() * a).sum(2),
        ll.AblationCAM(relu=False): torch.einsum("kn,ntkhw->nthw", torch.stack(shares), a),
    }
    for method, raw in wanted.items():
        found = ll.explain(net, x, method, target=1, layer=layer, **options)
        assert found.layer == "body" and found.raw is not None
        torch.testing.assert_close(found.raw[:, 0], raw)
        values = found.values if channels_second else found.values.movedim(2, 1)
        torch.testing.assert_close(values.reshape(rows, 1, 3, 12, 8), spread(raw[:, None]))
    eigen = ll.explain(net, x, ll.EigenCAM(relu=False), target=1, layer=layer, **options)
    centred = a.transpose(1, 2).flatten(2).transpose(1, 2)
    centred = centred - centred.mean(1, keepdim=True)
    along = (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:, 0, :, None])[..., 0].view(rows, 3, 6, 4)
    assert eigen.raw is not None
    torch.testing.assert_close(eigen.raw[:, 0].abs(), along.abs())


@pytest.mark.parametrize("channels_second", [False, True])
def test_score_cam_masks_the_frames(channels_second: bool) -> None:
    net, x, maps, options = case(2, channels_second)
    up = spread(maps.detach().transpose(1, 2))
    low, high = up.amin((2, 3, 4), keepdim=True), up.amax((2, 3, 4), keepdim=True)
    masks = ((up - low) / (high - low))[:, :, None]  # rows, channels, 1, T, H, W
    video = (x if channels_second else x.transpose(1, 2))[:, None] * masks
    rows = video.flatten(0, 1) if channels_second else video.flatten(0, 1).transpose(1, 2)
    weights = net(rows)[:, 1].view(2, 5).softmax(1)
    found = ll.explain(net, x, ll.ScoreCAM(relu=False), target=1, **options)
    assert found.raw is not None
    torch.testing.assert_close(found.raw[:, 0], torch.einsum("nk,ntkhw->nthw", weights, maps).detach())


def test_the_classifier_of_pooled_frames() -> None:
    net, x, maps, options = case(2, False, after="mean")
    found = ll.explain(net, x, ll.CAM(relu=False), target=1, **options)
    assert found.raw is not None
    torch.testing.assert_close(found.raw[:, 0], torch.einsum("k,ntkhw->nthw", net.head.weight[1], maps).detach())


@pytest.mark.parametrize("rows", [1, 2])
def test_at_the_layer_and_its_neurons(rows: int) -> None:
    net, x, maps, options = case(rows, False)
    (slope,) = torch.autograd.grad(net.read(maps)[:, 1].sum(), maps)
    units = (slope * maps).detach().transpose(1, 2)
    for layer in (None, "body"):
        a = ll.explain(net, x, ll.AtLayer(ll.InputXGradient(), layer), target=1, **options)
        assert a.raw is not None
        torch.testing.assert_close(a.raw, units)
        torch.testing.assert_close(a.values.flatten(1).sum(1), units.flatten(1).sum(1))
    path = ll.explain(net, x, ll.Conductance(layer="body", steps=64), target=1, **options)
    change = net(x)[:, 1] - net(torch.zeros_like(x))[:, 1]
    torch.testing.assert_close(path.values.flatten(1).sum(1), change.detach(), rtol=1e-3, atol=1e-5)
    pooled = ll.explain(net, x, "gradient", target=ll.Neuron("body", channel=2), **options)
    torch.testing.assert_close(pooled.score, maps[:, :, 2].mean((1, 2, 3)).detach())
    one = ll.explain(net, x, "gradient", target=ll.Neuron("body", index=(2, 1, 4, 3)), **options)
    torch.testing.assert_close(one.score, maps[:, 1, 2, 4, 3].detach())


@pytest.mark.parametrize("cell", [(0, 0, 0), (1, 5, 1), (2, 3, 3)])
def test_a_planted_patch_moves_the_map_in_its_frame(cell: tuple[int, int, int]) -> None:
    """What follows the maps is linear, so that the map moves where a convolution sees the patch, and by the score."""
    net, x, _, options = case(2, False, after="mean")
    t, row, column = cell
    planted = x.clone()
    planted[1, t, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 3
    raws = [ll.explain(net, each, ll.HiResCAM(relu=False), target=1, **options).raw for each in (x, planted)]
    assert raws[0] is not None and raws[1] is not None
    moved = (raws[1] - raws[0])[:, 0]
    near = torch.zeros_like(moved, dtype=torch.bool)
    near[1, t, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
    assert moved[~near].abs().max() < 1e-12 < moved[1, t, row, column].abs()
    torch.testing.assert_close(moved[1].sum(), (net(planted) - net(x))[1, 1].detach())


@pytest.mark.parametrize("rows", [1, 2])
def test_rows_in_another_order_are_refused(rows: int) -> None:
    net, (_, x, _, options) = Video(order="interleaved").eval(), case(rows, False)
    for method in ("grad-cam", "eigen-cam", "score-cam", "ablation-cam", ll.Conductance(), ll.AtLayer()):
        with pytest.raises(
            ValueError, match=rf"'body' returned \({3 * rows}, 5, 6, 4\) for {rows} rows; rows must be its"
        ):
            ll.explain(net, x, method, target=1, layer="body", **options)
        with pytest.raises(
            ValueError, match="others have 3 rows for each, as frames do that are folded into the rows, wh"
        ):
            ll.explain(net, x, method, target=1, **options)


def test_a_run_for_each_frame_is_no_map_of_the_video() -> None:
    net, (_, x, maps, options) = Video(order="frame by frame").eval(), case(2, False)
    with pytest.raises(
        ValueError, match=r"'body#1' returns \(5, 6, 4\) per example, no map of channels over the input's"
    ):
        ll.explain(net, x, "grad-cam", target=1, layer="body#1", **options)
    (slope,) = torch.autograd.grad(net.read(maps)[:, 1].sum(), maps)
    for method in (ll.AtLayer(ll.InputXGradient(), "body#1"), ll.AtLayer(ll.InputXGradient())):
        a = ll.explain(net, x, method, target=1, layer="body#1" if method.layer is None else None, **options)
        assert a.raw is not None
        torch.testing.assert_close(a.raw, (slope * maps)[:, 1].detach())
    part = ll.explain(net, x, ll.Conductance(layer="body#1", steps=64), target=1, **options)
    assert part.layer == "body#1" and part.values.shape == (2, 5, 6, 4)


class Frame(nn.Module):
    """A transformer with a class token over each frame, then the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.token = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 7, 8))
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)))
        self.head = nn.Linear(8, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.read(self.blocks(self.tokens(x)).unflatten(0, x.shape[:2]))
        return out

    def tokens(self, x: Tensor) -> Tensor:
        found = self.embed(x.flatten(0, 1)).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(found), -1, -1), found], 1) + self.place

    def read(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(tokens[:, :, 0].mean(1))
        return out


@pytest.mark.parametrize("rows", [1, 2])
def test_tokens_of_frames_after_a_class_token(rows: int) -> None:
    net, x = Frame().eval(), torch.randn(rows, 3, 3, 12, 8, dtype=D)
    held = net.blocks[0](net.tokens(x))
    (slope,) = torch.autograd.grad(net.read(net.blocks[1](held).unflatten(0, (rows, 3)))[:, 1].sum(), held)
    wanted = (slope * held).sum(2)[:, 1:].view(rows, 3, 3, 2).detach()
    for layer in (None, "blocks.0"):
        a = ll.explain(net, x, ll.HiResCAM(relu=False), target=1, layer=layer, axes="NTCHW")
        assert a.layer == "blocks.0" and a.raw is not None
        torch.testing.assert_close(a.raw[:, 0], wanted)


class Windows(nn.Module):
    """Attention within windows of a picture, as many as it has rows, each of as many positions as it has columns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix, self.head = nn.Conv2d(3, 5, 1), nn.Linear(5, 5), nn.Linear(5, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x).movedim(1, -1)
        windows = y.view(len(x), 4, 4, 4, 4, 5).transpose(2, 3).reshape(-1, 16, 5)
        mixed = self.mix(windows).tanh()
        out: Tensor = self.head(mixed.view(len(x), 16, 16, 5).mean((1, 2)))
        return out


@pytest.mark.parametrize("rows", [1, 2])
def test_windows_are_no_frames(rows: int) -> None:
    net, x = Windows().eval(), torch.randn(rows, 3, 16, 16, dtype=D)
    assert ll.explain(net, x, "grad-cam", target=1).layer == "embed"
    with pytest.raises(ValueError, match=rf"'mix' returned \({16 * rows}, 16, 5\) for {rows} rows"):
        ll.explain(net, x, "grad-cam", target=1, layer="mix")


def test_lines_of_a_picture_are_read_as_its_rows() -> None:
    class Lines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.line, self.head = nn.Conv1d(3, 5, 3, padding=1), nn.Linear(5, 3)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            maps = self.line(x.transpose(1, 2).flatten(0, 1)).tanh()
            out: Tensor = self.head(maps.mean(2).view(len(x), -1, 5).mean(1))
            return out

    net, x = Lines().eval(), torch.randn(2, 3, 6, 8, dtype=D)
    maps = net.line(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 6))
    (slope,) = torch.autograd.grad(net.head(maps.tanh().mean((1, 3)))[:, 1].sum(), maps)
    a = ll.explain(net, x, ll.HiResCAM(relu=False), target=1, layer="line")
    assert a.raw is not None
    torch.testing.assert_close(a.raw[:, 0], (slope * maps).sum(2).detach())


def test_frames_of_a_program_several_targets_and_a_prepared_model() -> None:
    net, x, _, options = case(2, False)
    wanted = ll.explain(net, x, "hires-cam", target=1, **options)
    traced: Any = torch.export.export(net, (x,)).module()
    found = ll.explain(traced, x, "hires-cam", target=1, **options)
    torch.testing.assert_close(found.values, wanted.values)
    both = ll.explain(net, x, "hires-cam", target=[[1, 2], [1, 0]], **options)
    torch.testing.assert_close(both.values[:, 0], wanted.values)
    prepared = ll.prepare(net, **options)
    for layer in (None, "body", None):
        again = ll.explain(prepared, x, "hires-cam", target=1, layer=layer)
        torch.testing.assert_close(again.values, wanted.values)


def test_axes_after_a_reshape() -> None:
    n, t, c, h = ((0, 2),), ((2, 3),), ((1, 4),), ((3, 6),)
    assert reshaped((2, 3, 4, 6), (n, t, c, h), (6, 4, 6)) == (n + t, c, h)
    assert reshaped((6, 4, 6), (n + t, c, h), (2, 3, 4, 6)) == (n, t, c, h)
    assert reshaped((6, 4, 6), (n + t, c, h), (3, 2, 4, 6)) == (None, None, c, h)
    assert reshaped((3, 2, 4, 6), (t, n, c, h), (6, 24)) == (t + n, c + h)
    assert reshaped((2, 3, 4, 6), (n, t, None, h), (6, 4, 2, 3)) == (n + t, None, None, None)
