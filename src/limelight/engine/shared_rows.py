"""Rows of a pass that are one point: with several targets for an example, the model runs it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SharedRows:
    """`first`: a row of each point `(points,)`; `point`: each row's point `(rows,)`; `rank`: a row's place among its
    point's rows `(rows,)`, which ask about different targets."""

    first: Tensor
    point: Tensor
    rank: Tensor

    @staticmethod
    def among(rows: Tensor) -> SharedRows | None:
        """The points of rows of which equal ones stand next to each other; None where no two are equal."""
        new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        new[1:] = (rows[1:] != rows[:-1]).flatten(1).any(1)
        if bool(new.all()):
            return None
        first, point = new.nonzero()[:, 0], new.cumsum(0) - 1
        return SharedRows(first, point, torch.arange(len(rows), device=rows.device) - first[point])

    def gradients(self, scores: Tensor, sources: Sequence[Tensor]) -> list[Tensor | None]:
        """d scores / d sources `(points, ...)` for each row: one backward pass for each rank."""
        found: list[Tensor | None] = [None] * len(sources)
        for rank in self.rank.unique().tolist():
            mine = self.rank == rank
            more = bool((self.rank > rank).any())
            slopes = torch.autograd.grad(scores[mine].sum(), sources, retain_graph=more, allow_unused=True)
            for i, slope in enumerate(slopes):
                if slope is None:
                    continue
                whole = found[i]
                if whole is None:
                    whole = found[i] = slope.new_zeros((len(self.point), *slope.shape[1:]))
                whole[mine] = slope[self.point[mine]]
        return found
