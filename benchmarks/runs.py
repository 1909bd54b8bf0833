"""Dataset runs: throughput against bare rows, the driver's memory by the size of the manifest, and the time to resume.

`python -m benchmarks.runs` measures all, `python -m benchmarks.runs throughput` one of them. `overhead` needs no quiet
machine: it compares CPU seconds of one process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.models.pictures import Preprocessing

from .memory import peak_resident

SIDE, CLASSES, WORKERS = 64, 10, 2
METHODS = ("integrated-gradients", "grad-cam")
_GROUP, _ROWS = 16, 32
_TASKS = {"one map": ("integrated-gradients(GaussLegendre(32))",), "two maps": METHODS}
_BATCHES = (8, 16, 32, 64)  # the bare rows run in the fastest


class SmallCNN(nn.Module):
    """Three convolutions of stride 2, ReLU, mean, linear: (rows, 3, H, W) to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


def small() -> ll.ImageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallCNN()
    return ll.ImageModel(network, Preprocessing(size=SIDE, crop_fraction=1.0), name="small")


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.png")
    return folder


# Throughput ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spent:
    """Of one measurement: seconds by the clock, CPU seconds of all processes, and passes forward and backward."""

    wall: float
    cpu: float
    rows: int


def measured(do: Callable[[], int]) -> Spent:
    before, start = _cpu(), time.perf_counter()
    rows = do()
    return Spent(time.perf_counter() - start, _cpu() - before, rows)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def bare(rows: int, batch: int) -> Spent:
    """The model alone: so many rows forward and backward, shared between the processes, which are up already."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(WORKERS) as pool:
        shares = [(rows // WORKERS, batch)] * WORKERS
        pool.starmap(_bare, [(2 * batch, batch)] * WORKERS, chunksize=1)
        start = time.perf_counter()
        used = pool.starmap(_bare, shares, chunksize=1)
        return Spent(time.perf_counter() - start, sum(used), rows)


def _bare(rows: int, batch: int) -> float:
    """CPU seconds."""
    torch.set_num_threads(1)
    model = small().eval().requires_grad_(False)
    x = torch.rand(batch, 3, SIDE, SIDE)
    start = time.process_time()
    for _ in range(rows // batch):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
    return time.process_time() - start


def throughput(count: int, pairs: int) -> None:
    """Runs in turn with as many bare rows, and what one worker spends on a row by itself.

    The clock's whole includes the start of the processes, seconds whatever the number of pictures; the bare rows'
    processes are up already.
    """
    with tempfile.TemporaryDirectory() as place:
        images = pictures(Path(place) / "images", count)
        batch = min(_BATCHES, key=lambda size: bare(4000, size).cpu)
        print(f"bare rows run {batch} at once, {WORKERS} processes of one thread")
        shares = [_pair(images, Path(place) / f"{i}", batch) for i in range(pairs)]
        whole, working, cpu = (median(each) for each in zip(*shares, strict=True))
        print(
            f"{count} pictures, rows a second as a share of the bare model's, median of {pairs}: {working:.0%} once "
            f"the workers are up, {whole:.0%} with their start; one worker by CPU seconds: {cpu:.0%}"
        )


def _pair(images: Path, out: Path, batch: int) -> tuple[float, float, float]:
    """Shares: by the clock, by the clock once the workers are up, and of one worker's CPU seconds."""

    def run(workers: int) -> int:
        found = ll.run(images, "benchmarks.runs:small", METHODS, output=f"{out}-{workers}", workers=workers)
        return found.status.rows // 2

    ours = measured(lambda: run(WORKERS))
    speed = ll.open_run(f"{out}-{WORKERS}").status.rows_per_second / 2
    theirs = bare(ours.rows, batch)
    torch.set_num_threads(1)
    cpu = _bare(ours.rows // 4, batch)
    single = measured(lambda: run(0))
    cpu += _bare(ours.rows // 4, batch)
    shares = (theirs.wall / ours.wall, speed * theirs.wall / theirs.rows, 2 * cpu / single.cpu)
    print(
        f"{ours.rows} rows: run {ours.wall:.1f} s ({speed:.0f} a second once up), bare {theirs.wall:.1f} s "
        f"({theirs.rows / theirs.wall:.0f}); one worker {single.cpu:.1f} CPU seconds, bare {2 * cpu:.1f}",
        flush=True,
    )
    return shares


# What a run adds to its maps -----------------------------------------------------------------------


def overhead(count: int, pairs: int) -> None:
    """CPU seconds of a run in this process, and of `explain` by a prepared model on the same groups, read before."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        images = pictures(Path(place) / "images", count)
        prepared = ll.prepare(small())
        read = [small().preprocess(each) for each in sorted(images.iterdir())]
        groups = [torch.cat(read[start : start + _GROUP]) for start in range(0, count, _GROUP)]
        maps(prepared, groups[:1])
        for name, methods in _TASKS.items():
            alone = partial(maps, prepared, groups, methods)
            shares = []
            for i in range(pairs):
                before = measured(alone)
                ours = measured(partial(run_here, images, methods, f"{place}/{name}-{i}"))
                theirs = (before.cpu + measured(alone).cpu) / 2
                shares.append(theirs / ours.cpu)
                each = f"{1000 * theirs / before.rows:.2f} ms a row"
                print(f"{name}: run {ours.cpu:.1f} CPU s, maps alone {theirs:.1f}, {each}", flush=True)
            print(f"{name}, {count} pictures: {median(shares):.0%} of the maps' own rows a CPU second", flush=True)


def maps(model: ll.Prepared, groups: list[Tensor], methods: tuple[str, ...] = METHODS) -> int:
    panels = (ll.explain(model, each, list(methods), rows_per_pass=_ROWS) for each in groups)
    return sum(panel.forward_rows + panel.backward_rows for panel in panels)


def run_here(images: Path, methods: tuple[str, ...], out: str) -> int:
    options = {"output": out, "workers": 0, "group": _GROUP, "rows_per_pass": _ROWS}
    return ll.run(images, "benchmarks.runs:small", methods, **options).status.rows  # type: ignore[arg-type]


# Memory and resumption ----------------------------------------------------------------------------


def table_of(folder: Path, count: int) -> Path:
    """A table of `count` entries over a few pictures: what grows is the manifest, not the disk."""
    images = pictures(folder / "images", 20)
    names = sorted(images.iterdir())
    table = folder / "table.csv"
    table.write_text("path,label\n" + "".join(f"{names[i % 20]},{i % CLASSES}\n" for i in range(count)))
    return table


def at_scale(count: int) -> None:
    """In processes of their own: a run over so many entries and its peak memory, and then the time to resume it."""
    with tempfile.TemporaryDirectory() as place:
        table = table_of(Path(place), count)
        for what in ("run", "resumed"):
            command = [sys.executable, "-m", "benchmarks.runs", "driver", str(table), str(Path(place) / "out")]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{count} entries, {what}: {told['seconds']:.1f} s, driver's peak {told['mebibytes']:.0f} MiB")


def driver(table: str, out: str) -> None:
    """A run that does little for each entry: one row of a small network."""
    start = time.perf_counter()
    run = ll.run(table, "benchmarks.runs:small", "gradient", output=out, workers=WORKERS, store="heatmap-float16")
    assert run.counts.pending == 0
    print(json.dumps({"seconds": time.perf_counter() - start, "mebibytes": peak_resident() / 2**20}))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runs", description=__doc__)
    parser.add_argument("what", nargs="*", default=["throughput", "scale"], help="throughput, overhead, scale")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--entries", type=int, nargs="*", default=[1000, 50_000])
    asked = parser.parse_args(arguments)
    if asked.what[0] == "driver":
        driver(*asked.what[1:])
        return 0
    if "throughput" in asked.what:
        throughput(asked.pictures, asked.pairs)
    if "overhead" in asked.what:
        overhead(asked.pictures, asked.pairs)
    if "scale" in asked.what:
        for count in asked.entries:
            at_scale(count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
