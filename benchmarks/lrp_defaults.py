"""`python -m benchmarks.lrp_defaults`: LRP's composites, with biases kept or ignored, by what their maps are worth.

Prints the table, and with `--write` puts it into docs/rules.md. `--quick` takes few examples.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import limelight as ll
from limelight.studies.ground_truth.scenes import scenes
from limelight.studies.ground_truth.trained import trained

from .operators import torchvision

SAMPLE = Path(os.environ.get("LIMELIGHT_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "imagenet-sample"
PAGE = Path(__file__).parents[1] / "docs" / "rules.md"
BEGIN = "<!-- written by `python -m benchmarks.lrp_defaults --write` -->"
END = "<!-- end of LRP's table -->"
COMPOSITES = ("activated-plus", "epsilon-plus", "epsilon-alpha2-beta1", "epsilon-gamma-box", "gamma", "epsilon")
HEAD = (
    "| network, examples | composite | biases | kept of the score: median (least, most) | sum of sizes / score "
    "| deletion | insertion | pointing |"
)


@dataclass(frozen=True)
class Subject:
    """A model with its examples. Without `checks` only what is conserved is measured."""

    name: str
    model: nn.Module
    x: Tensor
    target: Tensor | None = None
    mask: Tensor | None = None
    checks: tuple[ll.Check, ...] = ()


def photographs(count: int, steps: int) -> Subject:
    """Return our default model on photographs at equal distances in the sample."""
    paths = sorted(SAMPLE.glob("*.jpg"))
    if len(paths) < count:
        raise FileNotFoundError(f"{len(paths)} pictures in {SAMPLE}, {count} wanted; LIMELIGHT_SHARED names the folder")
    model = ll.load_model()
    assert isinstance(model, ll.ImageModel)
    x = torch.cat([model.preprocess(paths[(2 * i + 1) * len(paths) // (2 * count)]) for i in range(count)])
    return Subject(
        "EfficientNet-lite0, photographs", model, x, checks=(ll.Deletion(steps=steps), ll.Insertion(steps=steps))
    )


def of_scenes(architecture: Any, count: int, steps: int) -> Subject:
    """Return a network trained on scenes, where the region that decides is known."""
    shown = scenes(count, seed=1000)
    checks = (ll.Deletion(fill=0.5, steps=steps), ll.Insertion(steps=steps), ll.PointingGame())
    return Subject(f"scenes {architecture.upper()}", trained(architecture), shown.x, shown.y, shown.mask, checks)


def untrained(name: str, count: int) -> Subject:
    """Return a network with random weights and batch-norm statistics, on noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(torchvision().models, name)(weights=None).eval().requires_grad_(False)
        for module in model.modules():
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
        return Subject(f"{name}, random weights", model, torch.rand(count, 3, 64, 64), torch.full((count,), 3))


def row(subject: Subject, composite: str, bias: bool) -> str:
    """Return a line of the table. The box is that of pixels, [0, 1]."""
    cells = [f"{subject.name}, {len(subject.x)}", f"`{composite}`", "kept" if bias else "ignored"]
    asked: dict[str, Any] = {"target": subject.target}
    try:
        found = ll.explain(subject.model, subject.x, ll.LRP(composite, bias=bias), **asked)
    except FloatingPointError:
        return "| " + " | ".join([*cells, "outgrew float32", *["-"] * 4]) + " |"
    sums, sizes = found.values.flatten(1).sum(1) / found.score, found.values.flatten(1).abs().sum(1) / found.score.abs()
    cells += [f"{sums.median():.2g} ({sums.min():.2g}, {sums.max():.2g})", f"{sizes.median():.2g}"]
    figures = {}
    if subject.checks:
        measured = ll.check(subject.model, subject.x, found, subject.checks, mask=subject.mask, **asked)
        figures = {type(each.check): f"{each.value.nanmean():.3f}" for each in measured}
    cells += [figures.get(check, "-") for check in (ll.Deletion, ll.Insertion, ll.PointingGame)]
    return "| " + " | ".join(cells) + " |"


def table(subjects: list[Callable[[], Subject]]) -> Iterator[str]:
    yield HEAD
    yield "|---" * 8 + "|"
    for make in subjects:
        subject = make()
        for composite in COMPOSITES:
            for bias in (True, False):
                yield row(subject, composite, bias)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lrp_defaults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 photographs, 4 scenes, 7 steps")
    parser.add_argument("--write", action="store_true", help="put the table into docs/rules.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    count, steps, shown = (2, 7, 4) if asked.quick else (5, 14, 24)
    subjects: list[Callable[[], Subject]] = [
        lambda: photographs(count, steps),
        lambda: of_scenes("cnn", shown, steps),
        lambda: of_scenes("vit", shown, steps),
        lambda: untrained("resnet18", 2),
        lambda: untrained("vgg16", 2),
    ]
    lines = []
    for line in table(subjects):
        print(line, flush=True)
        lines.append(line)
    if asked.write:
        page = PAGE.read_text(encoding="utf-8")
        head, begin, rest = page.partition(BEGIN)
        _, end, tail = rest.partition(END)
        if not (begin and end):
            raise ValueError(f"the page lacks its markers {BEGIN} and {END}")
        PAGE.write_text("\n".join([head + BEGIN + "\n", *lines, "\n" + END]) + tail, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
