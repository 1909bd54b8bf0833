"""Inputs as a display shows them: 8 bits a channel, clipped where they leave its range."""

from __future__ import annotations

import torch
from torch import Tensor

BRIGHTEST = 2.0  # up to which values from 0 on are pixels in [0, 1] that were brightened


def on_display(inputs: Tensor, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return inputs `(n, channels, *space)` as uint8 of one or three channels, and the share of clipped pixels `(n,)`.

    Black and white of each example are those of `like`, by default of the inputs themselves: 0 and 1 where its values
    lie between them, or from 0 up to 2 as of a brightened picture, else its own extremes. Beyond them values are
    clipped, so that a brighter input never looks darker. A pixel is clipped where one of its channels is. Of more than
    three channels the first three are shown, of two the first. NaN is black.

    >>> on_display(torch.tensor([[[0.0, 0.5, 1.5]]]))[0].tolist()
    [[[0, 128, 255]]]
    """
    shown, scale = chosen_bands(inputs).detach().cpu().double(), chosen_bands(inputs if like is None else like)
    low, high = (each.view(-1, *[1] * (shown.ndim - 1)) for each in display_range(scale))
    beyond = ((shown < low) | (shown > high)).any(1).flatten(1)
    values = (shown.nan_to_num(-torch.inf, torch.inf, -torch.inf) - low) / (high - low)
    return (255 * values.clamp(0, 1)).round().byte(), beyond.double().mean(1)


def chosen_bands(inputs: Tensor) -> Tensor:
    """Return the channels of `(n, channels, *space)` that are shown: one or three, of two the first."""
    channels = inputs.shape[1]
    return inputs if channels in (1, 3) else inputs[:, : 3 if channels > 3 else 1]


def display_range(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is shown black and white, `(n,)` each, for inputs `(n, channels, *space)`."""
    flat = inputs.detach().cpu().double().flatten(1)
    finite = flat.isfinite()
    low = flat.masked_fill(~finite, torch.inf).amin(1)
    high = flat.masked_fill(~finite, -torch.inf).amax(1)
    as_pixels = ((low >= 0) & (high <= BRIGHTEST)) | ~finite.any(1)
    low, high = low.masked_fill(as_pixels, 0.0), high.masked_fill(as_pixels, 1.0)
    return low, torch.where(high > low, high, low + 1)
