"""`python -m benchmarks.reproducibility`: how far maps move between 1 and 2 threads, under autocast, and to a GPU.

The largest difference to the map on one thread in float32, as a share of that map's largest value, over four pictures
(`--pictures`): the median and the largest. Networks of ReLUs have kinks, where rounding flips a unit; GELU has none.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import limelight as ll

from .report import table
from .scenes import scene

MODELS = ("efficientnet-lite0", "resnet18", "convnext_tiny")
METHODS = ("gradient", "integrated-gradients(GaussLegendre(8))", "grad-cam")
WAYS = ("2 threads", "autocast to bfloat16", "GPU")


class Autocast(nn.Module):
    """A network that computes in bfloat16 where torch.autocast does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            outputs: Tensor = self.network(x)
        return outputs.float()


def maps(model: nn.Module, pictures: Tensor, targets: list[int], layer: str, threads: int = 1) -> list[Tensor]:
    """Return the map of each picture by each method, in float64 on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        options: dict[str, Any] = {"target": targets, "layer": layer, "rows_per_pass": 8}
        panel = ll.explain(model, pictures, list(METHODS), **options)
        return [each.values.double().cpu() for each in panel.values()]
    finally:
        torch.set_num_threads(before)


def moved(ours: Tensor, theirs: Tensor) -> list[float]:
    """Return the largest difference of each picture's map as a share of the first one's largest value."""
    return [float((a - b).abs().max() / a.abs().max()) for a, b in zip(ours, theirs, strict=True)]


def rows_of(name: str, count: int) -> list[list[str]]:
    shown = scene(name)
    model = copy.deepcopy(shown.model).cpu()
    pictures = torch.cat([shown.x, shown.references[: count - 1]]).cpu()
    with torch.no_grad():
        targets: list[int] = model(pictures).argmax(1).tolist()
    plain = maps(model, pictures, targets, shown.layer)
    ways: dict[str, Callable[[], list[Tensor]]] = {
        "2 threads": lambda: maps(model, pictures, targets, shown.layer, threads=2),
        "autocast to bfloat16": lambda: maps(Autocast(model), pictures, targets, f"network.{shown.layer}"),
    }
    if torch.cuda.is_available():
        ways["GPU"] = lambda: maps(copy.deepcopy(model).cuda(), pictures.cuda(), targets, shown.layer)
    found = {way: [moved(a, b) for a, b in zip(plain, make(), strict=True)] for way, make in ways.items()}
    lines = []
    for i, method in enumerate(METHODS):
        figures = [found[way][i] if way in found else None for way in WAYS]
        cells = ["not measured" if each is None else f"{median(each):.1e}, {max(each):.1e}" for each in figures]
        lines.append([name, method.partition("(")[0], *cells])
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproducibility", description=__doc__)
    parser.add_argument("--only", action="append", default=[], choices=MODELS, help="one of the models")
    parser.add_argument("--pictures", type=int, default=4, help="of 7")
    asked = parser.parse_args(arguments)
    lines = [line for name in asked.only or MODELS for line in rows_of(name, asked.pictures)]
    print(table(["model", "map", *(f"{way}: median, largest" for way in WAYS)], lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
