"""Random numbers that depend on the seed and the example alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

Label = int | str


def _derive(key: bytes, label: Label) -> bytes:
    return blake2b(f"{label}".encode(), key=key, digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class Streams:
    """One counter-based random stream (Philox) per row, named by a 16-byte key.

    A key depends on the seed and the example's content, so an example gets the same numbers in any batch, order,
    shard or chunk. No global generator is read or advanced. Keys are made when a number is first drawn: hashing a
    picture takes a millisecond, and many methods draw none.
    """

    rows: int
    make_keys: Callable[[], tuple[bytes, ...]]

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """The key of each row."""
        return self.make_keys()

    @staticmethod
    def of(inputs: Tensor, seed: int) -> Streams:
        """Return the streams of a batch `(batch, *features)`, with keys from (seed, bytes of the example)."""

        def keys() -> tuple[bytes, ...]:
            root = blake2b(str(seed).encode(), digest_size=16).digest()
            rows = inputs.detach().cpu().contiguous()
            rows = rows.float() if rows.dtype == torch.bfloat16 else rows  # NumPy has no bfloat16
            return tuple(blake2b(row.numpy().tobytes(), key=root, digest_size=16).digest() for row in rows)

        return Streams(len(inputs), keys)

    def __len__(self) -> int:
        return self.rows

    def select(self, index: Sequence[int]) -> Streams:
        index = tuple(index)
        return Streams(len(index), lambda: tuple(self.keys[i] for i in index))

    def fork(self, label: Label | Sequence[Label]) -> Streams:
        """Derive independent streams by one label for all rows, or one label per row."""
        labels = [label] * len(self) if isinstance(label, int | str) else list(label)
        if len(labels) != len(self):
            raise ValueError(f"label: {len(labels)} for {len(self)} rows; give one for all or one for each")
        return Streams(len(self), lambda: tuple(map(_derive, self.keys, labels)))

    def generators(self, label: Label) -> list[np.random.Generator]:
        """Return a new NumPy generator for each row. Equal labels give equal generators."""
        numbers = [int.from_bytes(_derive(key, label), "little") for key in self.keys]
        return [np.random.Generator(np.random.Philox(key=number)) for number in numbers]

    def _draw(self, label: Label, kind: str, features: Sequence[int], like: Tensor) -> Tensor:
        rows = np.empty((len(self), *features), dtype=np.float64 if like.dtype == torch.float64 else np.float32)
        for row, generator in zip(rows, self.generators(label), strict=True):
            if kind == "normal":
                row[...] = generator.standard_normal(row.shape, dtype=rows.dtype.type)
            else:
                row[...] = generator.random(row.shape, dtype=rows.dtype.type)
        return torch.from_numpy(rows).to(like)

    def normal(self, label: Label, features: Sequence[int], like: Tensor) -> Tensor:
        """Draw standard normal numbers `(rows, *features)` in the dtype and on the device of `like`."""
        return self._draw(label, "normal", features, like)

    def uniform(self, label: Label, features: Sequence[int], like: Tensor) -> Tensor:
        """Draw numbers uniform on [0, 1), `(rows, *features)`, in the dtype and on the device of `like`."""
        return self._draw(label, "uniform", features, like)

    def permutation(self, label: Label, n: int) -> Tensor:
        """Draw a random order of `range(n)` for each row, int64 `(rows, n)`."""
        orders = [generator.permutation(n) for generator in self.generators(label)]
        return torch.from_numpy(np.stack(orders)) if orders else torch.empty(0, n, dtype=torch.long)
