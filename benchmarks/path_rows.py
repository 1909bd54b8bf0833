"""Measure what the default Integrated Gradients costs and misses on photographs.

    python -m benchmarks.path_rows FOLDER --photographs 200 --out DIR
    python -m benchmarks.path_rows FOLDER --photographs 12 --out DIR --reference 1024

Explains each photograph of the folder by the default model and prints how many are within the tolerance, the backward
rows, and what the maps' notes estimate. With `--reference` also the L1 error of the map, and of one by as many equal
nodes, against a map by so many equal nodes, which costs as many rows more. Results are appended to a file in DIR, a
line a photograph; a run that was stopped goes on from there.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import limelight as ll

from .photographs import measured, options, photographs

MISS = 0.01  # of f(x) - f(baseline): the default's tolerance
BUDGET = 160  # backward rows in the mean


def measure(model: ll.ImageModel | ll.ImageBlackBox, reference: int, picture: Path) -> dict[str, Any]:
    """Measure one photograph: backward rows, shares of f(x) - f(baseline) missed, and relative L1 errors of two maps.

    `missed` is the sum of the map as it is returned, `estimate` the difference of every second node's map in the note.
    """
    with Image.open(picture) as opened:
        x = model.preprocess(opened.convert("RGB"))
    found = ll.explain(model, x, ll.IntegratedGradients())
    change = float(found.score - found.baseline_score)
    said = re.search(r"differs by ([\d.]+)%", " ".join(found.notes))
    line = {
        "rows": found.backward_rows,
        "change": change,
        "missed": abs(float(found.delta) / change),
        "estimate": float(said[1]) / 100 if said else None,
        "cautions": list(found.cautions),
    }
    if reference:
        truth = ll.explain(model, x, ll.IntegratedGradients(reference)).values
        line["error"] = _error(found.values, truth)
        line["equal nodes"] = _error(ll.explain(model, x, ll.IntegratedGradients(found.backward_rows)).values, truth)
    return line


def _error(values: Tensor, truth: Tensor) -> float:
    return float((values - truth).abs().sum() / truth.abs().sum())


def summary(lines: list[dict[str, Any]]) -> str:
    """Say how many are within the tolerance, and what they cost."""
    rows = torch.tensor([float(line["rows"]) for line in lines])
    missed = torch.tensor([line["missed"] for line in lines])
    half = torch.tensor([line["estimate"] for line in lines if line["estimate"] is not None])
    return (
        f"{int((missed <= MISS).sum())} of {len(lines)} within {MISS:.0%}, {missed.max():.2%} missed at most; "
        f"backward rows {rows.mean():.0f} in the mean (budget {BUDGET}), {rows.median():.0f} in the median, "
        f"{rows.max():.0f} at most; every second node alone differs by {half.median():.1%} in the median, "
        f"{half.max():.1%} at most"
    )


def main() -> None:
    parser = options(__doc__, 50)
    parser.add_argument("--reference", type=int, default=0)
    asked = parser.parse_args()
    files = photographs(asked.folder, asked.photographs)
    out = asked.out / (f"path-rows-{asked.reference}.jsonl" if asked.reference else "path-rows.jsonl")
    lines = measured(files, out, partial(measure, ll.load_model(), asked.reference))
    for line in lines:
        if line["missed"] > MISS:
            print(f"{line['photograph']}: {line['rows']} rows, {line['missed']:.2%} missed; {line['cautions']}")
    print(summary(lines))


if __name__ == "__main__":
    main()
