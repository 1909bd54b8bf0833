"""Players of series and of channels, and the players where none are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ..base.named import is_whole, require
from .players import Features, Grid, Pixels, Players

MOST_WINDOWS = 16  # of a series where no length is given, the most that every game can play exactly


@dataclass(frozen=True)
class Windows(Players):
    """Each window of `length` neighbouring positions of a series is a player, with all its channels.

    None is a sixteenth of the series, rounded up: at most 16 windows; the last one may be shorter. With `starts`, such
    as (0, 40, 55), a window begins at each of these positions, and one at 0 in any case. With `channels` each channel
    of a window is a player by itself. Inputs are `(batch, channels, length)`, or `(batch, length)` for columns in order
    such as a spectrum. Raises ValueError for other inputs and for a start beyond the series. [nayebi2023] [bento2021]
    """

    length: int | None = None
    starts: tuple[int, ...] | None = field(default=None, kw_only=True)
    channels: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        require(self.length is None or is_whole(self.length, 1), self, "length", "1 or more positions, or None")
        require(isinstance(self.channels, bool), self, "channels", "True or False")
        if self.starts is None:
            return
        require(self.length is None, self, "length", "None where starts= says where windows begin")
        fits = isinstance(self.starts, tuple | list) and all(is_whole(each, 0) for each in self.starts)
        fits = fits and all(before < after for before, after in pairwise(self.starts))
        require(fits and len(self.starts) > 0, self, "starts", "rising positions such as (0, 40, 55)")
        object.__setattr__(self, "starts", tuple(self.starts))

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        window = self._windows(x.shape[1:]).to(x.device)
        if x.ndim == 2:
            return window.expand(x.shape)
        if not self.channels:
            return window.expand(len(x), 1, -1)
        apart = torch.arange(x.shape[1], device=x.device)[:, None] * (int(window[-1]) + 1)
        return (apart + window).expand(x.shape)

    def count(self, features: torch.Size) -> int:
        windows = int(self._windows(features)[-1]) + 1
        return windows * features[0] if self.channels and len(features) > 1 else windows

    def _windows(self, features: torch.Size) -> Tensor:
        """Return the number of each position's window, `(length,)`."""
        if len(features) > 2:
            raise ValueError(
                f"players: {self!r} are of series (batch, channels, length), an example has shape {tuple(features)}; "
                "use Grid()"
            )
        length = features[-1]
        if self.starts is None:
            return torch.arange(length) // (self.length or -(-length // MOST_WINDOWS))
        if self.starts[-1] >= length:
            raise ValueError(
                f"players: Windows.starts={self.starts}: a window begins at {self.starts[-1]}, and the series has "
                f"positions 0 to {length - 1}"
            )
        inner = [each for each in self.starts if each > 0]
        return torch.bucketize(torch.arange(length), torch.tensor(inner, dtype=torch.long), right=True)


@dataclass(frozen=True)
class Channels(Players):
    """Each channel is a player with all its positions: a sensor of a series, a band of a picture. [bento2021]"""

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        count = self.count(x.shape[1:])
        return torch.arange(count, device=x.device).view(-1, *[1] * (x.ndim - 2)).expand(x.shape)

    def count(self, features: torch.Size) -> int:
        if len(features) < 2:
            raise ValueError(
                f"players: {self!r} needs inputs (batch, channels, *positions), an example has shape "
                f"{tuple(features)}; use Features() for each column"
            )
        return features[0]


def default_players(features: torch.Size, cells: int) -> Players:
    """Return a grid of `cells` along each axis for pictures `(channels, H, W)`, and of about as many cells in all for
    volumes; each position with its channels for series `(channels, length)`, and windows of a longer one, as many as a
    picture has cells or 16; each column of a table `(columns,)`."""
    axes = len(features) - 1
    if axes < 1:
        return Features()
    if axes == 1:
        most = max(cells**2, MOST_WINDOWS)
        return Pixels() if features[1] <= most else Windows(-(-features[1] // most))
    return Grid(max(1, round(cells ** (2 / axes))))
