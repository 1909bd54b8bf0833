"""Measure what the default Integrated Gradients costs and misses on photographs.

    python -m benchmarks.path_rows FOLDER --photographs 50 --reference 1024

Prints for each photograph of the folder, explained by the default model, the backward rows, by how much the map's sum
misses f(x) - f(baseline), and what the map's note estimates. With `--reference` also the L1 error of the map, and of
one by as many equal nodes, against a map by so many equal nodes, which costs as many rows more.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import limelight as ll

MISS = 0.01  # of f(x) - f(baseline): the default's tolerance
BUDGET = 160  # backward rows in the mean


@dataclass(frozen=True)
class Measured:
    """One photograph: backward rows, shares of f(x) - f(baseline) missed, and the relative L1 errors of two maps."""

    rows: int
    missed: float
    estimate: float
    error: float
    equal_nodes: float


def measured(model: ll.ImageModel | ll.ImageBlackBox, picture: Path, reference: int) -> Measured:
    with Image.open(picture) as opened:
        x = model.preprocess(opened.convert("RGB"))
    found = ll.explain(model, x, ll.IntegratedGradients())
    missed = float((found.delta / (found.score - found.baseline_score)).abs())
    said = re.search(r"differs by ([\d.]+)%", " ".join(found.notes))
    estimate = float(said[1]) / 100 if said else float("nan")
    error = equal = float("nan")
    if reference:
        truth = ll.explain(model, x, ll.IntegratedGradients(reference)).values
        error = _error(found.values, truth)
        equal = _error(ll.explain(model, x, ll.IntegratedGradients(found.backward_rows)).values, truth)
    return Measured(found.backward_rows, missed, estimate, error, equal)


def _error(values: Tensor, truth: Tensor) -> float:
    return float((values - truth).abs().sum() / truth.abs().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photographs", type=int, default=50)
    parser.add_argument("--reference", type=int, default=0)
    asked = parser.parse_args()
    files = sorted(each for each in asked.folder.rglob("*") if each.suffix.lower() in (".jpg", ".jpeg", ".png"))
    model = ll.load_model()
    every = []
    print("| photograph | backward rows | sum missed | half the nodes differ by | error | as many equal nodes |")
    print("|---|---|---|---|---|---|")
    for picture in files[:: max(1, len(files) // asked.photographs)][: asked.photographs]:
        one = measured(model, picture, asked.reference)
        every.append(one)
        shares = " | ".join(f"{each:.2%}" for each in (one.missed, one.estimate, one.error, one.equal_nodes))
        print(f"| {picture.stem} | {one.rows} | {shares} |", flush=True)
    rows = torch.tensor([float(each.rows) for each in every])
    good = sum(each.missed <= MISS for each in every)
    print(
        f"\n{good} of {len(every)} within {MISS:.0%}; backward rows {rows.mean():.0f} in the mean (budget {BUDGET}), "
    )
    print(f"{rows.median():.0f} in the median, {rows.max():.0f} at most")


if __name__ == "__main__":
    main()
