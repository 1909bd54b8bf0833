"""Baselines for one-hot sequences, such as DNA: background frequencies, and shuffles that keep the composition."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .baselines import Baseline
from .random_streams import Streams


@dataclass(frozen=True)
class Frequencies(Baseline):
    """Each position at the background frequencies `p` of the letters, such as (0.3, 0.2, 0.2, 0.3) of A, C, G, T.

    Inputs are `(batch, letters, length)`, or have their letters on another `axis`. Raises ValueError where `p` is no
    distribution or its length not the number of letters.
    """

    p: tuple[float, ...]
    axis: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", tuple(map(float, self.p)))
        if not self.p or min(self.p) < 0 or abs(sum(self.p) - 1) > 1e-3:
            raise ValueError(f"baseline: Frequencies.p={self.p}; use frequencies of 0 or more that add up to 1")

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
    r"""`samples` random orders of each sequence that keep how often each `k` letters follow one another.

    k = 1 keeps the count of each letter: a random permutation of the positions. k = 2 keeps the count of each pair of
    neighbours (and so of each letter, and the two ends): a uniformly random Euler path through the graph with an edge
    a -> b for each pair ab, by random orders of each letter's outgoing edges, drawn again until the last ones lead
    to the sequence's last letter. Inputs are one-hot `(batch, letters, length)`, or have their letters on another
    `axis`. Raises ValueError where they are not. [altschul1985]
    """

    k: Literal[1, 2] = 2
    samples: int = 8
    axis: int = 1

    def __post_init__(self) -> None:
        if self.k not in (1, 2):
            raise ValueError(f"baseline: Shuffle.k={self.k!r}; use 1 (letters) or 2 (pairs of neighbours)")
        if self.samples < 1:
            raise ValueError(f"baseline: Shuffle.samples={self.samples}; use 1 or more")

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        letters = _letters(inputs, self.axis, self)
        hot = letters.argmax(-1)
        if not torch.equal(letters, torch.nn.functional.one_hot(hot, letters.shape[-1]).to(letters)):
            raise ValueError(
                f"baseline: {self!r} shuffles one-hot sequences; some position of the inputs is no unit vector"
            )
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
    """Inputs as `(batch, length, letters)`."""
    if inputs.ndim != 3 or axis not in (1, 2):
        raise ValueError(
            f"baseline: {baseline!r} needs sequences (batch, letters, length), or with axis=2 "
            f"(batch, length, letters); inputs have shape {tuple(inputs.shape)}"
        )
    return inputs.movedim(axis, -1)


def _all_lead_to(end: int, last: dict[int, int]) -> bool:
    """Whether following each letter's last edge leads from everywhere to `end`."""
    for start in last:
        letter, seen = start, set[int]()
        while letter != end:
            if letter in seen:
                return False
            seen.add(letter)
            letter = last[letter]
    return True
