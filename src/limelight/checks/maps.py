"""Maps as units to rank and to hide, and how alike two maps are.

A unit is a pixel with all its channels, or a feature where inputs are no pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.arithmetic import rounding_of
from ..question.random_streams import Streams

CONSTANT = "a map is constant: it has no order to compare"


def units_of(values: Tensor) -> Tensor:
    """Sum a map `(n, *features)` over channels and flatten it: one value per unit `(n, units)`."""
    return (values.sum(1) if values.ndim > 2 else values).flatten(1)


def space_of(x: Tensor) -> torch.Size:
    """Return the shape of the units of inputs `(n, *features)`."""
    return x.shape[2:] if x.ndim > 2 else x.shape[1:]


def over_units(per_unit: Tensor, x: Tensor) -> Tensor:
    """Reshape values `(n, units)` so that they broadcast to x: `(n, 1, *space)`, or `(n, features)`."""
    return per_unit.reshape(len(per_unit), 1, *space_of(x)) if x.ndim > 2 else per_unit


def order_of(units: Tensor, rng: Streams) -> Tensor:
    """Return the order `(n, units)` of units from the largest down; ties in a random order, drawn for each example."""
    shuffled = rng.permutation("ties", units.shape[1]).to(units.device)
    order = units.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    return shuffled.gather(1, order)


def places_of(order: Tensor) -> Tensor:
    """Return the place of each unit in the order `(n, units)`: 0 for the first."""
    places = torch.empty_like(order)
    counted = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return places.scatter_(1, order, counted)


def means_by_label(units: Tensor, labels: Tensor) -> Tensor:
    """Average `units` `(n, u)` over each label `(n, u)`: `(n, labels)`, -inf for labels an example does not have."""
    count = int(labels.max()) + 1
    total = units.new_zeros(len(units), count).scatter_add_(1, labels, units)
    size = units.new_zeros(len(units), count).scatter_add_(1, labels, torch.ones_like(units))
    return torch.where(size > 0, total / size.clamp(min=1), torch.full_like(total, -torch.inf))


def grid_labels(space: torch.Size, cell: int, device: torch.device) -> Tensor:
    """Return the label `(units,)` of each unit's square cell, cells of `cell` units a side from the top left."""
    label = torch.zeros(space, dtype=torch.long, device=device)
    for axis, size in enumerate(space):
        place = torch.arange(size, device=device) // cell
        shape = [-1 if a == axis else 1 for a in range(len(space))]
        label = label * (-(-size // cell)) + place.view(shape)
    return label.flatten()


def pearson(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """Compute the correlation along `dim`, in float64; NaN where either side varies by no more than its rounding."""
    a, b = a.double(), b.double()
    (a, a_varies), (b, b_varies) = _centred(a, dim), _centred(b, dim)
    scale = (a.square().sum(dim) * b.square().sum(dim)).sqrt()
    found = (a * b).sum(dim) / scale
    varies = a_varies & b_varies & (scale > 0)
    return torch.where(varies, found.clamp(-1, 1), torch.full_like(found, torch.nan))


def _centred(z: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    rounding = rounding_of(z.dtype, z.abs().amax(dim))
    centred = z - z.mean(dim, keepdim=True)
    return centred, centred.abs().amax(dim) > rounding


def _on_unit(maps: Tensor) -> Tensor:
    """Stretch each map to [0, 1] by itself; a constant one becomes 0."""
    flat = maps.double().flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    scaled = (flat - low) / (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    return scaled.reshape(maps.shape)


def ssim(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    r"""Compute the mean structural similarity `(n,)` of maps `(n, H, W)`, each stretched to [0, 1]. [wang2004]

    Uniform windows of 7 x 7 wholly inside the picture, sample covariances, $C_1 = 0.01^2$, $C_2 = 0.03^2$.
    """
    a, b = _on_unit(a)[:, None], _on_unit(b)[:, None]
    side = min(window, *a.shape[2:])

    def mean(z: Tensor) -> Tensor:  # along one axis and then the other: 14 numbers in place of 49
        return F.avg_pool2d(F.avg_pool2d(z, (side, 1), stride=1), (1, side), stride=1)

    n = side * side
    unbias = n / max(n - 1, 1)
    ma, mb = mean(a), mean(b)
    va, vb = unbias * (mean(a * a) - ma * ma), unbias * (mean(b * b) - mb * mb)
    cab = unbias * (mean(a * b) - ma * mb)
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * ma * mb + c1) * (2 * cab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    mean_over_windows: Tensor = found.flatten(1).mean(1)
    return mean_over_windows


def hog(maps: Tensor, cell: int = 8, orientations: int = 9) -> Tensor:
    """Compute histograms of oriented gradients `(n, features)` of maps `(n, H, W)`, cells normalised. [dalal2005]"""
    z = _on_unit(maps)
    dy, dx = torch.zeros_like(z), torch.zeros_like(z)
    dy[:, 1:-1], dx[:, :, 1:-1] = z[:, 2:] - z[:, :-2], z[:, :, 2:] - z[:, :, :-2]
    length = (dx.square() + dy.square()).sqrt()
    angle = torch.atan2(dy, dx) % torch.pi
    bins = (angle / torch.pi * orientations).long().clamp(max=orientations - 1)
    weighted = length.new_zeros((len(z), orientations, *z.shape[1:])).scatter_(1, bins[:, None], length[:, None])
    side = min(cell, *maps.shape[1:])
    cells = F.avg_pool2d(weighted, side)
    norm = cells.square().sum(1, keepdim=True).sqrt()
    return (cells / norm.clamp(min=1e-5)).flatten(1)


def top_overlap(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Compute the share of the k highest units of a `(n, units)` that are among the k highest of b."""
    chosen = torch.zeros_like(a, dtype=torch.bool).scatter_(1, a.topk(k, dim=1).indices, True)
    others = torch.zeros_like(chosen).scatter_(1, b.topk(k, dim=1).indices, True)
    return (chosen & others).sum(1).double() / k
