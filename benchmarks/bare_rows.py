"""A run's rows a CPU second as a share of the model's own: the same number of rows forward and backward, in passes of
the same size on the same packed weights, and nothing else.

`python -m benchmarks.bare_rows FOLDER` takes the pictures of a folder. Worker and bare model take turns, group by
group, so that a busy machine slows both. The worker's start and its first group, in which the copy of the model is
proven, are left out and printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from limelight.engine.runner import Runner
from limelight.explain import as_methods
from limelight.models.catalogue import ImageModel
from limelight.question.registries import as_baseline
from limelight.runs.beginning import begin
from limelight.runs.job import Job
from limelight.runs.listing import Listing
from limelight.runs.work import Task, Worker

_GROUP = 16


def _job(images: Path, model: str, method: str, count: int) -> Job:
    options = {"layer": None, "store": "values", "group": _GROUP, "threads": 1, "device": "cpu", "limit": count}
    methods, black = tuple(as_methods(method)), as_baseline(0.0)
    return Job(str(images), model, None, methods, (), None, black, shard_size=_GROUP, **options)  # type: ignore[arg-type]


def _seconds(do: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    do()
    return time.process_time() - start


def measure(images: Path, model: str, method: str, count: int) -> float:
    """Print and return the share, over `count` pictures after the first group."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        job = _job(images, model, method, count + _GROUP)
        begun = begin(job, Path(place))
        assert isinstance(begun.source, Listing)
        ledger = begun.source.complete()
        start = time.process_time()
        worker = Worker(job, Path(place))
        first = worker.work(Task(0))
        start = time.process_time() - start
        assert first is not None and worker.rows is not None and isinstance(worker.model, ImageModel)
        size = worker.rows
        x = torch.rand(size, worker.model.preprocessing.channels, *worker.model.preprocessing.sides)
        with Runner(worker.model, x, size, None) as runner, runner.packing.wanted(True):
            network = runner.copy.module

            def bare(passes: int) -> None:
                for _ in range(passes):
                    leaf = x.clone(memory_format=torch.channels_last).requires_grad_()
                    with runner.packing.installed():
                        score = network(leaf)[:, 0].sum()
                    torch.autograd.grad(score, leaf)

            bare(1)
            ours = theirs = 0.0
            rows = 0
            for shard in range(1, ledger.plan.shards):
                half = max(1, round(first.rows / (4 * size)))  # before and after: a row runs forward and backward
                around = _seconds(lambda half=half: bare(half))  # type: ignore[misc]
                ours += _seconds(lambda shard=shard: worker.work(Task(shard)))  # type: ignore[misc]
                around += _seconds(lambda half=half: bare(half))  # type: ignore[misc]
                done = ledger.done(shard)
                assert done is not None
                theirs += around * done.rows / (4 * size * half)
                rows += done.rows
    print(
        f"{model}, {method}: {rows} rows of {ledger.plan.examples - _GROUP} pictures, run {ours:.1f} CPU s, "
        f"bare {theirs:.1f}: {theirs / ours:.0%}; before: start and first group {start:.1f} s"
    )
    return theirs / ours


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare_rows", description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--method", action="append", help="repeat for more; gradient")
    parser.add_argument("--pictures", type=int, default=64)
    asked = parser.parse_args(arguments)
    for method in asked.method or ["gradient"]:
        measure(asked.images, asked.model, method, asked.pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
