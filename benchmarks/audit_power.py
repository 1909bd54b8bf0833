"""How often an audit finds planted shortcuts, and calls networks without one: many small networks, with intervals.

    python -m benchmarks.audit_power measure none 0 --seeds 100-139 >> power.jsonl
    python -m benchmarks.audit_power measure border 0.5 0.25 --seeds 100-104 >> power.jsonl
    python -m benchmarks.audit_power table power.jsonl

`measure` writes a line for each network; `table` prints the table of docs/audit.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.models.pictures import Preprocessing
from limelight.runs.clusters import SIDE, features_of
from limelight.runs.covering import Maps, covered
from limelight.runs.summary import Share
from limelight.runs.verdicts import judged
from limelight.studies.ground_truth.scenes import CLASSES
from limelight.studies.ground_truth.shortcuts import BEARER, shortcut_model, shortcut_scenes

METHODS = {"integrated-gradients": ll.IntegratedGradients(ll.GaussLegendre(8)), "grad-cam": ll.GradCAM()}
_ORDER = ("none", "tag", "border", "watermark", "cast")
_GROUP = 40


class Scenes:
    """The pictures of an audit, in memory."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        self.network, self.x = network, x
        self.predictions = self._predicted(x)

    def _predicted(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            outputs: Tensor = self.network(x)
        return outputs.argmax(1)

    def colours(self, ids: Sequence[int]) -> Tensor:
        return F.adaptive_avg_pool2d(self.x[list(ids)], SIDE)

    def changes(self, ids: Sequence[int], cells: Tensor) -> Tensor:
        rows = covered(self.x[list(ids)], cells).flatten(0, 1)
        return self._predicted(rows).view(len(ids), -1) != self.predictions[list(ids)][:, None]


def measured(kind: str, share: float, seed: int, pictures: int) -> dict[str, Any]:
    """Train a network with the shortcut in a share of the squares, and audit it on other pictures."""
    shortcut: Any = None if kind == "none" else kind
    network = shortcut_model(shortcut, share, seed)
    data = shortcut_scenes(pictures, shortcut, share, seed=9000 + seed)
    model = ll.ImageModel(network, Preprocessing(size=32, crop_fraction=1.0), CLASSES, "scenes")
    x, without = ((255 * each).round() / 255 for each in (data.x, data.without))
    scenes = Scenes(network, x)
    with torch.no_grad():
        right, kept = scenes.predictions == data.y, network(without).argmax(1) == data.y
    compared = {}
    for name, method in METHODS.items():
        groups = [range(i, min(i + _GROUP, pictures)) for i in range(0, pictures, _GROUP)]
        maps = [ll.explain(model, x[each], method, target=data.y[each].tolist()).values.sum(1) for each in groups]
        labels = np.asarray([CLASSES[k] for k in data.y.tolist()], dtype=np.str_)
        compared[name] = Maps(features_of(torch.cat(maps).half()), labels, np.arange(pictures), right.numpy())
    verdicts, _ = judged(compared, scenes)
    squares, bearing = data.y == BEARER, data.planted

    def lost(chosen: Tensor) -> float:
        return float(right[chosen].double().mean() - kept[chosen].double().mean()) if bool(chosen.any()) else 0.0

    return {
        "kind": kind,
        "share": share,
        "seed": seed,
        "pictures": pictures,
        "accuracy": float(right.double().mean()),
        "drop": lost(bearing),
        "drop of the class": lost(squares),
        "suspicious": sorted({each.label for each in verdicts if each.suspicious}),
        "found": sorted({each.label for each in verdicts if each.found}),
        "found by": sorted({f"{each.method}: {each.label}" for each in verdicts if each.found}),
        "covers": [
            [each.label, each.method, each.words, each.cover.times, each.cover.p_changed, each.cover.p_colours]
            for each in verdicts
            if each.cover
        ],
    }


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the rows of a Markdown table, a kind and share each."""
    yield (
        "| shortcut | share | networks | removing it costs (points) | found | 95 % | where it costs 10 or more | "
        "another class |"
    )
    yield "|---|---|---|---|---|---|---|---|"

    def key(line: dict[str, Any]) -> tuple[int, float]:
        return _ORDER.index(line["kind"]), -line["share"]

    for (place, share), several in groupby(sorted(lines, key=key), key):
        group, kind = list(several), _ORDER[place]
        bearer = CLASSES[BEARER]
        found = Share(
            kind, sum((bearer in each["found"]) if place else bool(each["found"]) for each in group), len(group)
        )
        low, high = found.interval
        needed = [each for each in group if each["drop"] >= 0.1]
        drops = ", ".join(f"{100 * each['drop']:.0f}" for each in sorted(group, key=lambda each: each["seed"]))
        cells = (
            kind,
            f"{-share:.0%}" if place else "",
            str(len(group)),
            drops if place else "",
            f"{found.count} of {found.total}",
            f"{low:.0%} to {high:.0%}",
            f"{sum(bearer in each['found'] for each in needed)} of {len(needed)}" if place else "",
            str(sum(bool(set(each["found"]) - {bearer}) for each in group)) if place else "",
        )
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure")
    measure.add_argument("kind", choices=_ORDER)
    measure.add_argument("shares", type=float, nargs="+")
    measure.add_argument("--seeds", default="100-104", help="The first and the last, as 100-104.")
    measure.add_argument("--pictures", type=int, default=160)
    commands.add_parser("table").add_argument("files", nargs="+", type=Path)
    given = parser.parse_args()
    if given.command == "table":
        lines = [json.loads(line) for file in given.files for line in file.read_text().splitlines()]
        print("\n".join(table(lines)))
        return
    torch.set_num_threads(1)
    first, last = map(int, given.seeds.split("-"))
    for share in given.shares:
        for seed in range(first, last + 1):
            print(json.dumps(measured(given.kind, share, seed, given.pictures)), flush=True)


if __name__ == "__main__":
    main()
