"""`python -m benchmarks.precision`: what sampling in two precisions gains, by the rows of masked pictures.

For each model the time of a row in bfloat16 and in float32 (interleaved, eight rows a pass), V_d / V over RISE's
masks, the best split and the cost at equal error. Only where the processor multiplies in bfloat16; `--emulated` prints
V_d / V, which needs no such processor (minutes a model), and times nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

import limelight as ll
from limelight.engine.bfloat16_rows import Bfloat16Rows, has_bfloat16
from limelight.engine.runner import Runner
from limelight.methods.two_precision import relative_cost
from limelight.question.random_streams import Streams

from .report import table
from .scenes import device, scene
from .timing import FULL, interleaved

MODELS = ("resnet18", "convnext_tiny", "vit_b_16", "efficientnet-lite0")
MASKS, ROWS = 64, 8
LEAST_GAIN = 1.3


@dataclass(frozen=True)
class Line:
    """One model: milliseconds a row, None where nothing was timed, and `ratio` = V_d / V."""

    model: str
    ratio: float
    bfloat16: float | None = None
    float32: float | None = None

    def cells(self) -> list[str]:
        if self.bfloat16 is None or self.float32 is None:
            return [self.model, f"{self.ratio:.3%}", *["not timed"] * 5]
        cost = self.bfloat16 / self.float32
        whole = relative_cost(self.ratio, cost)
        short = "" if 1 / whole >= LEAST_GAIN else f" (short of {LEAST_GAIN:g})"
        share = f"{math.sqrt(cost * self.ratio):.1%}"
        times = [f"{self.bfloat16:.2f}", f"{self.float32:.2f}"]
        return [self.model, f"{self.ratio:.3%}", *times, share, f"{whole:.2f}", f"{1 / whole:.2f}{short}"]


def measured(name: str, timed: bool) -> Line:
    """Run masked pictures of the model's scene in both precisions."""
    shown = scene(name)
    x, target = shown.x, ll.Logit(shown.target)
    masks = ll.RISE().draw(Streams.of(x, 0), range(MASKS), x.shape[2:], x.device)
    rows = masks[:, None].to(x) * x
    examples = torch.zeros(ROWS, dtype=torch.long, device=x.device)
    with Runner(shown.model, x, ROWS, None) as runner:
        cheap = Bfloat16Rows(runner, x, target)

        def scores(bfloat16: bool) -> Tensor:
            once = cheap.once if bfloat16 else runner.once
            return torch.cat([once(part, examples, target).scores for part in rows.split(ROWS)]).double()

        exact, rounded = scores(False), scores(True)
        ratio = float((rounded - exact).var() / exact.var())
        if not timed:
            return Line(name, ratio)
        first = rows[:ROWS]
        pairs = interleaved(
            lambda: cheap.once(first, examples, target), lambda: runner.once(first, examples, target), FULL
        )
    return Line(name, ratio, 1000 * pairs.ours_median / ROWS, 1000 * pairs.theirs_median / ROWS)


def main(arguments: list[str] | None = None) -> int:
    """0: printed; 3: this processor does not multiply in bfloat16."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=main.__doc__)
    parser.add_argument("--emulated", action="store_true", help="print V_d / V alone, on any processor")
    parser.add_argument("--only", action="append", default=[], choices=MODELS, help="one of the models")
    asked = parser.parse_args(arguments)
    if not (asked.emulated or has_bfloat16(device())):
        print("benchmarks.precision: this processor does not multiply in bfloat16; --emulated prints V_d / V alone")
        return 3
    lines = [measured(name, not asked.emulated) for name in asked.only or MODELS]
    header = ["model", "V_d / V", "bfloat16, ms", "float32, ms", "best M / N", "cost at equal error", "gain"]
    print(table(header, [line.cells() for line in lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
