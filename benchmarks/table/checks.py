"""Cases of tests of maps."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

import limelight as ll

from .row import Row

quantus: Any = import_module("quantus")  # whose names its types leave out
_QUIET: dict[str, Any] = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 144, 4)).eval()


def _grey(n: int) -> Tensor:
    return torch.rand(n, 1, 12, 12, generator=torch.Generator().manual_seed(1))


def _scores(metric: Any, net: nn.Module, x: Tensor, y: Tensor, values: Tensor, **more: Any) -> Any:
    arrays = {"x_batch": x.numpy(), "y_batch": y.numpy(), "a_batch": values.numpy()}
    return metric(model=net, **arrays, device="cpu", channel_first=True, **more)


def _plateau() -> Row:
    """A map that is 1 but in one corner: its largest value hits as often as the mask is large."""
    net, x, y = _net(), _grey(1), torch.zeros(1, dtype=torch.long)
    mask, values = torch.zeros(1, 1, 12, 12), torch.ones(1, 1, 12, 12)
    mask[..., :6, :] = 1
    values[0, 0, 11, 11] = 0
    right = 72 / 143

    def ours() -> float:
        return abs(float(ll.check(net, x, values, ll.PointingGame(0), mask=mask)[0].value) - right)

    def peer() -> float:
        found = _scores(quantus.PointingGame(**_QUIET), net, x, y, values, s_batch=mask.bool().numpy())
        return abs(float(found[0]) - right)

    sides = {"limelight": ours, "quantus": peer}
    title = "the pointing game of a flat map, half of the picture right"
    return Row("plateau", title, "72 of the 143 largest values hit", sides, 1e-6, "")


def _equality() -> Row:
    """A map whose sum misses by a thousandth has the sum; figures are 0 for passed and 1 for failed."""
    net, x = _net(), _grey(1)
    y = net(x).argmax(1)
    a = ll.explain(net, x, "integrated-gradients(midpoint(64))", target=y)

    def ours() -> float:
        return float(ll.check(net, x, a, ll.Completeness())[0].passed is not True)

    def peer() -> float:
        return float(not _scores(quantus.Completeness(**_QUIET), net, x, y, a.values)[0])

    sides = {"limelight": ours, "quantus": peer}
    title = "completeness of integrated gradients, 64 nodes, 0 for passed"
    return Row("completeness-test", title, "passed: the sum misses less than 1%", sides, 0, "")


def _colour() -> Row:
    """ROAD of pictures in colour; figures are the share of examples without a value."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4)).eval()
    x = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(2, dtype=torch.long)
    a = ll.explain(net, x, "gradient", target=y)

    def ours() -> float:
        return float(ll.check(net, x, a, ll.ROAD())[0].value.isnan().double().mean())

    def peer() -> float:
        found = _scores(quantus.ROAD(noise=0.0, percentages=[50], **_QUIET), net, x, y, a.values)
        return float(len(found) == 0)

    sides = {"limelight": ours, "quantus": peer}
    return Row("road-colour", "ROAD of pictures in colour", "a value for each example", sides, 0, "")


def _batches() -> Row:
    """ROAD of four examples, in one batch and in two; figures are how far the results are apart."""
    net, x = _net(), _grey(4)
    y = net(x).argmax(1)
    a = ll.explain(net, x, "gradient", target=y)

    def ours() -> float:
        check = ll.ROAD((0.2, 0.5, 0.8), noise=0.0)
        whole = ll.check(net, x, a.values, check, target=y)[0].value
        parts = [ll.check(net, x[i : i + 2], a.values[i : i + 2], check, target=y[i : i + 2])[0].value for i in (0, 2)]
        return float((whole - torch.cat(parts)).abs().max())

    def peer() -> float:
        whole, halves = (
            _scores(
                quantus.ROAD(noise=0.0, percentages=[20, 50, 80], **_QUIET), net, x, y, a.values,
                softmax=False, batch_size=size,
            )
            for size in (4, 2)
        )  # fmt: skip
        return float(max(abs(whole[share] - halves[share]) for share in whole))

    sides = {"limelight": ours, "quantus": peer}
    return Row("road-batches", "ROAD of four examples, in one batch and in two", "the same result", sides, 1e-4, "")


ROWS = (_plateau(), _equality(), _colour(), _batches())
