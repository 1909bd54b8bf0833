"""Inputs as a display shows them: 8 bits a channel, clipped where they leave its range."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_WIDEST = 1.25  # between the ends of most values: what a display's range of 1 holds, with some noise
_MOST_CLIPPED = 0.25


def on_display(inputs: Tensor, like: Tensor | None = None, clip: bool | None = None) -> tuple[Tensor, Tensor]:
    """Return inputs `(n, channels, *space)` as uint8 of one or three channels, and the share of clipped pixels `(n,)`.

    Black and white of each example are those of `like`, by default of the inputs themselves: see `display_range`.
    Beyond them values are clipped, so that a brighter input never looks darker. A pixel is clipped where one of its
    channels is. Of more than three channels the first three are shown, of two the first. NaN is black.

    >>> on_display(torch.tensor([[[0.0, 0.5, 1.5]]]), clip=True)[0].tolist()
    [[[0, 128, 255]]]
    """
    shown, scale = chosen_bands(inputs).detach().cpu().double(), chosen_bands(inputs if like is None else like)
    low, high = (each.view(-1, *[1] * (shown.ndim - 1)) for each in display_range(scale, clip))
    beyond = ((shown < low) | (shown > high)).any(1).flatten(1)
    values = (shown.nan_to_num(-torch.inf, torch.inf, -torch.inf) - low) / (high - low)
    return (255 * values.clamp(0, 1)).round().byte(), beyond.double().mean(1)


def chosen_bands(inputs: Tensor) -> Tensor:
    """Return the channels of `(n, channels, *space)` that are shown: one or three, of two the first."""
    channels = inputs.shape[1]
    return inputs if channels in (1, 3) else inputs[:, : 3 if channels > 3 else 1]


def display_range(inputs: Tensor, clip: bool | None = None) -> tuple[Tensor, Tensor]:
    """Return what is shown black and white, `(n,)` each, for inputs `(n, channels, *space)`: 0 and 1, or own extremes.

    `clip`: whether 0 and 1 it is. None: unless the inputs are no brightness of a display, where more than a quarter of
    the values lie beyond [0, 1] and 96 of 100 span more than 1.25, as after a normalisation. A constant added to a
    picture never makes it so.
    """
    ends = [_ends(each, clip) for each in inputs.detach().cpu().double().flatten(1)]
    low, high = torch.tensor(ends, dtype=torch.float64).reshape(-1, 2).unbind(1)
    return low, high


def _ends(values: Tensor, clip: bool | None) -> tuple[float, float]:
    finite = values[values.isfinite()].numpy()
    if clip or not finite.size or (finite.min() >= 0 and finite.max() <= 1):
        return 0.0, 1.0
    if clip is None:
        beyond = float(((finite < 0) | (finite > 1)).mean())
        most = np.percentile(finite, [2, 98])
        if beyond <= _MOST_CLIPPED or float(most[1] - most[0]) <= _WIDEST:
            return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return low, high if high > low else low + 1
