"""What a run costs for each entry beside the model: listing, reading, records, resume and report.

`python -m benchmarks.run_scale` prints a table, with what it comes to for ten million pictures. The runs are made
without a model, of random figures. Each step is measured in a process of its own, at two sizes; the difference leaves
out what does not grow. Maps are measured apart: a report reads a bounded number of them.
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
from limelight.runs.beginning import begin
from limelight.runs.job import Job, Store
from limelight.runs.ledger import MANIFEST, Ledger
from limelight.runs.listing import Listing
from limelight.runs.manifest import Manifest
from limelight.runs.page import write_report
from limelight.runs.rows import Row, index_bytes, shard_bytes
from limelight.runs.stored import open_run

from .memory import peak_resident

METHODS = ("gradient", "input-x-gradient")
PICTURES = 20  # files that the entries of the table share
TEN_MILLION = 10_000_000
_SHARD = 128
_NOISE = 8 * 2**20  # bytes of a process's peak
STEPS = {
    "listing": "listing: a table to the manifest",
    "reading": "reading: a JPEG of 500 x 375 to 224 x 224, by workers",
    "records": "records: index and record, by workers",
    "resume": "resume: every record and the sizes of its files",
    "counts": "counts of a run",
    "report": "report without maps",
}


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


def read_pictures(made: Made, count: int) -> None:
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
        "listing": lambda: _listed(made.job(), out),
        "reading": lambda: read_pictures(made, _read(made)),
        "records": lambda: write_shards(Ledger.open(out), made),
        "resume": lambda: Ledger.open(out).survey(),
        "counts": lambda: open_run(out).counts,
        "report": lambda: write_report(open_run(out)),
    }
    steps[step]()
    return _read(made) if step == "reading" else made.examples


def _listed(job: Job, out: Path) -> None:
    """Begin a run and wait for the end of its listing."""
    source = begin(job, out).source
    assert isinstance(source, Listing)
    source.complete()


def _read(made: Made) -> int:
    return max(1, made.examples // 100)


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
    parser.add_argument("--examples", type=int, nargs=2, default=[10_000, 50_000], help="the two sizes")
    parser.add_argument("--classes", type=int, default=1000)
    asked = parser.parse_args(arguments)
    if asked.what:
        print(json.dumps(asdict(measured(asked.what[1], Made(**asked.made)))))
        return 0
    few, many = asked.examples
    print(f"{few:,} and {many:,} pictures, {len(METHODS)} methods, {asked.classes:,} classes\n")
    print("| step | CPU ms a picture | ten million: CPU hours | bytes of memory a picture | ten million: GB |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        runs = [Made(f"{place}/{count}", count, asked.classes, 16, "scores") for count in (few, many)]
        for made in runs:
            write_table(made)
        for step, words in STEPS.items():
            print(_line(words, *(spent(step, made) for made in runs)), flush=True)
        size = sum(each.stat().st_size for each in Path(runs[1].out).rglob("*") if each.is_file())
        print(f"\nOn disk: {size / many:,.0f} bytes a picture without maps.")
        for count, side in ((many, 16), (2000, 224)):
            made = Made(f"{place}/maps-{side}", count, asked.classes, side, "heatmap-float16")
            write_table(made)
            for step in ("listing", "records"):
                spent(step, made)
            each = spent("report", made)
            maps = f"{count * len(METHODS):,} maps of {side} x {side}"
            print(f"Report over {maps}: {each.cpu:.0f} CPU s, {each.peak / 2**20:.0f} MiB at its peak.", flush=True)
    return 0


def _line(words: str, few: Spent, many: Spent) -> str:
    """Return a line of the table: what grows between two sizes, for each entry and for ten million."""
    more = many.entries - few.entries
    cpu, memory = max(0.0, many.cpu - few.cpu) / more, max(0, many.peak - few.peak) / more
    hours, gigabytes = cpu * TEN_MILLION / 3600, memory * TEN_MILLION / 1e9  # as if all in one process
    grows = f"{memory:,.0f} | {gigabytes:.1f}" if memory * more > _NOISE else "constant |"
    return f"| {words} | {1000 * cpu:.3f} | {hours:.2f} | {grows} |"


if __name__ == "__main__":
    sys.exit(main())
