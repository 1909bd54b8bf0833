"""Data sets to run over, and what must hold of every run, whatever happened to it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import limelight as ll
from tests.runs.networks import SIDE

pytest.importorskip("pyarrow", reason="dataset runs need the extra 'run'")

ROOT = Path(__file__).parents[2]
METHODS = ("integrated-gradients(GaussLegendre(4))", "grad-cam")
RED = (255, 0, 0)


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pictures(folder: Path, count: int, bad: tuple[int, ...] = (), marked: tuple[int, ...] = ()) -> Path:
    """`count` pictures in three classes; those of `bad` are no pictures, those of `marked` begin with a red pixel."""
    for i in range(count):
        place = folder / "abc"[3 * i // count] / f"{i:05d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image = picture(i)
        if i in marked:
            image.putpixel((0, 0), RED)
        image.save(place)
        if i in bad:
            place.write_bytes(place.read_bytes()[:40])
    return folder


def start(images: Path, out: Path, model: str = "plain", **options: Any) -> ll.Run:
    settings: dict[str, Any] = {"shard_size": 2, "group": 2, "workers": 0, "methods": METHODS, **options}
    return ll.run(images, f"tests.runs.networks:{model}", output=out, **settings)


def command(images: Path, out: Path, model: str, workers: int = 1, **environment: str) -> list[str]:
    return [
        *(sys.executable, "-m", "limelight", "run", "--images", str(images), "--output", str(out)),
        *("--model", f"tests.runs.networks:{model}", "--shard-size", "2", "--group", "2", "--baseline", "0"),
        *(each for method in METHODS for each in ("--method", method)),
        *("--workers", str(workers), "--debug"),
    ]


def launch(images: Path, out: Path, model: str, workers: int = 1, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(images, out, model, workers),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=400)  # of a process that starts fifteen workers
    return process.returncode, output


def results(out: Path) -> dict[str, bytes]:
    """The files that a run is for, by name."""
    return {
        f"{folder}/{path.name}": path.read_bytes()
        for folder in ("shards", "index")
        for path in sorted((out / folder).iterdir())
    }


def assert_whole(out: Path, like: Path | None = None) -> None:
    """ok + failed + skipped = manifest, each example once for each method, all checksums right, nothing left over; and
    the files equal those of another run, byte for byte."""
    run = ll.open_run(out)
    counts = run.counts
    assert counts.pending == 0 and counts.ok + counts.failed + counts.skipped == counts.total
    rows = run.table(["id", "method", "error"]).to_pylist()
    assert [(row["id"], row["method"]) for row in rows] == [(i, m) for i in range(len(run)) for m in run.methods]
    assert len({row["id"] for row in rows if row["error"]}) == counts.failed
    for record in (out / "done").iterdir():
        for name, told in json.loads(record.read_bytes())["files"].items():
            assert hashlib.sha256((out / name).read_bytes()).hexdigest() == told["sha256"]
    for example in run:
        for kept in example.maps.values():
            assert kept.error or kept.values.isfinite().all()  # which also compares the map's own checksum
    assert not [path for path in out.rglob("*.part") if path.parent.name != out.name]
    if like is not None:
        assert results(out) == results(like)
