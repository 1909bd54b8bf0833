"""Baselines for one-hot sequences such as DNA: background frequencies, and shuffles that keep the composition."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..base.named import require, require_whole
from .baselines import Baseline
from .random_streams import Streams


@dataclass(frozen=True)
class Frequencies(Baseline):
    """The background frequencies `p` of the letters at each position, such as (0.3, 0.2, 0.2, 0.3) for A, C, G, T.

    Inputs are `(batch, letters, length)`, or with axis=2 `(batch, length, letters)`. Raises ValueError if `p` is not a
    distribution or does not have one number per letter.
    """

    p: tuple[float, ...]
    axis: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", tuple(map(float, self.p)))
        fits = self.p and min(self.p) >= 0 and abs(sum(self.p) - 1) <= 1e-3
        require(bool(fits), self, "p", "frequencies of 0 or more that add up to 1")

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        letters = _letters(inputs, self.axis, self)
        if letters.shape[-1] != len(self.p):
            raise ValueError(
                f"baseline: Frequencies.p has {len(self.p)} frequencies, inputs of shape {tuple(inputs.shape)} have "
                f"{letters.shape[-1]} letters on axis {self.axis}"
            )
        p = torch.tensor(self.p, dtype=inputs.dtype, device=inputs.device)
        return p.expand(letters.shape[1:]).movedim(-1, self.axis - 1).expand(inputs.shape)[None]


@dataclass(frozen=True)
class Shuffle(Baseline):
    r"""`samples` random orders of each sequence that keep the counts of all groups of `k` neighbouring letters.

    k = 1 permutes the positions at random. k = 2 keeps the count of each pair of neighbours, and so the first and last
    letter. It draws a uniformly random Euler path through the graph with an edge a -> b for each pair ab: the outgoing
    edges of each letter are put in random order until the last edges all lead to the sequence's last letter.

    Inputs are one-hot `(batch, letters, length)`, or with axis=2 `(batch, length, letters)`. Raises ValueError for
    other inputs. [altschul1985]
    """

    k: Literal[1, 2] = 2
    samples: int = 8
    axis: int = 1

    def __post_init__(self) -> None:
        require(self.k in (1, 2), self, "k", "1 (letters) or 2 (pairs of neighbours)")
        require_whole(self, "samples", 1)

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        letters = _letters(inputs, self.axis, self)
        hot = letters.argmax(-1)
        if not torch.equal(letters, torch.nn.functional.one_hot(hot, letters.shape[-1]).to(letters)):
            raise ValueError(f"baseline: {self!r} needs one-hot sequences; a position of the inputs is not one-hot")
        rows = hot.cpu().numpy()
        shuffled = [
            np.stack([self._shuffled(row, streams.select([i]).fork(f"shuffle {s}")) for i, row in enumerate(rows)])
            for s in range(self.samples)
        ]
        chosen = torch.nn.functional.one_hot(torch.from_numpy(np.stack(shuffled)), letters.shape[-1])
        return chosen.to(inputs).movedim(-1, self.axis + 1)

    def _shuffled(self, sequence: np.ndarray, stream: Streams) -> np.ndarray:
        if self.k == 1:
            return np.take(sequence, stream.permutation("order", len(sequence))[0].numpy())
        edges = np.arange(len(sequence) - 1)
        for attempt in count():
            order = edges[stream.permutation(f"attempt {attempt}", len(edges))[0].numpy()]
            after: dict[int, list[int]] = {}
            for edge in order:
                after.setdefault(int(sequence[edge]), []).append(int(sequence[edge + 1]))
            if _all_lead_to(int(sequence[-1]), {letter: following[-1] for letter, following in after.items()}):
                break
        path = [int(sequence[0])]
        turn = {letter: iter(following) for letter, following in after.items()}
        for _ in edges:
            path.append(next(turn[path[-1]]))
        return np.array(path)


def _letters(inputs: Tensor, axis: int, baseline: Baseline) -> Tensor:
    """Return the inputs as `(batch, length, letters)`."""
    if inputs.ndim != 3 or axis not in (1, 2):
        raise ValueError(
            f"baseline: {baseline!r} needs sequences (batch, letters, length), or with axis=2 "
            f"(batch, length, letters); inputs have shape {tuple(inputs.shape)}"
        )
    return inputs.movedim(axis, -1)


def _all_lead_to(end: int, last: dict[int, int]) -> bool:
    """Return whether the letters' last edges lead from every letter to `end`."""
    for start in last:
        letter, seen = start, set[int]()
        while letter != end:
            if letter in seen:
                return False
            seen.add(letter)
            letter = last[letter]
    return True
