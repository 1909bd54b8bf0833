"""Equal rows of one pass: with several targets for an example, the model runs each distinct row once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SharedRows:
    """The distinct rows of a pass.

    `first` `(distinct,)` is the first row of each, `index` `(rows,)` each row's distinct row, and `rank` `(rows,)`
    counts the rows of one distinct row, which have different targets.
    """

    first: Tensor
    index: Tensor
    rank: Tensor

    @staticmethod
    def find(rows: Tensor) -> SharedRows | None:
        """The distinct rows where equal ones are neighbours; None where no two neighbours are equal."""
        new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        new[1:] = (rows[1:] != rows[:-1]).flatten(1).any(1)
        if bool(new.all()):
            return None
        first, index = new.nonzero()[:, 0], new.cumsum(0) - 1
        return SharedRows(first, index, torch.arange(len(rows), device=rows.device) - first[index])

    def gradients(self, scores: Tensor, sources: Sequence[Tensor]) -> list[Tensor | None]:
        """d scores / d sources, `(rows, ...)` from sources `(distinct, ...)`: one backward pass for each rank."""
        found: list[Tensor | None] = [None] * len(sources)
        for rank in range(int(self.rank.max()) + 1):
            chosen = self.rank == rank
            more = bool((self.rank > rank).any())
            slopes = torch.autograd.grad(scores[chosen].sum(), sources, retain_graph=more, allow_unused=True)
            for i, slope in enumerate(slopes):
                if slope is None:
                    continue
                whole = found[i]
                if whole is None:
                    whole = found[i] = slope.new_zeros((len(self.index), *slope.shape[1:]))
                whole[chosen] = slope[self.index[chosen]]
        return found
