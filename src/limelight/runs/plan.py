"""The plan of a run: what is fixed at its start, and the counts of its examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .shards import Shards


@dataclass(frozen=True)
class Counts:
    """The examples of the manifest by outcome. `skipped` lie beyond the limit."""

    ok: int = 0
    failed: int = 0
    skipped: int = 0
    pending: int = 0

    @property
    def total(self) -> int:
        return self.ok + self.failed + self.skipped + self.pending


@dataclass(frozen=True)
class Plan:
    """The facts that are fixed at the start: the settings, and the manifest's size, labels and hash.

    `format`: in 1 each record repeats a hash of the whole plan; in 2 of the settings alone, and of its own entries,
    because shards are done before the manifest is complete.
    """

    settings: Mapping[str, Any]
    method_names: tuple[str, ...]
    check_names: tuple[str, ...]
    entries: int
    labels: tuple[str, ...]
    manifest: str
    format: int = 1

    @staticmethod
    def begun(settings: Mapping[str, Any], method_names: tuple[str, ...], check_names: tuple[str, ...]) -> Plan:
        """Return the plan of a run whose examples are not listed yet."""
        return Plan(settings, method_names, check_names, 0, (), "", format=2)

    @property
    def examples(self) -> int:
        """Examples to explain: the manifest up to the limit."""
        limit: int | None = self.settings["limit"]
        return self.entries if limit is None else min(limit, self.entries)

    @property
    def division(self) -> Shards:
        return Shards(self.settings["shard_size"])

    @property
    def shards(self) -> int:
        return self.division.number(self.examples)

    def shard_of(self, example: int) -> int:
        """Return the shard of an example."""
        return self.division.of(example)

    def ids(self, shard: int) -> range:
        """Return the examples of a shard."""
        found = self.division.ids(shard)
        return range(found.start, min(found.stop, self.examples))

    def config(self) -> str:
        """Return the hash that every done record repeats."""
        facts = asdict(self)
        left_out = ("format",) if self.format == 1 else ("entries", "labels", "manifest")
        kept = {name: value for name, value in facts.items() if name not in left_out}
        return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=16).hexdigest()
