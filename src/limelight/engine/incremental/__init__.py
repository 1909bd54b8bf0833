"""Exact incremental inference: only the activations that a changed box of the picture can reach are recomputed.

The model runs on a `Patched` tensor, which represents whole rows and keeps, layer after layer, one activation of the
picture and a box for each row. Convolutions and pools grow the boxes by their kernels, sums and concatenations to a
common box; after the spatial part, and at every operator that is not in `OPERATORS`, whole rows are made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...question.targets import Target
from ..runner import Runner
from . import operators  # noqa: F401  (fills the table)
from .boxes import Boxes, Span
from .patched import OPERATORS, Patched, Picture, joined

_WIDER = 2  # times as many rows a pass as whole rows: they take less memory, and fewer passes are faster

Box = tuple[slice, slice, slice]
"""Channels, rows and columns of `(channels, H, W)`."""

__all__ = ["OPERATORS", "Box", "Patched", "Picture", "box_scores", "hidden"]


def hidden(base: Tensor, filling: Tensor, boxes: Sequence[Box], picture: Picture) -> Tensor:
    """Make copies of one example, the n-th with box n filled from `filling`; all boxes have one size.

    `base` and `filling` are `(1, channels, H, W)`; `base` must be the same tensor in every pass.
    """
    patch = torch.stack([base[0, :, ys, xs] for _, ys, xs in boxes])
    for row, (channels, ys, xs) in zip(patch, boxes, strict=True):
        row[channels] = filling[0, channels, ys, xs]
    y, x = torch.tensor([[ys.start, xs.start] for _, ys, xs in boxes]).unbind(1)
    return joined(base, patch, Boxes(Span(y, patch.shape[2]), Span(x, patch.shape[3])), picture)


def in_passes(boxes: Sequence[Box], budget: int) -> list[list[int]]:
    """Group the boxes' indices by the passes that they should share.

    All boxes of a pass grow to the size of the largest, so where several passes are needed, boxes of different grid
    rows, which meet strides and borders differently, run in different passes.
    """
    if len(boxes) <= budget:
        return [list(range(len(boxes)))]
    groups: dict[int, list[int]] = {}
    for index, (_, ys, _) in enumerate(boxes):
        groups.setdefault(ys.start, []).append(index)
    return list(groups.values())


def box_scores(
    runner: Runner, target: Target, examples: Tensor, x: Tensor, filling: Tensor, boxes: Sequence[Box]
) -> tuple[Tensor, tuple[str, ...]]:
    """Compute `Score.box_values`. Each box counts as a forward row."""
    with runner.sizes.wider(_WIDER):
        return _box_scores(runner, target, examples, x, filling, boxes)


def _box_scores(
    runner: Runner, target: Target, examples: Tensor, x: Tensor, filling: Tensor, boxes: Sequence[Box]
) -> tuple[Tensor, tuple[str, ...]]:
    columns: list[Tensor] = []
    whole: dict[str, None] = {}
    groups = in_passes(boxes, runner.budget)
    order = torch.tensor([box for group in groups for box in group]).argsort()
    for i in range(len(examples)):
        picture, base = Picture(), x[i : i + 1].clone()

        def run(index: Tensor, owners: Tensor, i: int = i, picture: Picture = picture, base: Tensor = base) -> Tensor:
            picture.next_pass()
            rows = hidden(base, filling[i : i + 1], [boxes[b] for b in index.tolist()], picture)
            return runner.once(rows, owners, target).scores

        found = [runner.safely(torch.tensor(group), examples[i].expand(len(group)), run) for group in groups]
        columns.append(torch.cat([scores for parts in found for scores in parts])[order])
        whole |= picture.whole_from
    return torch.stack(columns, 1), tuple(whole)
