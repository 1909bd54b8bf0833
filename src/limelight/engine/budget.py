"""How many rows one pass of the model holds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .memory import free_bytes
from .passes import Merged

FIRST_PASS_ROWS = 8  # until a first pass has measured the memory of a row
MOST_ROWS = {"cpu": 8, "cuda": 256}  # larger passes were not faster


@dataclass
class Budget:
    """The most distinct `rows` of a pass, and the most in all with equal ones that are run once.

    `fixed`: the `rows_per_pass` of the call, which memory does not change. `most`: what the model takes at most.
    """

    fixed: int | None
    most: int | None = None
    rows: int = 0
    in_all: int = sys.maxsize

    def __post_init__(self) -> None:
        self.rows = self.fixed or FIRST_PASS_ROWS

    def take_at_most(self, most: int | None) -> None:
        """Hold no more rows than the model takes."""
        self.most = most
        self.rows = min(self.rows, most or self.rows)

    def halve(self, part: Merged, error: RuntimeError) -> str:
        """Hold half as much as this pass, which did not fit; return a note. Raises MemoryError for a single row."""
        size = len(part.distinct)
        if len(part) == 1:
            raise MemoryError("rows_per_pass: a single row does not fit into memory; use a smaller input") from error
        if size == 1:
            self.in_all = len(part) // 2
            return f"out of memory with {len(part)} targets of one row: went on with {self.in_all} at a time"
        self.rows = size // 2
        return f"out of memory with {size} rows a pass: went on with {self.rows}"

    @contextmanager
    def wider(self, factor: int) -> Iterator[None]:
        """Let a pass hold `factor` times as many rows while this is open; an explicit `rows_per_pass` stays."""
        before = self.rows
        if self.fixed is None:
            self.rows = min(factor * before, self.most or factor * before)
        try:
            yield
        finally:
            self.rows = min(before, self.rows)

    def fit(self, rows: int, activation_bytes: int, device: torch.device) -> None:
        """Choose the rows of a pass from the activation memory of `rows` rows; an explicit `rows_per_pass` stays."""
        if self.fixed is None:
            most = MOST_ROWS.get(device.type, 64)
            # Backward holds the activations and about as much again in gradients and workspaces.
            per_row = max(1, 3 * activation_bytes // rows)
            most = min(most, self.most or most)
            self.rows = max(1, min(most, free_bytes(device) // 4 // per_row))
