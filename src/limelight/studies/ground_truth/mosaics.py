"""Mosaics for the grid pointing game: pictures side by side, one of them of the explained class. [bohle2021]"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Mosaics `x` `(n, c, H, W)`, their explained classes `y` `(n,)`, and `mask` `(n, 1, H, W)`, the cell of each."""

    x: Tensor
    y: Tensor
    mask: Tensor


def mosaic(pictures: Tensor, classes: Tensor, side: int = 2) -> Mosaic:
    """Make a mosaic of `side` x `side` pictures of different classes for each of the pictures `(m, c, h, w)`.

    The i-th picture is explained and is in cell i mod side^2; the others are the next pictures of classes that are not
    yet in the mosaic. Give pictures that the model classifies confidently. Raises ValueError for too few classes.
    """
    cells = side * side
    labels = classes.tolist()
    if len(set(labels)) < cells:
        raise ValueError(f"classes: {len(set(labels))} different ones; a mosaic of {side} x {side} needs {cells}")
    made, masks = [], []
    for i, own in enumerate(labels):
        next_of_class: dict[int, int] = {}
        for j in [*range(i + 1, len(labels)), *range(i)]:
            if labels[j] != own:
                next_of_class.setdefault(labels[j], j)
        order = list(next_of_class.values())[: cells - 1]
        order.insert(i % cells, i)
        made.append(_tiled(pictures[order], side))
        mask = torch.zeros_like(pictures[:cells, :1], dtype=torch.bool)
        mask[i % cells] = True
        masks.append(_tiled(mask, side))
    return Mosaic(torch.stack(made), torch.tensor(labels, device=pictures.device), torch.stack(masks))


def _tiled(parts: Tensor, side: int) -> Tensor:
    """Place pictures `(side * side, c, h, w)` row by row into one `(c, side * h, side * w)`."""
    return torch.cat([torch.cat(list(row), 2) for row in parts.split(side)], 1)
