"""CPU time and memory of the solve of games: `python -m benchmarks.games_solve`, one process for each line."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from limelight.methods.kernel_shap import _distinct
from limelight.methods.kriging import Pairs, shapley_by_kriging

CASES = ((1024, 196, 1), (1024, 196, 100), (4096, 400, 1), (4096, 400, 100))  # pairs, players, targets


def sampled(pairs: int, players: int, targets: int) -> list[Pairs]:
    """Make games of tanh units on the same pairs."""
    generator = torch.Generator().manual_seed(0)
    drawn = _distinct(np.random.Generator(np.random.Philox(key=0)), pairs - players, players)
    coalitions = torch.cat([torch.eye(players, dtype=torch.bool), drawn])
    signs = torch.cat([torch.ones(1, players), coalitions * 2.0 - 1]).double()
    games = []
    for _ in range(targets):
        weight = torch.randn(players, 8, dtype=torch.float64, generator=generator) / math.sqrt(players)
        odd = 2 * (torch.tanh(signs @ weight) * torch.arange(1, 9)).sum(1)
        games.append(Pairs(coalitions, odd[1:], float(odd[0])))
    return games


def measured(pairs: int, players: int, targets: int) -> tuple[float, float]:
    """Return the CPU seconds of the solve, and by how many MiB it raises the peak of memory."""
    torch.set_num_threads(1)
    shapley_by_kriging(sampled(30, 8, 1))
    games = sampled(pairs, players, targets)
    before, start = _peak(), time.process_time()
    shapley_by_kriging(games)
    return time.process_time() - start, _peak() - before


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    if len(sys.argv) > 1:
        seconds, mebibytes = measured(*map(int, sys.argv[1:4]))
        print(f"| {' | '.join(sys.argv[1:4])} | {seconds:.2f} | {mebibytes:.0f} |")
        return
    print("| pairs | players | targets | CPU s | MiB |\n| --- | --- | --- | --- | --- |")
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.games_solve", *map(str, case)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


if __name__ == "__main__":
    main()
