"""The cost of a bare row in each arithmetic, and how far its gradient is from the exact one, in float64."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor, nn

import limelight as ll
from limelight.engine.packed import PackedWeights

from .scenes import scene
from .timing import Effort, seconds

MODELS = ("efficientnet-lite0", "resnet18")
ROWS = (1, 8)
WAYS = ("eager", "channels-last", "packed")
SAMPLE = Path(os.environ.get("LIMELIGHT_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "imagenet-sample"


@dataclass(frozen=True)
class RowTimes:
    """Seconds of one pass of `rows` rows, forward or forward and backward, by way; the passes are made in turn."""

    model: str
    rows: int
    backward: bool
    spent: dict[str, tuple[float, ...]]

    def per_row(self, way: str) -> float:
        """The median time of a row in milliseconds."""
        return 1e3 * median(self.spent[way]) / self.rows

    def ratios(self, way: str) -> list[float]:
        """The time of `way` over that of packed rows, pass by pass."""
        return [other / own for other, own in zip(self.spent[way], self.spent["packed"], strict=True)]


@dataclass(frozen=True)
class Distances:
    """Relative Euclidean distances of gradients from those in float64, for each photograph."""

    model: str
    by_way: dict[str, tuple[float, ...]]


def row_times(effort: Effort) -> list[RowTimes]:
    return [_times(name, rows, backward, effort) for name in MODELS for rows in ROWS for backward in (False, True)]


def _times(name: str, rows: int, backward: bool, effort: Effort) -> RowTimes:
    at = scene(name)
    net = _frozen(at.model)
    x = torch.cat([at.x, at.references])[:rows].cpu()
    x = torch.cat([x] * -(-rows // len(x)))[:rows]
    passes = {way: _pass(net, x, way, backward) for way in WAYS}
    for run in passes.values():
        run()  # lays the weights out
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    while len(spent["packed"]) < effort.most and sum(map(sum, spent.values())) < effort.seconds:
        for way, run in passes.items():
            spent[way].append(seconds(run))
    return RowTimes(name, rows, backward, {way: tuple(each) for way, each in spent.items()})


def _frozen(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cpu().eval().requires_grad_(False)


def _pass(net: nn.Module, x: Tensor, way: str, backward: bool) -> Callable[[], Tensor]:
    """Return a pass of the frozen network: its outputs, or the gradients of each row's largest output."""
    modules = dict(net.named_modules())
    weights = PackedWeights.proven(net, x[:1], backward) if way == "packed" else None
    rows = x if way == "eager" else x.contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        leaf = rows.detach().requires_grad_(backward)
        if weights is None:
            outputs: Tensor = net(leaf)
        else:
            with weights.installed(modules):
                outputs = net(leaf)
        return torch.autograd.grad(outputs.amax(1).sum(), leaf)[0] if backward else outputs

    def without_graph() -> Tensor:
        with torch.no_grad():
            return run()

    return run if backward else without_graph


def distances(pictures: int) -> Distances:
    """Compare the gradients of EfficientNet-lite0's largest output at so many photographs."""
    lite = ll.load_model(MODELS[0])
    assert isinstance(lite, ll.ImageModel)
    net, exact = _frozen(lite), _frozen(lite).double()
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for x in _photographs(lite, pictures):
        truth = _pass(exact, x.double(), "eager", True)()
        for way in WAYS:
            gradient = _pass(net, x, way, True)().double()
            found[way].append(float((gradient - truth).norm() / truth.norm()))
    return Distances(MODELS[0], {way: tuple(each) for way, each in found.items()})


def _photographs(model: ll.ImageModel, count: int) -> list[Tensor]:
    """Return photographs of the ImageNet sample where it is, or the demonstration pictures."""
    paths = sorted(SAMPLE.glob("*.jpg"))
    if not paths:
        names = ("chelsea", "astronaut", "coffee", "rocket")
        return [model.preprocess(ll.demo_image(each)) for each in names[:count]]
    return [model.preprocess(ll.open_image(each)) for each in paths[:: max(1, len(paths) // count)][:count]]


def markdown(times: Sequence[RowTimes], found: Distances) -> str:
    """Write both tables."""
    header = ["model", "rows", "pass", *(f"{way}, ms a row" for way in WAYS), *(f"{way} / packed" for way in WAYS[:2])]
    lines = [f"| {' | '.join(header)} |"]
    lines.append("|---" * 8 + "|")
    for each in times:
        cells = [each.model, str(each.rows), "forward + backward" if each.backward else "forward"]
        cells += [f"{each.per_row(way):.1f}" for way in WAYS]
        cells += [_ratio(each.ratios(way)) for way in WAYS[:2]]
        lines.append(f"| {' | '.join(cells)} |")
    count = len(found.by_way["eager"])
    lines += ["", f"Relative distance of the gradient from float64, {found.model}, {count} photographs:", ""]
    lines += ["| rows | mean | median | largest |", "|---|---|---|---|"]
    for way, far in found.by_way.items():
        lines.append(f"| {way} | {mean(far):.1e} | {median(far):.1e} | {max(far):.1e} |")
    return "\n".join(lines) + "\n"


def _ratio(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} passes)"
