"""Interleaved timing: A B A B ..., so that what disturbs the machine disturbs both alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Effort:
    """How many pairs: at least `least`, then until `seconds` are spent or there are `most`; never a new one once
    `limit` seconds are spent. `nodes`: the two numbers of nodes whose peak memory is compared."""

    least: int
    most: int
    seconds: float
    limit: float
    nodes: tuple[int, int]


QUICK = Effort(least=2, most=9, seconds=3, limit=12, nodes=(16, 160))
FULL = Effort(least=5, most=31, seconds=20, limit=90, nodes=(50, 500))


@dataclass(frozen=True)
class Pairs:
    """Seconds of ours and theirs, run in turn."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Theirs over ours for each pair: above 1, ours is faster."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def ours_median(self) -> float:
        return median(self.ours)

    @property
    def theirs_median(self) -> float:
        return median(self.theirs)

    @property
    def ratio(self) -> float:
        return median(self.ratios)


def seconds(run: Callable[[], object]) -> float:
    gc.collect()
    _settle()
    start = time.perf_counter()
    run()
    _settle()
    return time.perf_counter() - start


def interleaved(ours: Callable[[], object], theirs: Callable[[], object], effort: Effort) -> Pairs:
    """Time both in turn. The caller has warmed them up."""
    return Pairs(*in_turn((ours, theirs), effort))


def in_turn(runs: Sequence[Callable[[], object]], effort: Effort) -> list[tuple[float, ...]]:
    """Time several in turn (A B C A B C ...); returns the seconds of each."""
    spent: list[tuple[float, ...]] = []
    while len(spent) < effort.most:
        took = sum(map(sum, spent))
        if took > effort.limit or (len(spent) >= effort.least and took > effort.seconds):
            break
        spent.append(tuple(map(seconds, runs)))
    return list(zip(*spent, strict=True))


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
