"""Peak memory of integrated gradients by number of nodes, each in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import torch

import limelight as ll

from .scenes import scene

MODEL = "efficientnet-lite0"


def peak(nodes: int) -> float:
    """MiB that a fresh process peaks at (on a GPU: that its allocator peaks at)."""
    command = [sys.executable, "-m", "benchmarks.memory", str(nodes)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main(nodes: int) -> None:
    at = scene(MODEL)
    ll.explain(at.model, at.x, ll.IntegratedGradients(ll.Midpoint(nodes)), target=at.target)
    if at.x.device.type == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(peak_resident() / 2**20)


def peak_resident() -> int:
    """Bytes. Linux hands ru_maxrss on from parent to child, so there the figure of this program image is read."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main(int(sys.argv[1]))
