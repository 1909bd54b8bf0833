"""Running means and variances, per example, in float64 and in a fixed order."""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.score import result_dtype, sum_dtype


class Moments:
    """Welford's mean and sum of squared deviations for each example of a batch; numerically stable."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self.count = torch.zeros(len(like), dtype=sum_dtype(like), device=like.device)
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        return result_dtype(self._like)

    def add(self, examples: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in one value `(rows, *shape)` each for distinct `examples` `(rows,)`.

        Returns the deviations from the mean before and after: their products with another quantity's
        are what a covariance is accumulated from.
        """
        values = values.to(self.count.dtype)
        if self._mean is None or self._squares is None:
            self._mean = values.new_zeros((len(self.count), *values.shape[1:]))
            self._squares = torch.zeros_like(self._mean)
        self.count[examples] += 1
        before = values - self._mean[examples]
        self._mean[examples] += before / column(self.count[examples], values)
        after = values - self._mean[examples]
        self._squares[examples] += before * after
        return before, after

    def exact_mean(self) -> Tensor:
        assert self._mean is not None
        return self._mean

    def squares(self) -> Tensor:
        """Sum of squared deviations from the mean."""
        assert self._squares is not None
        return self._squares

    def column(self) -> Tensor:
        """Counts, shaped to broadcast over the values."""
        return column(self.count, self.squares())

    def mean(self) -> Tensor:
        return self.exact_mean().to(self.dtype)

    def variance(self) -> Tensor:
        """Of the population: the mean squared deviation."""
        return (self.squares() / self.column()).to(self.dtype)

    def standard_error(self) -> Tensor:
        """Of the mean, from the sample variance; NaN after a single value."""
        count = self.column()
        return (self.squares() / ((count - 1) * count)).sqrt().to(self.dtype)


def column(per_example: Tensor, like: Tensor) -> Tensor:
    """One number an example, shaped to broadcast over `like`."""
    return per_example.view(-1, *[1] * (like.ndim - 1))


def spread_over(x: Tensor) -> Tensor:
    """max(x) - min(x) of each example, shaped to broadcast over its features."""
    flat = x.flatten(1)
    return column(flat.amax(1) - flat.amin(1), x)
