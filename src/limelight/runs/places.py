"""Where in the picture the maps of a group have their relevance, in words and figures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .clusters import SIDE

_RING = 2  # cells along each side that make the border
_MOSTLY = 0.8  # of the cells
_WIDE = 0.4  # of the picture
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True)
class Place:
    """A part of the picture. `words`: such as "bottom right"; `area`: its share of the picture, from 0 to 1."""

    words: str
    area: float


def place_of(features: Tensor) -> Place:
    """Return the smallest part that holds half of what the mean of features `(n, SIDE * SIDE)` has above zero.

    Features have mean 0, so that is half of the relevance above the average.
    """
    mean = features.mean(0).clamp(min=0)
    cells = part_of(mean, 0.5)
    return Place(_words(cells, mean[cells]), len(cells) / SIDE**2) if len(cells) else Place("no part", 0.0)


def part_of(mean: Tensor, share: float) -> Tensor:
    """Return the numbers of the fewest cells that hold a share of `mean` `(SIDE * SIDE,)`, at least 0 everywhere."""
    if not bool(mean.any()):
        return torch.empty(0, dtype=torch.long)
    values, order = mean.sort(descending=True)
    return order[: int((values.cumsum(0) < share * values.sum()).sum()) + 1]


def words_of(mean: Tensor, cells: Tensor) -> str:
    """Say where the cells `(SIDE, SIDE)` lie, by the weights in `mean` `(SIDE, SIDE)`."""
    chosen = cells.flatten().nonzero()[:, 0]
    return _words(chosen, mean.flatten()[chosen]) if len(chosen) else "no part"


def _words(cells: Tensor, weights: Tensor) -> str:
    rows, columns = cells // SIDE, cells % SIDE
    low, high = _RING, SIDE - _RING
    sides = (rows < low, rows >= high, columns < low, columns >= high)
    outside = torch.stack(sides).any(0)
    if all(bool(side.any()) for side in sides) and float(outside.double().mean()) >= _MOSTLY:
        return "border"
    if len(rows) / SIDE**2 > _WIDE:
        return "whole picture"
    share = weights / weights.sum()
    third = [int(3 * float((each * share).sum()) / SIDE) for each in (rows, columns)]
    row, column = _ROWS[third[0]], _COLUMNS[third[1]]
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"
