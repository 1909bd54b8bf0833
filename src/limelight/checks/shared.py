"""What the checks of one call share: scores of the same picture, and changed copies of the model.

A check asks for scores by `Case.scores`. Each picture goes by a key that is equal for equal pictures alone: which units
are hidden, and what fills them. A score that a check of the call has had, for this map or another, is not run again.
What is kept is a number for each picture and its key of some bytes; pictures are made where a score of them is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..base.tensor_bytes import rows_of_bytes
from ..engine.score import Score

T = TypeVar("T")
Keys = Sequence[Hashable]
ITSELF = "x"  # the key of an input that is not changed


@dataclass(frozen=True)
class Asked:
    """One changed input for each example of a batch, of which a check asks for the scores.

    `keys`: one for each example; of one example, equal keys stand for equal inputs. `make` returns the inputs
    `(n, *features)`, and is called where one of their scores is not known.
    """

    keys: Keys
    make: Callable[[], Tensor]

    @staticmethod
    def itself(x: Tensor) -> Asked:
        """Return the inputs, unchanged."""
        return Asked((ITSELF,) * len(x), lambda: x)

    @staticmethod
    def drawn(label: Hashable, x: Tensor, make: Callable[[], Tensor]) -> Asked:
        """Return inputs that follow from the examples, the seed and a label of all settings that they depend on."""
        return Asked((label,) * len(x), make)


def key_of(value: object) -> Hashable:
    """Return the value as a key; one that cannot be hashed, such as a target with a list, has another at each call."""
    try:
        hash(value)
    except TypeError:
        return object()
    return value


def contents(values: Tensor) -> tuple[bytes, ...]:
    """Return a digest of the bytes of each example of `values` `(n, ...)`; of booleans, of their bits."""
    rows = values.detach().flatten(1).cpu()
    held = np.packbits(rows.numpy(), axis=1) if rows.dtype == torch.bool else rows_of_bytes(rows).numpy()
    return tuple(blake2b(row.tobytes(), digest_size=16).digest() for row in held)


@dataclass(eq=False)
class Shared:
    """What the checks of one call share; a context manager that ends with the call.

    `several`: whether several maps are checked, for which changed copies of the model, and what `once` finds, stay
    until then. `spared`: rows, forward and backward, that were not run because other checks had run them, since
    `counting`.
    """

    several: bool = False
    spared: int = 0
    _scores: dict[Hashable, dict[Hashable, float]] = field(default_factory=dict)
    _dtypes: dict[Hashable, torch.dtype] = field(default_factory=dict)
    _own: set[Hashable] = field(default_factory=set)
    _found: dict[Hashable, tuple[Any, int]] = field(default_factory=dict)
    _copies: dict[Hashable, Any] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def counting(self) -> None:
        """Count from here on, for one check: what it asks for twice costs it nothing the second time, alone or not."""
        self.spared = 0
        self._own.clear()

    def scores(self, score: Score, under: Hashable, examples: Keys, asked: Iterable[Asked]) -> Tensor:
        """Return the scores `(k, n)` of a stream of k batches; those that are known are not run.

        `under`: what a score depends on besides the input, its target above all. `examples`: a key of each example.
        The stream is read once and lazily.
        """
        known = self._scores.setdefault(under, {})
        wanted: list[Hashable] = []
        new: dict[Hashable, None] = {}

        def missing() -> Iterator[tuple[Tensor, Tensor]]:
            for each in asked:
                keys = list(zip(range(len(examples)), examples, each.keys, strict=True))
                wanted.extend(keys)
                places = [i for i, key in enumerate(keys) if key not in known and key not in new]
                self._count(under, [key for key in keys if key in known])
                self._own.update((under, key) for key in keys)
                if places:
                    new.update((keys[i], None) for i in places)
                    rows, index = each.make(), torch.tensor(places)
                    yield (rows if len(places) == len(rows) else rows[index.to(rows.device)]), index.to(rows.device)

        passes = score.runner.stream(missing(), score.examples, score.target, gradient=False)
        if run := [rows.scores for rows in passes]:
            self._dtypes[under] = run[0].dtype
            known.update(zip(new, torch.cat(run).tolist(), strict=True))
        values = [known[key] for key in wanted]
        return torch.tensor(values, dtype=self._dtypes[under], device=score.examples.device).reshape(-1, len(examples))

    def once(self, key: Hashable, compute: Callable[[], T], rows: Callable[[], int] = lambda: 0) -> T:
        """Return what `compute()` found when a map first asked for it by this key; `rows()` counts rows run so far."""
        if not self.several:
            return compute()
        if key in self._found:
            found, cost = self._found[key]
            if key not in self._own:
                self.spared += cost
        else:
            before = rows()
            found = compute()
            self._found[key] = found, rows() - before
        self._own.add(key)
        value: T = found
        return value

    @contextmanager
    def copy(self, key: Hashable, make: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
        """Yield the changed copy of the model that `make()` opens, kept for the maps of several methods."""
        if not self.several:
            with make() as copied:
                yield copied
            return
        if key not in self._copies:
            self._copies[key] = self._stack.enter_context(make())
        yield self._copies[key]

    def _count(self, under: Hashable, keys: Iterable[Hashable]) -> None:
        """Count the rows of these pictures as spared, once each."""
        fresh = {(under, key) for key in keys} - self._own
        self.spared += len(fresh)
        self._own |= fresh
