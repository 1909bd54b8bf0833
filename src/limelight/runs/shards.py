"""The examples of each shard, by its position alone, so that they are the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeVar

_LEAST, _MOST, _EQUAL = 8, 128, 16  # examples of the first shards and of the last ones; shards of one size in a row
_DOUBLINGS = (_MOST // _LEAST).bit_length() - 1

T = TypeVar("T")


@dataclass(frozen=True)
class Shards:
    """The division of the examples into shards.

    `size`: the examples of each shard. None: 16 shards of 8 examples, 16 of 16, 16 of 32, 16 of 64, and then shards of
    128. So the first results come early, few examples still occupy several workers, and many examples make few files.
    """

    size: int | None = None

    def ids(self, shard: int) -> range:
        """Return the examples of a shard, of which a run's last shard has the first ones."""
        if self.size is not None:
            return range(shard * self.size, (shard + 1) * self.size)
        doublings = min(shard // _EQUAL, _DOUBLINGS)
        size = _LEAST << doublings
        first = _first(doublings) + (shard - _EQUAL * doublings) * size
        return range(first, first + size)

    def of(self, example: int) -> int:
        """Return the shard of an example."""
        if self.size is not None:
            return example // self.size
        doublings = min((example // (_EQUAL * _LEAST) + 1).bit_length() - 1, _DOUBLINGS)
        return _EQUAL * doublings + (example - _first(doublings)) // (_LEAST << doublings)

    def number(self, examples: int) -> int:
        """Count the shards of so many examples."""
        return self.of(examples - 1) + 1 if examples else 0

    def cut(self, items: Iterable[T]) -> Iterator[list[T]]:
        """Yield the items of each shard, in order."""
        rest = iter(items)
        for shard in count():
            found = list(islice(rest, len(self.ids(shard))))
            if not found:
                return
            yield found


def _first(doublings: int) -> int:
    """Return the first example of the shards whose size was doubled so often."""
    return _EQUAL * _LEAST * ((1 << doublings) - 1)
