"""Scores of pictures with one box at a time changed, by incremental inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...question.targets import Target
from ..runner import Runner
from . import Box, Picture, hidden, in_passes


def box_scores(
    runner: Runner, target: Target, examples: Tensor, x: Tensor, filling: Tensor, boxes: Sequence[Box]
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the scores `(boxes, n)` of x `(n, channels, H, W)` with one box at a time filled from `filling`, and the
    names of the operators that computed whole rows. Each box counts as a forward row."""
    columns: list[Tensor] = []
    whole: dict[str, None] = {}
    groups = in_passes(boxes, runner.budget)
    for i in range(len(examples)):
        picture, base, fill = Picture(), x[i : i + 1].clone(), filling[i : i + 1]

        def run(
            index: Tensor,
            owners: Tensor,
            base: Tensor = base,
            fill: Tensor = fill,
            picture: Picture = picture,
        ) -> Tensor:
            picture.next_pass()
            rows = hidden(base, fill, [boxes[b] for b in index.tolist()], picture)
            return runner.once(rows, owners, target).scores

        scores: Tensor | None = None
        for group in groups:
            owner = examples[i].expand(len(group))
            part = torch.cat(list(runner.safely(torch.tensor(group), owner, run)))
            scores = part.new_empty(len(boxes)) if scores is None else scores
            scores[group] = part
        assert scores is not None
        columns.append(scores)
        whole |= picture.whole_from
    return torch.stack(columns, 1), tuple(whole)
