"""The work in hand: what a worker has done of its shard, reported while it explains, from the first pass on.

Reports change nothing else: pictures share passes as the settings say, and shards are as large as they say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

_EVERY = 0.25  # seconds between two reports of a worker, at most four a second


@dataclass(frozen=True)
class InHand:
    """What a worker has done of a shard that is not finished.

    `shard`: its number. `examples`: those explained or failed; `failed` among them, the latest `failures` as text.
    `rows`: model evaluations, forward and backward; of the group that is being explained those so far. `work`: the same
    in examples, with a fraction for that group.
    """

    shard: int
    examples: int = 0
    failed: int = 0
    rows: int = 0
    work: float = 0.0
    failures: tuple[str, ...] = ()


class Reporter:
    """Counts a worker's passes, and calls `send` with its work in hand: after the first pass, then now and then.

    Each picture of a group takes the passes that those before took on average. `passes`: their rows for a picture, as
    far as they are known before one was explained.
    """

    def __init__(self, send: Callable[[InHand], None], passes: int | None = None) -> None:
        self._send, self._expected = send, passes
        self._sent = -_EVERY
        self._shard, self._group, self._group_rows = InHand(-1), 0, 0
        self._examples, self._pass_rows, self._rows = 0, 0, 0  # explained in all shards, and what they took

    def begin_shard(self, shard: int) -> None:
        self._shard, self._group, self._group_rows = InHand(shard), 0, 0

    def begin_group(self, examples: int) -> None:
        """Record that so many examples are explained next."""
        self._group, self._group_rows = examples, 0

    def add_pass(self, rows: int) -> None:
        """Count a pass forward."""
        self._group_rows += rows
        self._report()

    def end_group(self, explained: int, rows: int, failures: Sequence[str]) -> None:
        """Record what the shard came to so far: of its last group so many were explained; all rows, all failures."""
        spent = rows - self._shard.rows
        if explained and spent:
            self._examples, self._pass_rows = self._examples + explained, self._pass_rows + self._group_rows
            self._rows += spent
        examples = self._shard.examples + self._group
        self._shard = InHand(self._shard.shard, examples, len(failures), rows, examples, tuple(failures[-1:]))
        self._group = self._group_rows = 0
        self._report()

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._sent >= _EVERY:
            self._sent = now
            self._send(self._now())

    def _now(self) -> InHand:
        shard = self._shard
        if not self._group_rows:
            return shard
        rows_of_pass = self._rows / self._pass_rows if self._pass_rows else 1.0  # backward ones are counted afterwards
        expected = self._pass_rows / self._examples if self._examples else self._expected
        share = min(1.0, self._group_rows / (expected * self._group)) if expected else 0.0
        rows = shard.rows + round(self._group_rows * rows_of_pass)
        return replace(shard, rows=rows, work=shard.examples + share * self._group)
