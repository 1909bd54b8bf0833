"""Baselines of series: a channel's mean, a straight line over each segment, the series at another time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..base.named import require_whole
from .baselines import Baseline
from .players import Players, require_players
from .random_streams import Streams
from .series_players import Windows


@dataclass(frozen=True)
class ChannelMean(Baseline):
    r"""Each channel's own mean over its positions, $b_{ct} = \frac1T \sum_s x_{cs}$, for each example. [schlegel2019]

    Inputs are `(batch, channels, *positions)`. Raises ValueError for a table, whose columns have no common mean.
    """

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        _require_positions(inputs, self, "Mean(data), Median(data) or Samples(data)")
        return inputs.mean(tuple(range(2, inputs.ndim)), keepdim=True).expand_as(inputs)[None]


@dataclass(frozen=True)
class Interpolation(Baseline):
    r"""Each segment of a series replaced by the straight line between the positions beside it.

    $$b_t = x_{s-1} + \frac{t - s + 1}{e - s + 1}\,(x_e - x_{s-1}) \quad\text{for a segment } s \le t < e$$

    A segment at an end of the series continues the one position beside it; one that is the whole series is its mean.
    The segments are the runs of equal `players` along the last axis; give those of the game, `Windows(8)` for
    `KernelShap(players=Windows(8))`, so that what is absent is replaced whole. Nothing jumps where a segment is alone
    in being absent; a peak at the border of two absent segments stays as the point where their lines meet. Inputs are
    `(batch, channels, length)`. Raises ValueError for others.
    """

    players: Players = field(default_factory=Windows)

    def __post_init__(self) -> None:
        require_players(self, "Windows(8)")

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        _require_positions(inputs, self, "Mean(data), Median(data) or Samples(data)")
        if inputs.ndim != 3:
            raise ValueError(
                f"baseline: {self!r} needs series (batch, channels, length), inputs have shape {tuple(inputs.shape)}; "
                "use SegmentMean(Grid()) or Blur()"
            )
        labels = self.players.divide(inputs, torch.arange(len(inputs), device=inputs.device)).labels
        length, place = inputs.shape[-1], torch.arange(inputs.shape[-1], device=inputs.device).expand(inputs.shape)
        begins = torch.ones_like(labels, dtype=torch.bool)
        begins[..., 1:] = labels[..., 1:] != labels[..., :-1]
        ends = begins.roll(-1, -1)
        begins, ends = begins.expand(inputs.shape), ends.expand(inputs.shape)
        start = torch.where(begins, place, 0).cummax(-1).values
        stop = torch.where(ends, place + 1, length).flip(-1).cummin(-1).values.flip(-1)
        before, after = inputs.gather(-1, (start - 1).clamp(min=0)), inputs.gather(-1, stop.clamp(max=length - 1))
        before, after = torch.where(start > 0, before, after), torch.where(stop < length, after, before)
        share = (place - start + 1).to(inputs) / (stop - start + 1).to(inputs)
        line = torch.lerp(before, after, share)
        whole = (start == 0) & (stop == length)
        return torch.where(whole, inputs.mean(-1, keepdim=True), line)[None]


@dataclass(frozen=True)
class CircularShift(Baseline):
    """`samples` circular shifts of each series: what stands at each position comes from another time of the series.

    The shifts are distinct, at random, and the same for all channels, so that a segment's replacement has the
    distribution of the series, its smoothness, and its relation between channels; what is lost is the place in time.
    Of a series of T positions there are T - 1 shifts, of which a short one takes all. Inputs are
    `(batch, channels, length)`. Raises ValueError for others and for a single position.
    """

    samples: int = 8

    def __post_init__(self) -> None:
        require_whole(self, "samples", 1)

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        if inputs.ndim != 3 or inputs.shape[-1] < 2:
            raise ValueError(
                f"baseline: {self!r} needs series (batch, channels, length) of two positions or more, inputs have "
                f"shape {tuple(inputs.shape)}; use Samples(data)"
            )
        length = inputs.shape[-1]
        shifts = streams.permutation("circular shifts", length - 1)[:, : self.samples].to(inputs.device) + 1
        place = (torch.arange(length, device=inputs.device) - shifts[..., None]) % length
        return inputs.expand(place.shape[1], *inputs.shape).gather(
            -1, place.movedim(1, 0)[:, :, None].expand(-1, -1, inputs.shape[1], -1)
        )


def _require_positions(inputs: Tensor, baseline: Baseline, others: str) -> None:
    if inputs.ndim < 3:
        raise ValueError(
            f"baseline: {baseline!r} needs inputs (batch, channels, *positions), not {tuple(inputs.shape)}; "
            f"use {others}"
        )
