"""XRAI: regions of the picture, ranked by the attribution in them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import LATER, is_finite, require, require_whole
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.players import Felzenszwalb, Players, Segments
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs
from .path import IntegratedGradients

_SMOOTHING, _SMALLEST = 0.8, 150  # of the segmentation, in pixels and in pixels of area, as published


@dataclass(frozen=True)
class XRAI(Method):
    r"""Rank regions by the mean attribution of the pixels that each adds, and give a pixel the value of its region.

    $$s^* = \arg\max_s \frac1{|s \setminus C|} \sum_{p \in s \setminus C} M_p, \quad
      A_p = \frac1{|s^* \setminus C|} \sum_{q \in s^* \setminus C} M_q \ \text{ for } p \in s^* \setminus C$$

    with M the map of `inner`, channels summed (`colours="max"`: the largest of them, as in the authors' code), and C
    the pixels covered so far; pixels outside all segments are a last segment. `extremes` averages M over two baselines,
    each picture's darkest and brightest value, as published; False uses the baseline of `explain()`.

    Segments are Felzenszwalb's at each of `scales`, grown by `dilation` pixels and dropped once they would add fewer
    than `least` pixels; that needs scikit-image, the extra `segments`. `segments=` takes a label map or other players
    instead, unchanged. A ranking of regions `(n, 1, H, W)` that keeps the sum of M in each. Raises ValueError for
    inputs that are not pictures. [kapishnikov2019]

    >>> ll.explain(model, x, ll.XRAI(segments=ll.Grid(4)), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    by_part: ClassVar[bool] = True
    pictures_only: ClassVar[bool] = True
    inner: Method = field(default_factory=IntegratedGradients)
    segments: Players | Tensor | None = None
    extremes: bool = True
    scales: tuple[float, ...] = (50.0, 100.0, 150.0, 250.0, 500.0, 1200.0)
    dilation: int = 5
    least: int = 50
    colours: Literal["sum", "max"] = field(default="sum", kw_only=True, metadata=LATER)

    no_sum: ClassVar[str | None] = "XRAI ranks regions"

    def __post_init__(self) -> None:
        require(isinstance(self.inner, Method), self, "inner", "a method such as IntegratedGradients()")
        if isinstance(self.segments, Tensor):
            object.__setattr__(self, "segments", Segments(self.segments))
        players = self.segments is None or isinstance(self.segments, Players)
        require(players, self, "segments", "an integer label map (H, W), players such as Grid(7), or None")
        scales = self.scales if isinstance(self.scales, tuple | list) else ()
        positive = len(scales) > 0 and all(is_finite(scale) and scale > 0 for scale in scales)
        require(positive, self, "scales", "one or more positive numbers")
        require_whole(self, "dilation", 0)
        require_whole(self, "least", 0)
        require(self.colours in ("sum", "max"), self, "colours", "'sum' or 'max'")

    @property
    def needs(self) -> Needs:
        compares = self.inner.needs.baseline and not self.extremes
        return replace(self.inner.needs, baseline=compares, references=compares, own_scores=False)

    def rows(self, features: torch.Size) -> int | None:
        inner, needs = self.inner.rows(features), self.inner.needs
        if inner is None or not needs.baseline:
            return inner
        own = needs.references or not self.extremes or needs.at_inputs or needs.value_at_baseline
        return None if own else 2 * inner

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        if x.ndim != 4:
            raise ValueError(
                f"inputs: shape {tuple(x.shape)}; XRAI ranks regions of pictures (batch, channels, H, W); "
                "use IntegratedGradients, or FeatureAblation(players)"
            )
        maps, notes = self._maps(score, x, baseline, rng)
        values = [_ranked(each, *self._masks(x[i : i + 1], score.examples[i : i + 1])) for i, each in enumerate(maps)]
        return Estimate(torch.stack(values)[:, None].to(result_dtype(x)), notes=notes)

    def _maps(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> tuple[Tensor, tuple[str, ...]]:
        """Return M `(n, H, W)`, in float64 where the device has it, and the notes of the inner method."""
        references = baseline if self.needs.references else baseline[None]
        if self.extremes:
            ends = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
            references = torch.stack([end.expand_as(x) for end in ends])
        if self.inner.needs.references:
            found = [self.inner.run(score, x, references, rng)]
        elif not self.inner.needs.baseline:
            found = [self.inner.run(score, x, references[0], rng)]
        else:
            own = replace(score, baseline=None, at_baseline=None)
            found = [self.inner.run(own, x, reference, rng) for reference in references]
        values = torch.stack([each.values for each in found]).mean(0)
        values = values.to(sum_dtype(x))
        notes = (note for each in found for note in (*each.notes, *(each.shares.notes() if each.shares else ())))
        return values.sum(1) if self.colours == "sum" else values.amax(1), tuple(dict.fromkeys(notes))

    def _masks(self, picture: Tensor, example: Tensor) -> tuple[Tensor, int]:
        """Return segments `(segments, H, W)` of a picture `(1, channels, H, W)`, and the fewest pixels one must add."""
        if isinstance(self.segments, Players):
            return _masks_of(self.segments, picture, example), 1
        found = [_masks_of(Felzenszwalb(scale, _SMOOTHING, _SMALLEST), picture, example) for scale in self.scales]
        return torch.cat([_dilated(masks, self.dilation) for masks in found]), self.least


def _masks_of(players: Players, picture: Tensor, example: Tensor) -> Tensor:
    division = players.divide(picture, example)
    if division.labels.shape[1] != 1:
        raise ValueError(f"XRAI.segments={players!r} divides channels; use players of whole pixels, such as Grid(14)")
    labels = division.labels[0, 0].expand(picture.shape[2:])
    return labels == torch.arange(division.counts[0], device=labels.device)[:, None, None]


def _dilated(masks: Tensor, radius: int) -> Tensor:
    """Dilate each mask by a disk, one row of the disk at a time."""
    height, width = masks.shape[1:]
    side, reach = min(radius, width), min(radius, height - 1)  # a disk may be larger than the picture
    until = F.pad(masks, (side + 1, side)).cumsum(2, dtype=torch.int32)  # pixels of the mask up to each position
    grown = masks.clone()
    for dy in range(-reach, reach + 1):
        half = min(math.isqrt(radius**2 - dy**2), side)
        last, before = side + 1 + half, side - half
        wide = until[..., last : last + width] > until[..., before : before + width]
        grown[:, max(dy, 0) : height + min(dy, 0)] |= wide[:, max(-dy, 0) : height - max(dy, 0)]
    return grown


def _ranked(maps: Tensor, masks: Tensor, least: int) -> Tensor:
    """Return each pixel's value `(H, W)`: greedily from the segment with the highest mean of `maps` over new pixels."""
    value, flat = maps.flatten(), masks.flatten(1)
    left = torch.ones_like(value, dtype=torch.bool)
    result = torch.zeros_like(value)
    count, total = flat.sum(1), (flat * value).sum(1)
    while bool((count >= least).any()):
        mean = torch.where(count >= least, total / count.clamp(min=1), -torch.inf)
        chosen = int(mean.argmax())
        new = flat[chosen] & left
        result[new] = value[new].mean()
        left &= ~new
        # Subtract the pixels just covered from the sums of the others.
        count = count - flat[:, new].sum(1)
        total = total - (flat[:, new] * value[new]).sum(1)
    if bool(left.any()):
        result[left] = value[left].mean()
    return result.view_as(maps)
