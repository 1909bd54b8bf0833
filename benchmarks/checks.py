"""`python -m benchmarks.checks`: our checks beside Quantus's, equal definitions, one process, run in turn.

Pixel flipping hides equal steps of pixels by the map's order, ROAD imputes shares of them linearly, both on grey
pictures because Quantus takes no colour there; MaxSensitivity explains noisy copies anew. Time is the process's:
a busy machine disturbs it less.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import limelight as ll

from .operators import torchvision

torchvision()  # quantus imports it, and it fails on a torch that it was not built for
quantus = importlib.import_module("quantus")

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet-sample"
QUIET = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
STEPS, SHARES, SAMPLES, RADIUS, TARGET = 28, (0.1, 0.3, 0.5, 0.7, 0.9), 4, 0.02, 10.0


class Grey(nn.Module):
    """The model on grey pictures `(rows, 1, H, W)`, the same in each channel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x.expand(-1, 3, -1, -1))
        return out


@dataclass(frozen=True)
class Row:
    """One check, timed on both sides; `difference` compares the figures."""

    name: str
    ours: float
    theirs: float
    difference: str

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours


def timed(run: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def measure(model: nn.Module, x: Tensor, pairs: int) -> list[Row]:
    grey, g = Grey(model).eval(), x.mean(1, keepdim=True)
    with torch.no_grad():
        y, y_grey = model(x).argmax(1), grey(g).argmax(1)
    maps = ll.explain(model, x, ll.Gradient(), target=y)
    maps_grey = ll.explain(grey, g, ll.Gradient(), target=y_grey)
    pixels = x.shape[2] * x.shape[3]

    def flip_ours() -> Tensor:
        check = ll.Deletion(fill=g.flatten(1).amin(1).view(-1, 1, 1, 1).expand_as(g), steps=STEPS)
        return ll.check(grey, g, maps_grey, check, target=y_grey)[0].detail["curve"][:, 1:]

    def flip_theirs() -> Tensor:
        metric = quantus.PixelFlipping(features_in_step=pixels // STEPS, perturb_baseline="black", **QUIET)
        return torch.tensor(np.array(_call(metric, grey, g, y_grey, maps_grey.values.numpy())))

    def road_ours() -> Tensor:
        check = ll.ROAD(SHARES, "morf", noise=0.0)
        return ll.check(grey, g, maps_grey.values, check, target=y_grey)[0].detail["morf"]

    def road_theirs() -> Tensor:
        metric = quantus.ROAD(noise=0.0, percentages=[100 * share for share in SHARES], **QUIET)
        return torch.tensor(list(_call(metric, grey, g, y_grey, maps_grey.values.numpy()).values()))

    def sensitive_ours() -> Tensor:
        check = ll.MaxSensitivity(samples=SAMPLES, radius=RADIUS, absolute_radius=True)
        return ll.check(model, x, ll.Gradient(), check, target=y)[0].value

    def sensitive_theirs() -> Tensor:
        metric = quantus.MaxSensitivity(nr_samples=SAMPLES, lower_bound=RADIUS, **QUIET)
        return torch.tensor(_call(metric, model, x, y, maps.values.numpy(), explain_func=_gradient))

    cases = (
        ("pixel flipping, grey", flip_ours, flip_theirs),
        ("ROAD, grey", road_ours, road_theirs),
        ("MaxSensitivity of the gradient", sensitive_ours, sensitive_theirs),
    )
    rows = []
    for name, mine, other in cases:
        spent: list[tuple[float, float]] = []
        for _ in range(pairs):
            ours, a = timed(mine)
            theirs, b = timed(other)
            spent.append((ours, theirs))
        ours, theirs = sorted(spent, key=lambda each: each[1] / each[0])[len(spent) // 2]
        rows.append(Row(name, ours, theirs, _difference(a, b)))
        print(f"{name}: {ours:.2f} s, Quantus {theirs:.2f} s, {rows[-1].ratio:.1f} times", flush=True)
    return rows


def _difference(a: object, b: object) -> str:
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    if a.shape != b.shape:
        return "theirs counts argmax, ours the probability"
    return f"max difference {float((a.double() - b.double()).abs().max()):.1e}, mean {float(b.double().mean()):.3g}"


def _gradient(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
    x = torch.as_tensor(inputs).float().requires_grad_()
    model(x).gather(1, torch.as_tensor(targets)[:, None]).sum().backward()
    assert x.grad is not None
    found: np.ndarray = x.grad.numpy()
    return found


def _call(
    metric: Callable[..., dict[float, float]], model: nn.Module, x: Tensor, y: Tensor, a: np.ndarray, **more: object
) -> dict[float, float]:
    return metric(
        model=model, x_batch=x.numpy(), y_batch=y.numpy(), a_batch=a, channel_first=True, device="cpu", **more
    )


def main() -> int:
    """0: every target is met, 1: one is missed, 2: the pictures are not there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checks", description=__doc__)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    paths = sorted(SAMPLE.glob("*.jpg"))[: asked.pictures]
    if len(paths) < asked.pictures:
        print(f"benchmarks.checks: {len(paths)} pictures in {SAMPLE}, {asked.pictures} wanted", file=sys.stderr)
        return 2
    model = ll.load_model()
    assert isinstance(model, ll.ImageModel)
    x = torch.cat([model.preprocess(path) for path in paths])
    rows = measure(model, x, asked.pairs)
    print("\n| check | ours, s | Quantus, s | ratio | figures |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.ours:.2f} | {row.theirs:.2f} | {row.ratio:.1f} | {row.difference} |")
    return 0 if all(row.ratio >= TARGET for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
