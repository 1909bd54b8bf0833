"""Running moments of a score with many masks' positions, for slopes and their standard errors."""

from __future__ import annotations

import torch
from torch import Tensor


class MixedMoments:
    r"""Sums of $a^j g^k$ for each position: a = m - p is how visible it is, g = f - f_0 the score, f_0 the first one.

    Shifted by p, the masks' mean, and by f_0, the sums cancel little; everything is in float64.
    """

    def __init__(self, mean: float, positions: int, device: torch.device) -> None:
        self._mean, self._shift, self.count = mean, torch.zeros(()), 0
        self._sums = torch.zeros(5, 3, positions, dtype=torch.float64, device=device)

    def add(self, masks: Tensor, scores: Tensor) -> None:
        """Take in `masks` `(k, positions)` and their `scores` `(k,)`."""
        if self.count == 0:
            self._shift = scores[0].double()
        self.count += len(masks)
        g = scores.double() - self._shift
        powers = torch.stack([torch.ones_like(g), g, g**2])
        a = masks.double() - self._mean
        raised = torch.ones_like(a)
        for j in range(5):
            self._sums[j] += powers @ raised
            raised = raised * a

    def _means(self) -> Tensor:
        return self._sums / self.count

    def variance(self) -> Tensor:
        m = self._means()
        return m[2, 0] - m[1, 0] ** 2

    def slope(self) -> tuple[Tensor, Tensor]:
        r"""Slopes $\beta$ = Cov(f, m) / Var(m) and their standard errors, robust to unequal variances.

        $$\mathrm{se}^2 = \frac{\sum_k a_k^2\,(g_k - \beta a_k)^2}{(\sum_k a_k^2)^2} \cdot \frac{N}{N - 2}$$

        with a and g centred at their means.
        """
        m = self._means()
        u, v = m[1, 0], m[0, 1]
        variance = self.variance()
        slope = (m[1, 1] - u * v) / variance
        both = m[2, 2] - 2 * v * m[2, 1] + v**2 * m[2, 0] - 2 * u * m[1, 2] + 4 * u * v * m[1, 1]
        both = both + u**2 * m[0, 2] - 3 * u**2 * v**2
        cubed = m[3, 1] - v * m[3, 0] - 3 * u * m[2, 1] + 3 * u * v * m[2, 0] + 3 * u**2 * m[1, 1] - 3 * u**3 * v
        fourth = m[4, 0] - 4 * u * m[3, 0] + 6 * u**2 * m[2, 0] - 3 * u**4
        residual = (both - 2 * slope * cubed + slope**2 * fourth).clamp(min=0)
        return slope, (residual / (self.count - 2)).sqrt() / variance

    def plain(self) -> tuple[Tensor, Tensor]:
        """Means of f m / p and their standard errors."""
        m, p, f = self._means(), self._mean, self._shift
        mean = m[1, 1] + p * m[0, 1] + f * (m[1, 0] + p)
        square = sum(
            times_a * times_g * m[j, k]
            for j, times_a in ((2, 1.0), (1, 2 * p), (0, p**2))
            for k, times_g in ((2, 1.0), (1, 2 * f), (0, f**2))
        )
        spread = (square - mean**2).clamp(min=0)
        return mean / p, (spread / (self.count - 1)).sqrt() / p
