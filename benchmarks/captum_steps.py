"""Measure by how much Captum's IntegratedGradients misses its sum on photographs, and what it takes to miss no more.

    python -m benchmarks.captum_steps FOLDER --photographs 50 --out DIR

Captum's steps are fixed: the gradients at the nodes of its rule, from black. Of `riemann_middle` with 35, 45, 63, 105
and 315 steps, whose nodes are all among those of 315, and of its default, `gausslegendre` with 50. A step costs a
backward row. Prints the misses beside those of limelight's default (benchmarks/path_rows.py, on the same photographs)
and the fewest of these steps that miss no more than it does, or no more than 1%. That counts a small miss by chance as
reached. Results are appended to files in DIR, a line a photograph; a run that was stopped goes on from there.
"""

from __future__ import annotations

import copy
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from captum.attr._utils.approximation_methods import approximation_parameters
from PIL import Image
from torch import Tensor, nn

import limelight as ll

from . import path_rows
from .photographs import measured, options, photographs

RULES = (*(("riemann_middle", steps) for steps in (35, 45, 63, 105, 315)), ("gausslegendre", 50))
_ROWS = 8  # in one pass


def misses(model: nn.Module, x: Tensor, baseline: Tensor, target: int) -> dict[str, float]:
    """Return for each rule the sum of Captum's map of x `(1, *features)` less f(x) - f(b), as a share of that change.

    The sum of a map is the sum of weight times slope, where the slope at t is the gradient along x - b.
    """
    rules = {rule: _nodes(*rule) for rule in RULES}
    slopes: dict[float, float] = {}
    wanted = sorted({time for nodes in rules.values() for time, _ in nodes})
    for start in range(0, len(wanted), _ROWS):
        times = torch.tensor(wanted[start : start + _ROWS], dtype=x.dtype)
        slopes |= zip(wanted[start : start + _ROWS], _slopes(model, x, baseline, target, times), strict=True)
    with torch.no_grad():
        change = float(model(x)[0, target] - model(baseline)[0, target])
    sums = {rule: sum(weight * slopes[time] for time, weight in nodes) for rule, nodes in rules.items()}
    return {f"{name} {steps}": abs(found / change - 1) for (name, steps), found in sums.items()}


def _nodes(rule: str, steps: int) -> list[tuple[float, float]]:
    """Return Captum's nodes and weights; nodes that rules share are equal numbers."""
    sizes, alphas = approximation_parameters(rule)
    return [(round(float(t), 12), float(w)) for t, w in zip(alphas(steps), sizes(steps), strict=True)]


def _slopes(model: nn.Module, x: Tensor, baseline: Tensor, target: int, times: Tensor) -> list[float]:
    rows = (baseline + times.view(-1, *[1] * (x.ndim - 1)) * (x - baseline)).requires_grad_()
    (gradient,) = torch.autograd.grad(model(rows)[:, target].sum(), rows)
    slopes: list[float] = ((x - baseline).double() * gradient.double()).flatten(1).sum(1).tolist()
    return slopes


def measure(model: ll.ImageModel, network: nn.Module, picture: Path) -> dict[str, Any]:
    with Image.open(picture) as opened:
        x = model.preprocess(opened.convert("RGB"))
    with torch.no_grad():
        target = int(network(x).argmax())
    return misses(network, x, torch.zeros_like(x), target)


def summary(captum: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """Return the table of misses, and the steps that Captum takes to miss no more."""
    names = [f"{rule} {steps}" for rule, steps in RULES]
    rows = ["| map | backward rows | misses, median | at most | photographs within 1% |", "|---|---|---|---|---|"]

    def add(name: str, rows_taken: float, missed: list[float]) -> None:
        within = sum(each <= path_rows.MISS for each in missed)
        worst, middle = max(missed), statistics.median(missed)
        rows.append(f"| {name} | {rows_taken:.0f} | {middle:.2%} | {worst:.1%} | {within} of {len(missed)} |")

    add("limelight's default", statistics.mean(each["rows"] for each in ours), [each["missed"] for each in ours])
    for name, (_, steps) in zip(names, RULES, strict=True):
        add(f"Captum {name}", steps, [line[name] for line in captum])
    middle = {steps: name for name, (rule, steps) in zip(names, RULES, strict=True) if rule == "riemann_middle"}
    most = max(middle)
    for words, bound in (("our own miss", None), (f"{path_rows.MISS:.0%}", path_rows.MISS)):
        need = [
            next((n for n, name in middle.items() if line[name] <= (own["missed"] if bound is None else bound)), None)
            for line, own in zip(captum, ours, strict=True)
        ]
        reached = [each for each in need if each is not None]
        counts = ", ".join(f"{steps} on {reached.count(steps)}" for steps in middle)
        rows.append(f"\nriemann_middle misses no more than {words} by {counts}; by {most} not on {need.count(None)}")
        ratios = [(each or most) / own["rows"] for each, own in zip(need, ours, strict=True)]
        rows.append(
            f"that is {statistics.median(ratios):.1f} times our backward rows in the median, "
            f"{statistics.mean(ratios):.1f} in the mean, each photograph that {most} do not reach counted as {most}"
        )
    return "\n".join(rows)


def main() -> None:
    asked = options(__doc__, 50).parse_args()
    files = photographs(asked.folder, asked.photographs)
    model = ll.load_model()
    assert isinstance(model, ll.ImageModel)
    # Rows of this layout take two thirds of the time.
    network = copy.deepcopy(model).requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    captum = measured(files, asked.out / "captum-steps.jsonl", partial(measure, model, network))
    ours = measured(files, asked.out / "path-rows.jsonl", partial(path_rows.measure, model, 0))
    print(summary(captum, ours))


if __name__ == "__main__":
    main()
