"""How alike two runs of a sampled map would be, from the samples of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .view import View, default_view

_TILES = (64, 16)  # about so many parts into which a map is cut for the jackknife: errors may reach across small ones
_MUCH_NOISE = 0.25  # of a magnitude, from which on a caption says so
_FEWEST = 4  # tiles that determine an interval
_CLOSE = 1 - 1e-12  # correlations are moved this far from 1 for Fisher's transform
_WITHIN = 1.96 * math.sqrt(2)  # standard errors: of the estimate, and of the correlation of the runs themselves


@dataclass(frozen=True, eq=False)
class Steadiness:
    r"""The correlation that two runs with other seeds would have at the scale the map is drawn at.

    From the correlation r of the views of two halves of the samples: $\rho = 2r / (1 + r)$, or r below 0.
    [spearman1910] [brown1910] `value` `(n,)`; `low` and `high` `(n,)` hold the correlation of two actual runs in 95 of
    100 cases, from a jackknife over parts of the map on Fisher's scale: the error of the estimate, and as much again
    for the runs. NaN where a half is constant; the interval is NaN for maps of fewer than 4 positions.
    """

    value: Tensor
    low: Tensor
    high: Tensor

    def columns(self) -> Tensor:
        """Return value, low and high side by side, `(n, 3)`."""
        return torch.stack([self.value, self.low, self.high], 1)


def steadiness_of(first: Tensor, second: Tensor, view: View) -> Steadiness:
    """Estimate the steadiness of maps from those of two independent halves of their samples `(n, channels, *space)`.

    Series and columns are read as they are drawn by default, with their sign. Each example is read by itself, so that
    no figure depends on its batch.
    """
    drawn = default_view(view, first.ndim - 2).drawn
    found = [_of_one(drawn(a[None].double()), drawn(b[None].double())) for a, b in zip(first, second, strict=True)]
    return Steadiness(*(torch.cat(each) for each in zip(*found, strict=True)))


def _of_one(*seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b = (each - each.flatten(1).mean(1).view(-1, *[1] * (each.ndim - 1)) for each in seen)
    products = torch.stack([torch.ones_like(a), a, b, a * a, b * b, a * b], 1)
    whole = products.flatten(2).sum(2, keepdim=True)
    z = _of_two_halves(whole)[:, 0]
    error = torch.stack([_error(whole, _tiled(products, count)) for count in _TILES]).amax(0)
    return z.tanh(), (z - _WITHIN * error).tanh(), (z + _WITHIN * error).tanh()


def _of_two_halves(sums: Tensor) -> Tensor:
    """Return Fisher's z of the correlation of whole runs, from sums `(n, 6, k)` over positions of the halves'."""
    count, a, b, aa, bb, ab = sums.unbind(1)
    spread = ((aa - a * a / count) * (bb - b * b / count)).clamp(min=0).sqrt()
    r = (ab - a * b / count) / spread.masked_fill(spread == 0, torch.nan)
    whole = torch.where(r > 0, 2 * r / (1 + r), r)  # negative halves have nothing in common that more samples bring out
    return whole.clamp(-_CLOSE, _CLOSE).atanh()


def _error(whole: Tensor, parts: Tensor) -> Tensor:
    """Return the jackknife's standard error of z, from sums `(n, 6, 1)` over the map and `(n, 6, tiles)` over tiles."""
    tiles = parts.shape[2]
    without = _of_two_halves(whole - parts)
    error = ((without - without.mean(1, keepdim=True)).square().sum(1) * (tiles - 1) / tiles).sqrt()
    return error if tiles >= _FEWEST else torch.full_like(error, torch.nan)


def _tiled(values: Tensor, count: int) -> Tensor:
    """Sum `(n, k, *space)` over tiles: `(n, k, tiles)`, about `count` of them."""
    axes = values.ndim - 2
    each = max(1, round(count ** (1 / axes)))
    for axis in range(2, values.ndim):
        size = values.shape[axis]
        tile = torch.arange(size, device=values.device) * min(each, size) // size
        shape = list(values.shape)
        shape[axis] = min(each, size)
        values = values.new_zeros(shape).index_add_(axis, tile, values)
    return values.flatten(2)


def noise_words(values: Tensor, stderr: Tensor) -> list[str]:
    r"""Say which share of a magnitude noise alone would draw, $\sqrt{2/\pi} \sum_i s_i / \sum_i |A_i|$, from 25% on."""
    size = float(values.double().abs().sum())
    noise = math.sqrt(2 / math.pi) * float(stderr.double().sum())
    share = noise / size if size else math.nan
    return [f"noise alone would draw {min(share, 1):.0%} of the magnitude"] if share >= _MUCH_NOISE else []


def error_as_drawn(value: float) -> str:
    r"""Say how large the standard error is beside the spread of what is drawn, from the correlation of two runs.

    Of independent runs $D = s + e$ of equal noise $\rho = \mathrm{Var}(s) / \mathrm{Var}(D)$, so the share is
    $\sqrt{1 - \rho}$; "" where the correlation is unknown or none.
    """
    return f", standard error {math.sqrt(1 - value):.0%} of the spread" if 0 < value <= 1 else ""


def two_runs(value: float, low: float, high: float) -> str:
    """Say how steady a map is: `two runs would correlate 0.96 (0.94 to 0.97)`."""
    if math.isnan(value):
        return "two runs: correlation unknown"
    between = "" if math.isnan(low) else f" ({_shown(low)} to {_shown(high)})"
    return f"two runs would correlate {_shown(value)}{between}"


def _shown(value: float) -> str:
    """Write a correlation with two digits, near 1 with three, cut so that none is said to be higher than it is."""
    digits = 3 if value > 0.99 else 2
    return f"{math.floor(value * 10**digits) / 10**digits:.{digits}f}"
