"""`python -m benchmarks.checks`: our checks beside Quantus's, equal definitions, one process, run in turn.

Pixel flipping hides equal steps of pixels by the map's order, ROAD imputes shares of them linearly, both on grey
pictures because Quantus takes no colour there; MaxSensitivity explains noisy copies anew; randomisation explains with
the layers replaced one after another from the top; faithfulness correlation hides random subsets for three maps, which
ours scores once for all of them. Ours run on a prepared model, theirs on the model itself. Time is the process's: a
busy machine disturbs it less.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.evaluation import quick_checks

from .operators import torchvision

torchvision()  # quantus imports it, and it fails on a torch that it was not built for
quantus = importlib.import_module("quantus")

T = TypeVar("T")
SAMPLE = Path(os.environ.get("LIMELIGHT_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "imagenet-sample"
QUIET = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
STEPS, SHARES, SAMPLES, RADIUS = 28, (0.1, 0.3, 0.5, 0.7, 0.9), 4, 0.02
RUNS, SUBSET = 32, 224  # random subsets and their pixels
METHODS = ("gradient", "input-x-gradient", "grad-cam")
TARGET = 1.5  # times Quantus's time, where rows are equal


class Grey(nn.Module):
    """The model on grey pictures `(rows, 1, H, W)`, the same in each channel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x.expand(-1, 3, -1, -1))
        return out


class Counted(nn.Module):
    """The model, which counts the rows that it, and the copies that Quantus makes of it, are called with."""

    rows: ClassVar[int] = 0

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        Counted.rows += len(x)
        out: Tensor = self.model(x)
        return out


@dataclass(frozen=True)
class Row:
    """One check, timed on both sides; `rows` of ours and of theirs, `difference` compares the figures."""

    name: str
    ours: float
    theirs: float
    rows: tuple[int, int]
    difference: str

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours

    @property
    def cells(self) -> tuple[str, ...]:
        times = f"{self.ours:.2f}", f"{self.theirs:.2f}"
        return self.name, *times, f"{self.ratio:.2f}", *map(str, self.rows), self.difference


Ours = Callable[[], tuple[Tensor, int]]  # the figures, and the rows that the model ran on
Case = tuple[str, Ours, Callable[[], Tensor]]


def timed(run: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def of(found: ll.Finding, figures: Tensor) -> tuple[Tensor, int]:
    return figures, found.forward_rows


def cases(model: nn.Module, x: Tensor, few: int) -> list[Case]:
    """Return the checks on pictures x, that of random layers on the first few."""
    grey, g = Grey(model).eval(), x.mean(1, keepdim=True)
    with torch.no_grad():
        y, y_grey = model(x).argmax(1), grey(g).argmax(1)
    fast, fast_grey = ll.prepare(model), ll.prepare(grey)
    theirs, theirs_grey = Counted(model).eval(), Counted(grey).eval()
    panel = ll.explain(fast, x, METHODS, target=y)
    maps, maps_grey = panel[0], ll.explain(fast_grey, g, ll.Gradient(), target=y_grey)
    pixels = x.shape[2] * x.shape[3]

    def flip_ours() -> tuple[Tensor, int]:
        check = ll.Deletion(fill=g.flatten(1).amin(1).view(-1, 1, 1, 1).expand_as(g), steps=STEPS)
        found = ll.check(fast_grey, g, maps_grey, check, target=y_grey)[0]
        return of(found, found.detail["curve"][:, 1:])

    def flip_theirs() -> Tensor:
        metric = quantus.PixelFlipping(features_in_step=pixels // STEPS, perturb_baseline="black", **QUIET)
        return torch.tensor(np.array(_call(metric, theirs_grey, g, y_grey, maps_grey.values.numpy())))

    def road_ours() -> tuple[Tensor, int]:
        found = ll.check(fast_grey, g, maps_grey, ll.ROAD(SHARES, "morf", noise=0.0), target=y_grey)[0]
        return of(found, found.detail["morf"])

    def road_theirs() -> Tensor:
        metric = quantus.ROAD(noise=0.0, percentages=[100 * share for share in SHARES], **QUIET)
        return torch.tensor(list(_call(metric, theirs_grey, g, y_grey, maps_grey.values.numpy()).values()))

    def sensitive_ours() -> tuple[Tensor, int]:
        check = ll.MaxSensitivity(samples=SAMPLES, radius=RADIUS, absolute_radius=True)
        found = ll.check(fast, x, ll.Gradient(), check, target=y)[0]
        return of(found, found.value)

    def sensitive_theirs() -> Tensor:
        metric = quantus.MaxSensitivity(nr_samples=SAMPLES, lower_bound=RADIUS, **QUIET)
        return torch.tensor(_call(metric, theirs, x, y, maps.values.numpy(), explain_func=_gradient))

    layers = sum(hasattr(each, "reset_parameters") for each in model.modules())

    def random_ours() -> tuple[Tensor, int]:
        check = ll.Randomisation(stages=layers, draws=1)
        found = ll.check(fast, x[:few], ll.Gradient(), check, target=y[:few])[0]
        return of(found, found.detail["spearman signed"])

    def random_theirs() -> Tensor:
        metric = quantus.MPRT(layer_order="top_down", return_average_correlation=False, **QUIET)
        found = _call(metric, theirs, x[:few], y[:few], maps.values[:few].numpy(), explain_func=_gradient)
        return torch.tensor(np.array(list(found.values()))).T

    def correlated_ours() -> tuple[Tensor, int]:
        check = ll.FaithfulnessCorrelation(SUBSET, RUNS, x.flatten(1).amin(1).view(-1, 1, 1, 1).expand_as(x))
        found = [each[0] for each in quick_checks(fast, panel, 1 << 30, (check,)).values()]
        return torch.stack([each.value for each in found]), sum(each.forward_rows for each in found)

    def correlated_theirs() -> Tensor:
        metric = quantus.FaithfulnessCorrelation(
            nr_runs=RUNS, subset_size=SUBSET, perturb_baseline="black", return_aggregate=False, **QUIET
        )
        each = [_call(metric, theirs, x, y, a.values.expand_as(x).numpy()) for a in panel.values()]
        return torch.tensor(np.array(each))

    return [
        ("pixel flipping, grey", flip_ours, flip_theirs),
        ("ROAD, grey", road_ours, road_theirs),
        ("MaxSensitivity of the gradient", sensitive_ours, sensitive_theirs),
        (f"randomisation of {layers} layers, gradient, {few} pictures", random_ours, random_theirs),
        ("faithfulness correlation of three maps", correlated_ours, correlated_theirs),
    ]


def measure(case: Case, pairs: int) -> Row:
    """Run both sides in turn; of the pairs, the one with the middle ratio."""
    name, mine, other = case
    spent: list[tuple[float, float]] = []
    for _ in range(pairs):
        ours, (a, rows) = timed(mine)
        Counted.rows = 0
        theirs, b = timed(other)
        spent.append((ours, theirs))
    ours, theirs = sorted(spent, key=lambda each: each[1] / each[0])[len(spent) // 2]
    return Row(name, ours, theirs, (rows, Counted.rows), _difference(a, b))


def _difference(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape:
        return f"of shape {tuple(a.shape)} and {tuple(b.shape)}; means {float(a.mean()):.3g}, {float(b.mean()):.3g}"
    a, b = a.double(), b.double()
    return f"max difference {float((a - b).abs().max()):.1e}, means {float(a.mean()):.3g}, {float(b.mean()):.3g}"


def _gradient(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
    x = torch.as_tensor(inputs).float().requires_grad_()
    model(x).gather(1, torch.as_tensor(targets)[:, None]).sum().backward()
    assert x.grad is not None
    found: np.ndarray = x.grad.numpy()
    return found


def _call(metric: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, a: np.ndarray, **more: object) -> Any:
    return metric(
        model=model, x_batch=x.numpy(), y_batch=y.numpy(), a_batch=a, channel_first=True, device="cpu", **more
    )


def main() -> int:
    """0: every target is met, 1: one is missed, 2: the pictures are not there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checks", description=__doc__)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--few", type=int, default=2, help="pictures for the randomisation of all layers")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="run the checks whose name begins so")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    paths = sorted(SAMPLE.glob("*.jpg"))[: asked.pictures]
    if len(paths) < asked.pictures:
        print(f"benchmarks.checks: {len(paths)} pictures in {SAMPLE}, {asked.pictures} wanted", file=sys.stderr)
        return 2
    model = ll.load_model()
    assert isinstance(model, ll.ImageModel)
    x = torch.cat([model.preprocess(path) for path in paths])
    wanted = [each for each in cases(model, x, asked.few) if each[0].startswith(asked.only)]
    head = ("check", "ours, s", "Quantus, s", "ratio", "our rows", "their rows", "figures")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    rows = []
    for case in wanted:
        rows.append(measure(case, asked.pairs))
        print("| " + " | ".join(rows[-1].cells) + " |", flush=True)
    return 0 if all(row.ratio >= TARGET for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
