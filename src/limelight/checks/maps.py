"""A map as units to rank and to hide: a pixel with all its channels, or a feature where there is no picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ..question.random_streams import Streams


def units_of(values: Tensor) -> Tensor:
    """A map `(n, *features)` as one value per unit `(n, units)`: channels summed, positions flattened."""
    return (values.sum(1) if values.ndim > 2 else values).flatten(1)


def space_of(x: Tensor) -> torch.Size:
    """The shape of the units of inputs `(n, *features)`."""
    return x.shape[2:] if x.ndim > 2 else x.shape[1:]


def over_units(per_unit: Tensor, x: Tensor) -> Tensor:
    """Values `(n, units)` in a shape that broadcasts to x: `(n, 1, *space)`, or `(n, features)`."""
    return per_unit.reshape(len(per_unit), 1, *space_of(x)) if x.ndim > 2 else per_unit


def order_of(units: Tensor, rng: Streams) -> Tensor:
    """Units `(n, units)` from the largest down, ties in a random order of each example's own."""
    shuffled = rng.permutation("ties", units.shape[1]).to(units.device)
    order = units.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    return shuffled.gather(1, order)


def places_of(order: Tensor) -> Tensor:
    """The place of each unit in the order `(n, units)`: 0 for the first."""
    places = torch.empty_like(order)
    counted = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return places.scatter_(1, order, counted)


def means_by_label(units: Tensor, labels: Tensor) -> Tensor:
    """Mean of `units` `(n, u)` over each label `(n, u)`, `(n, labels)`; -inf for labels an example does not have."""
    count = int(labels.max()) + 1
    total = units.new_zeros(len(units), count).scatter_add_(1, labels, units)
    size = units.new_zeros(len(units), count).scatter_add_(1, labels, torch.ones_like(units))
    return torch.where(size > 0, total / size.clamp(min=1), torch.full_like(total, -torch.inf))


def grid_labels(space: torch.Size, cell: int, device: torch.device) -> Tensor:
    """Label of the square cell that each unit lies in `(units,)`, cells of `cell` units a side from the top left."""
    label = torch.zeros(space, dtype=torch.long, device=device)
    for axis, size in enumerate(space):
        place = torch.arange(size, device=device) // cell
        shape = [-1 if a == axis else 1 for a in range(len(space))]
        label = label * (-(-size // cell)) + place.view(shape)
    return label.flatten()
