"""Rank correlations of maps, and the relative size of an error."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ranks(values: Tensor) -> Tensor:
    """Return ranks from 1 along the last axis, float64; equal values get the mean of their ranks."""
    flat = values.reshape(-1, values.shape[-1])
    ordered, order = flat.sort(1)
    place = torch.arange(flat.shape[1], device=flat.device)
    begins = torch.ones_like(flat, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = begins.roll(-1, 1)
    ends[:, -1] = True
    first = torch.where(begins, place, 0).cummax(1).values
    last = torch.where(ends, place, len(place)).flip(1).cummin(1).values.flip(1)
    mean = (first + last + 2).double() / 2
    return torch.empty_like(mean).scatter_(1, order, mean).reshape(values.shape)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    r"""Compute Spearman's $\rho$ `(batch,)` of two batches of maps `(batch, *features)`.

    $$\rho = \frac{\sum_i (r_i - \bar r)(s_i - \bar s)}{\sqrt{\sum_i (r_i - \bar r)^2 \sum_i (s_i - \bar s)^2}}$$

    with ranks $r$, $s$ and ties averaged. In [-1, 1]; NaN if a map is constant or contains NaN. Raises ValueError for
    maps of different shapes. [spearman1904]
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(
            f"maps: shapes {tuple(a.shape)} and {tuple(b.shape)}; rank correlation takes two of the same (batch, ...)"
        )
    return correlation_of_ranks(centred_ranks(a), centred_ranks(b))


def rank_correlations(maps: Sequence[Tensor]) -> Tensor:
    """Compute the correlations `(batch, k, k)` between k batches of maps `(batch, *features)` of the same shape."""
    first = maps[0]
    for other in maps[1:]:
        if other.shape != first.shape:
            raise ValueError(f"maps: shapes {tuple(first.shape)} and {tuple(other.shape)} cannot be compared")
    centred = [centred_ranks(each) for each in maps]
    rows = [torch.stack([correlation_of_ranks(a, b) for b in centred], 1) for a in centred]
    return torch.stack(rows, 1)


def relative_size(errors: Tensor, values: Tensor) -> float:
    r"""Compute $\lVert e \rVert_2 / \lVert v \rVert_2$; 0 if all errors are 0, NaN if one is NaN."""
    size = errors.double().norm()
    return float(size / values.double().norm()) if bool(size) else 0.0


def centred_ranks(maps: Tensor) -> Tensor:
    """Return the ranks of each map `(batch, features)` minus their mean; NaN for a map that contains NaN."""
    flat = maps.flatten(1)
    unknown = flat.isnan().any(1, keepdim=True)
    # The mean of n ranks is (n + 1) / 2 whatever the ties.
    return (ranks(flat) - (flat.shape[1] + 1) / 2).masked_fill(unknown, torch.nan)


def correlation_of_ranks(a: Tensor, b: Tensor) -> Tensor:
    """Compute the correlation `(batch,)` of centred ranks."""
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
