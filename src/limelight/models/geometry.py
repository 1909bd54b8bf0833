"""The way from a picture to a model's input, and of a map back to the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """The transform from a picture to a model's input: resized to `resized`, then cropped to `crop`.

    Sizes are (width, height); `crop` is (left, top, right, bottom) in pixels of the resized picture.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]

    def original_box(self) -> tuple[float, float, float, float]:
        """Return the crop as (left, top, right, bottom) in pixels of the original picture."""
        across, down = self.original[0] / self.resized[0], self.original[1] / self.resized[1]
        left, top, right, bottom = self.crop
        return left * across, top * down, right * across, bottom * down

    def to_original(self, values: Tensor) -> Tensor:
        """Resample a map (..., h, w) that covers the crop to the original's pixels: (..., height, width).

        Bilinear, averaging where the original is the coarser of the two; NaN at pixels wholly outside the
        crop. h and w needn't be the crop's: a 7 x 7 map of activations is accepted too.

        Raises ValueError for a map that isn't floating or has fewer than two axes.
        """
        if values.ndim < 2 or not values.is_floating_point():
            raise ValueError(
                f"values has shape {tuple(values.shape)} and dtype {values.dtype}; "
                "pass a floating-point map (..., h, w)"
            )
        left, top, right, bottom = self.crop
        rows = _resampling(self.original[1], self.resized[1], top, bottom, values.shape[-2]).to(values)
        columns = _resampling(self.original[0], self.resized[0], left, right, values.shape[-1]).to(values)
        return rows @ values @ columns.T


def _resampling(original: int, resized: int, start: int, stop: int, cells: int) -> Tensor:
    """Return one axis of `Geometry.to_original` as weights (original, cells); a pixel outside has a row of NaN.

    A triangle as wide as the coarser of pixel and cell, its weights summing to one: Pillow's bilinear filter.
    """
    pixels = torch.arange(original, dtype=torch.float64)
    cells_per_pixel = resized / original * cells / (stop - start)
    centres = ((pixels + 0.5) * resized / original - start) * cells / (stop - start) - 0.5
    distances = (centres.clamp(0, cells - 1)[:, None] - torch.arange(cells)).abs()
    weights = (1 - distances / max(1.0, cells_per_pixel)).clamp(min=0)
    outside = ((pixels + 1) * resized <= start * original) | (pixels * resized >= stop * original)
    return (weights / weights.sum(1, keepdim=True)).masked_fill(outside[:, None], math.nan)
