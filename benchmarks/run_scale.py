"""The constants of a run that do not depend on the model, per entry: listing, reading, records, resume and report.

`python -m benchmarks.run_scale` prints them as a table, with what they come to for ten million pictures. The run is
made without a model, of random maps and figures. Each step is measured in a process of its own: its CPU and wall
seconds, and the peak of its memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import limelight as ll
from limelight.explain import as_methods
from limelight.models.pictures import Preprocessing, open_image, prepare
from limelight.question.registries import as_baseline
from limelight.runs.job import Job, Store
from limelight.runs.ledger import MANIFEST, Ledger
from limelight.runs.manifest import Manifest
from limelight.runs.page import write_report
from limelight.runs.rows import Row, index_bytes, shard_bytes
from limelight.runs.running import begin

from .memory import peak_resident

METHODS = ("gradient", "input-x-gradient")
PICTURES = 20  # files that the entries of the table share
MILLIONS = 10
_SHARD = 128
STEPS = ("listing", "reading", "records", "resume", "counts", "report")


@dataclass(frozen=True)
class Made:
    """A run to make: `side` of its maps in pixels."""

    out: str
    examples: int
    classes: int
    side: int
    store: Store

    @property
    def table(self) -> Path:
        return Path(f"{self.out}.csv")

    def job(self) -> Job:
        options = {"layer": None, "group": 16, "threads": 1, "device": "cpu", "limit": None, "store": self.store}
        methods, black = tuple(as_methods(list(METHODS))), as_baseline(0.0)
        return Job(str(self.table), model(self.side), None, methods, (), None, black, shard_size=_SHARD, **options)  # type: ignore[arg-type]


def model(side: int) -> ll.ImageModel:
    """A model that is never run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    return ll.ImageModel(network, Preprocessing(size=side), name="none")


def write_table(made: Made) -> None:
    """Write a table over a few JPEGs of 500 x 375 pixels."""
    folder, random = Path(f"{made.out}-images"), np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(PICTURES):
        coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.jpg", quality=90)
    lines = (f"{folder.absolute()}/{i % PICTURES:02d}.jpg,class {i % made.classes:04d}" for i in range(made.examples))
    made.table.write_text("path,label\n" + "\n".join(lines) + "\n")


def write_shards(ledger: Ledger, made: Made) -> None:
    """Write shards, indexes and records of random maps and figures."""
    manifest, random = Manifest(ledger.out / MANIFEST), np.random.default_rng(0)
    figures = ("agreement",)
    for shard in range(ledger.plan.shards):
        rows = []
        for i, entry in zip(ledger.plan.ids(shard), manifest.shard(shard), strict=True):
            kind = i % made.classes
            for method in METHODS:
                probability, score, agreement = random.random(3).tolist()
                facts = {
                    "target": kind,
                    "prediction": kind,
                    "predicted": f"class {kind:04d}",
                    "correct": bool(score > 0.2),
                    "probability": probability,
                    "score": score,
                    "arithmetic": "float32",
                    "scale": 1.0,
                    "agreement": agreement,
                }
                heatmap = None
                if made.store != "scores":
                    heatmap = torch.from_numpy(random.standard_normal((made.side, made.side), np.float32)).half()
                rows.append(Row(i, method, entry, facts, heatmap))
        contents = {ledger.index_path(shard): index_bytes(rows, shard, (), figures)}
        if made.store != "scores":
            contents[ledger.shard_path(shard)] = shard_bytes(rows, METHODS)
        ledger.finish(shard, contents, ok=len(rows) // len(METHODS), failed=0, seconds=(0.123456,) * len(rows))


def read_pictures(made: Made, count: int = 400) -> None:
    """Read and prepare some pictures, as a worker does."""
    entries = [
        each for shard in range(-(-count // _SHARD)) for each in Manifest(Path(made.out) / MANIFEST).shard(shard)
    ]
    for entry in entries[:count]:
        prepare(open_image(entry.read(), name=entry.path), Preprocessing(size=224))


def do(step: str, made: Made) -> int:
    """Do a step; return of how many entries."""
    out = Path(made.out)
    steps: dict[str, Callable[[], object]] = {
        "listing": lambda: begin(made.job(), out),
        "reading": lambda: read_pictures(made, min(400, made.examples)),
        "records": lambda: write_shards(Ledger.open(out), made),
        "resume": lambda: Ledger.open(out).survey(),
        "counts": lambda: ll.open_run(out).counts,
        "report": lambda: write_report(ll.open_run(out)),
    }
    steps[step]()
    return min(400, made.examples) if step == "reading" else made.examples


@dataclass(frozen=True)
class Spent:
    """A step, measured: `cpu` and `wall` seconds, `entries`, and the `peak` of the process in bytes."""

    cpu: float
    wall: float
    entries: int
    peak: int


def spent(step: str, made: Made) -> Spent:
    """Measure a step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.run_scale", "--made", json.dumps(asdict(made)), "step", step]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Spent(**json.loads(told.splitlines()[-1]))


def measured(step: str, made: Made) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    entries = do(step, made)
    return Spent(time.process_time() - cpu, time.perf_counter() - wall, entries, peak_resident())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_scale", description=__doc__)
    parser.add_argument("what", nargs="*", help="step NAME")
    parser.add_argument("--made", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--store", default="heatmap-float16", choices=("heatmap-float16", "scores"))
    asked = parser.parse_args(arguments)
    if asked.what:
        print(json.dumps(asdict(measured(asked.what[1], Made(**asked.made)))))
        return 0
    with tempfile.TemporaryDirectory() as place:
        made = Made(f"{place}/out", asked.examples, asked.classes, asked.side, asked.store)
        write_table(made)
        maps = f"maps {made.side} x {made.side}"
        print(f"{made.examples:,} entries, {len(METHODS)} methods, {made.classes:,} classes, {maps}")
        print(f"| step | CPU ms an entry | {MILLIONS} million: CPU h | wall h | peak MiB |")
        print("|---|---|---|---|---|")
        for step in STEPS:
            each = spent(step, made)
            cpu, wall = each.cpu / each.entries, each.wall / each.entries
            hours = f"{cpu * MILLIONS * 1e6 / 3600:.2f} | {wall * MILLIONS * 1e6 / 3600:.2f}"
            print(f"| {step} | {1000 * cpu:.3f} | {hours} | {each.peak / 2**20:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
