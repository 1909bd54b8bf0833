"""Running moments of maps and of a score with masks, in float64 and in a fixed order."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..engine.carried import ranges_of_parts
from ..engine.score import result_dtype, sum_dtype

STILL = 1e-12
"""The variance of a position's visibility below which all masks agree there."""


class Moments:
    """Welford's mean and sum of squared deviations for each example of a batch; numerically stable.

    `in_halves=False` sums no second half, for methods that say nothing of two runs.
    """

    def __init__(self, like: Tensor, in_halves: bool = True) -> None:
        self.in_halves = in_halves
        self.dtype = result_dtype(like)
        self.count = torch.zeros(len(like), dtype=sum_dtype(like), device=like.device)
        self.in_second = torch.zeros_like(self.count)
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None
        self._second = torch.zeros(0)

    def add(self, examples: Tensor, values: Tensor, second: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Add one value `(rows, *shape)` each of distinct `examples` `(rows,)`.

        `second` `(rows,)` marks those of the second half, by default every second value of an example.
        Returns the deviations from the mean before and after; their products with another quantity's accumulate the
        covariance.
        """
        values = values.to(self.count.dtype)
        if self._mean is None or self._squares is None:
            self._mean = values.new_zeros((len(self.count), *values.shape[1:]))
            self._squares = torch.zeros_like(self._mean)
            self._second = torch.zeros_like(self._mean) if self.in_halves else self._second
        self.count[examples] += 1
        if self.in_halves:
            apart = self.count[examples] % 2 == 0 if second is None else second
            self.in_second[examples[apart]] += 1
            self._second[examples[apart]] += values[apart]
        before = values - self._mean[examples]
        self._mean[examples] += before / column(self.count[examples], values)
        after = values - self._mean[examples]
        self._squares[examples] += before * after
        return before, after

    def exact_mean(self) -> Tensor:
        assert self._mean is not None
        return self._mean

    def squares(self) -> Tensor:
        """Return the sum of squared deviations from the mean."""
        assert self._squares is not None
        return self._squares

    def column(self) -> Tensor:
        """Return the counts, shaped to broadcast over the values."""
        return column(self.count, self.squares())

    def mean(self) -> Tensor:
        return self.exact_mean().to(self.dtype)

    def halves(self) -> tuple[Tensor, Tensor] | None:
        """Return the means of the first and of the second half; None where an example's half is empty."""
        first, second = self.count - self.in_second, self.in_second
        if not bool(((first > 0) & (second > 0)).all()):
            return None
        rest = self.column() * self.exact_mean() - self._second
        return rest / column(first, rest), self._second / column(second, rest)

    def variance(self) -> Tensor:
        """Return the population variance: the mean squared deviation."""
        return (self.squares() / self.column()).to(self.dtype)

    def standard_error(self) -> Tensor:
        """Return the standard error of the mean, from the sample variance; NaN after a single value."""
        count = self.column()
        return (self.squares() / ((count - 1) * count)).sqrt().to(self.dtype)


def column(per_example: Tensor, like: Tensor) -> Tensor:
    """Reshape one number an example to broadcast over `like`."""
    return per_example.view(-1, *[1] * (like.ndim - 1))


def spread_over(x: Tensor) -> Tensor:
    """Return max(x) - min(x) of each example, shaped to broadcast over x; of several parts, of each by itself."""
    found = ranges_of_parts(x)
    if found is not None:
        return found
    flat = x.flatten(1)
    return column(flat.amax(1) - flat.amin(1), x)


class MixedMoments:
    r"""Sums of $a^j g^k$ for each position: a = m - p for the mask m there, g = f - f_0 for the score f.

    The shifts by the masks' mean p and by the first score f_0 avoid cancellation; everything is in float64.
    """

    def __init__(self, mean: float, positions: int, device: torch.device) -> None:
        self._mean, self._shift, self.count = mean, torch.zeros(()), 0
        self.largest = 0.0  # of the absolute scores
        self._sums = torch.zeros(5, 3, positions, dtype=torch.float64, device=device)
        self._second, self._in_second = torch.zeros_like(self._sums[:3, :2]), 0  # those of every second mask

    def add(self, masks: Tensor, scores: Tensor) -> None:
        """Add `masks` `(k, positions)` and their `scores` `(k,)`."""
        if self.count == 0:
            self._shift = scores[0].double()
        apart = slice(1 - self.count % 2, None, 2)
        self.count += len(masks)
        self.largest = max(self.largest, float(scores.abs().amax()))
        g = scores.double() - self._shift
        powers = torch.stack([torch.ones_like(g), g, g**2])
        a = masks.double() - self._mean
        raised = torch.ones_like(a)
        for j in range(5):
            self._sums[j] += powers @ raised
            raised = raised * a
        own = a[apart]
        self._in_second += len(own)
        for j in range(3):
            self._second[j] += powers[:2, apart] @ own**j

    def halves(self, centred: bool) -> tuple[Tensor, Tensor]:
        """Return the map of the first and of the second half of the masks, NaN where a half determines none."""
        found = []
        for sums, count in (
            (self._sums[:3, :2] - self._second, self.count - self._in_second),
            (self._second, self._in_second),
        ):
            m = sums / max(1, count)
            if count < 2 or (centred and not bool((m[2, 0] - m[1, 0] ** 2 > STILL).all())):
                return (torch.full_like(self._sums[0, 0], torch.nan),) * 2
            found.append(_slope(m) if centred else self._product(m) / self._mean)
        return found[0], found[1]

    def raised(self, by: float) -> MixedMoments:
        """Return a copy in which all scores are larger by a constant."""
        found = copy.copy(self)
        found._sums, found._second, found._shift = self._sums.clone(), self._second.clone(), self._shift + by
        return found

    def _means(self) -> Tensor:
        return self._sums / self.count

    def variance(self) -> Tensor:
        m = self._means()
        return m[2, 0] - m[1, 0] ** 2

    def slope(self) -> tuple[Tensor, Tensor]:
        r"""Return slopes $\beta$ = Cov(f, m) / Var(m) and their standard errors, robust to unequal variances.

        $$\mathrm{se}^2 = \frac{\sum_k a_k^2\,(g_k - \beta a_k)^2}{(\sum_k a_k^2)^2} \cdot \frac{N}{N - 2}$$

        with a and g centred at their means.
        """
        m = self._means()
        u, v = m[1, 0], m[0, 1]
        variance, slope = self.variance(), _slope(m)
        both = m[2, 2] - 2 * v * m[2, 1] + v**2 * m[2, 0] - 2 * u * m[1, 2] + 4 * u * v * m[1, 1]
        both = both + u**2 * m[0, 2] - 3 * u**2 * v**2
        cubed = m[3, 1] - v * m[3, 0] - 3 * u * m[2, 1] + 3 * u * v * m[2, 0] + 3 * u**2 * m[1, 1] - 3 * u**3 * v
        fourth = m[4, 0] - 4 * u * m[3, 0] + 6 * u**2 * m[2, 0] - 3 * u**4
        residual = (both - 2 * slope * cubed + slope**2 * fourth).clamp(min=0)
        return slope, (residual / (self.count - 2)).sqrt() / variance

    def plain(self) -> tuple[Tensor, Tensor]:
        """Return means of f m / p and their standard errors."""
        m, p, f = self._means(), self._mean, self._shift
        mean = self._product(m)
        square = sum(
            times_a * times_g * m[j, k]
            for j, times_a in ((2, 1.0), (1, 2 * p), (0, p**2))
            for k, times_g in ((2, 1.0), (1, 2 * f), (0, f**2))
        )
        spread = (square - mean**2).clamp(min=0)
        return mean / p, (spread / (self.count - 1)).sqrt() / p

    def _product(self, m: Tensor) -> Tensor:
        """Return the mean of f m from the means of powers."""
        return m[1, 1] + self._mean * m[0, 1] + self._shift * (m[1, 0] + self._mean)


def _slope(m: Tensor) -> Tensor:
    """Return Cov(f, m) / Var(m) from the means of powers."""
    return (m[1, 1] - m[1, 0] * m[0, 1]) / (m[2, 0] - m[1, 0] ** 2)
