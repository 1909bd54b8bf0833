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
    made, owners, masks = [], [], []
    _, _, height, width = pictures.shape
    for i, own in enumerate(labels):
        next_of_class: dict[int, int] = {}
        for j in [*range(i + 1, len(labels)), *range(i)]:
            if labels[j] != own:
                next_of_class.setdefault(labels[j], j)
        at = i % cells
        order = list(next_of_class.values())[: cells - 1]
        order.insert(at, i)
        rows = [torch.cat([pictures[j] for j in order[r * side : (r + 1) * side]], 2) for r in range(side)]
        made.append(torch.cat(rows, 1))
        mask = torch.zeros(1, side * height, side * width, dtype=torch.bool, device=pictures.device)
        top, left = at // side * height, at % side * width
        mask[:, top : top + height, left : left + width] = True
        masks.append(mask)
        owners.append(own)
    return Mosaic(torch.stack(made), torch.tensor(owners, device=pictures.device), torch.stack(masks))
