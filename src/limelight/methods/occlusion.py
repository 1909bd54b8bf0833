"""Occlusion by a sliding window and feature ablation: the loss of score where a part of the input is hidden."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..base.named import is_whole, require
from ..base.notes import Note
from ..engine.incremental import Box
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.players import Players, Segments
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs
from .coalitions import GameMethod
from .moments import column

Size = int | tuple[int, ...]
Border = Literal["move", "cut", "centre"]


@dataclass(frozen=True)
class Occlusion(Method):
    r"""The loss of score where a window that slides over the input is filled from the baseline.

    $$d_w = f(x) - f(x \text{ with window } w \text{ filled}), \qquad A_i = \frac1{|W_i|}\sum_{w \in W_i} d_w$$

    over the windows $W_i$ that cover position i; with `reduce="sum"`, their sum. `window` and `stride` are in
    positions, one number or one per spatial axis. A window larger than the input is cut to it, and a note says so. All
    channels are hidden at once, so the map has a channel axis of 1; `channels="each"` hides them one at a time.
    [zeiler2014]

    `border` is what is done along an axis of n positions where (n - window) / stride is no whole number, so that the
    windows 0, stride, 2 stride, ... do not end at the border. "move" moves the last window back to end there: all
    windows have one size, and the last two overlap more than the others. "cut" leaves it in its place and cuts off what
    reaches beyond, as Captum does: the last window is smaller. "centre" shifts the whole row of windows back by half of
    what reaches beyond, rounded down, and cuts off both ends. Windows without gaps (stride up to window) give the
    mirrored map for the mirrored picture of a mirrored network where they end at the border by themselves; with "move"
    also where there are two, and with "centre" also where the number of positions that reach beyond is even. Else the
    map favours the first rows and columns.

    With `incremental`, a module runs on pictures `(channels, H, W)` by exact incremental inference: while operators act
    locally, it computes only the positions that a window can reach. The map is the same up to rounding. A window counts
    as one row, however few positions it needs. `notes` name the operators from which on whole rows were needed.
    """

    by_part: ClassVar[bool] = True
    window: Size = 32
    stride: Size = 16
    reduce: Literal["mean", "sum"] = "mean"
    channels: Literal["together", "each"] = "together"
    incremental: bool = True
    border: Border = "move"

    no_sum: ClassVar[str | None] = "windows overlap, so the losses they cause add up to no total"
    needs: ClassVar[Needs] = Needs(gradients=False, value=True, baseline=True)

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            value = getattr(self, name)
            sizes = value if isinstance(value, tuple) else (value,)
            require(all(is_whole(size, 1) for size in sizes), self, name, "1 or more positions")
        require(self.reduce in ("mean", "sum"), self, "reduce", "'mean' or 'sum'")
        require(self.channels in ("together", "each"), self, "channels", "'together' or 'each'")
        require(self.border in get_args(Border), self, "border", "'move', 'cut' or 'centre'")

    def rows(self, features: torch.Size) -> int | None:
        return len(list(self._windows(features)))

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        features = x.shape[1:]
        windows = list(self._windows(features))
        scores, how = self._scores(score, x, baseline, windows)
        lost = (score.values(x) - scores).to(sum_dtype(x))
        together = len(features) > 1 and self.channels == "together"
        total = torch.zeros((len(x), 1, *features[1:]) if together else x.shape, dtype=lost.dtype, device=x.device)
        cover = torch.zeros(total.shape[1:], dtype=lost.dtype, device=x.device)
        for window, each in zip(windows, lost, strict=True):
            total[window] += column(each, x)
            cover[window[1:]] += 1
        # A stride above the window leaves positions uncovered: their value is unknown and stays 0.
        values = total / cover.clamp(min=1) if self.reduce == "mean" else total
        return Estimate(values.to(result_dtype(x)), notes=(*self._notes(features, cover), *how))

    def _scores(
        self, score: Score, x: Tensor, baseline: Tensor, windows: list[tuple[slice, ...]]
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Return scores `(windows, n)` with each window hidden, and a note on how they were computed."""
        if self.incremental and x.ndim == 4 and score.runs_boxes:
            found, whole = _box_values(score, x, baseline, [(channels, ys, xs) for _, channels, ys, xs in windows])
            return found, (f"incremental rows, whole from {', '.join(whole) or 'none'}",)

        def hidden() -> Iterator[Tensor]:
            for window in windows:
                rows = x.clone()
                rows[window] = baseline[window]
                yield rows

        might = self.incremental and score.runner.differentiable  # a black box has no rows but whole ones
        return score.stream_values(hidden()), ("whole rows",) if might else ()

    def _windows(self, features: torch.Size) -> Iterator[tuple[slice, ...]]:
        """Yield slices of a batch `(n, *features)`; without a channel axis, every axis is a spatial one."""
        space = features[1:] if len(features) > 1 else features
        axes = []
        windows, strides = self._per_axis("window", space), self._per_axis("stride", space)
        for size, window, stride in zip(space, windows, strides, strict=True):
            axes.append(self._along(size, min(window, size), stride))
        if len(features) > 1:
            each = self.channels == "each"
            axes.insert(0, [slice(c, c + 1) for c in range(features[0])] if each else [slice(None)])
        for place in product(*axes):
            yield (slice(None), *place)

    def _along(self, size: int, window: int, stride: int) -> list[slice]:
        """Return the windows along an axis of `size` positions."""
        last = size - window
        if self.border == "move":
            return [slice(start, start + window) for start in (*range(0, last, stride), last)]
        steps = -(-last // stride)
        beyond = max(steps * stride - last, 0) // 2 if self.border == "centre" else 0
        starts = [step * stride - beyond for step in range(steps + 1)]
        # With a stride above the window, one that lies wholly beyond the border hides nothing.
        cut = (slice(max(start, 0), min(start + window, size)) for start in starts)
        return [each for each in cut if each.start < each.stop]

    def _per_axis(self, name: str, space: torch.Size) -> tuple[int, ...]:
        value: Size = getattr(self, name)
        if isinstance(value, int):
            return (value,) * len(space)
        wanted = f"one number, or {len(space)} for an input of {tuple(space)}"
        require(len(value) == len(space), self, name, wanted)
        return value

    def _notes(self, features: torch.Size, cover: Tensor) -> tuple[str, ...]:
        space = features[1:] if len(features) > 1 else features
        notes: list[str] = []
        if any(w > s for w, s in zip(self._per_axis("window", space), space, strict=True)):
            text = f"window {self.window} is larger than the input {tuple(space)} and was cut to it; use a smaller one"
            notes.append(text)
        share = float((cover == 0).cpu().double().mean())
        if share:
            text = f"{share:.0%} of the positions were never hidden (stride above the window) and show 0"
            notes.append(Note("caution", text))
        return tuple(notes)


def _box_values(score: Score, x: Tensor, baseline: Tensor, boxes: list[Box]) -> tuple[Tensor, tuple[str, ...]]:
    """Return the scores `(boxes, n)`, and where whole rows were needed; boxes of one size run together."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for place, (_, ys, xs) in enumerate(boxes):
        by_size.setdefault((ys.stop - ys.start, xs.stop - xs.start), []).append(place)
    whole: dict[str, None] = {}
    parts = []
    for places in by_size.values():
        found, names = score.box_values(x, baseline, [boxes[place] for place in places])
        whole |= dict.fromkeys(names)
        parts.append(found)
    order = torch.tensor([place for places in by_size.values() for place in places]).argsort()
    return torch.cat(parts)[order], tuple(whole)


@dataclass(frozen=True)
class FeatureAblation(GameMethod):
    r"""The loss of score where one part of the input is filled from the baseline, for each part by itself.

    $$d_j = f(x) - f(x \text{ with part } j \text{ filled})$$

    The parts are `players`, or integer labels `(*space)` or `(batch, *space)`; None is a 14 x 14 grid for pictures and
    each feature by itself for other inputs. `raw` `(n, parts)` holds one value a part, `values` shares it equally among
    the part's positions. One row a part. [zeiler2014]
    """

    players: Players | None = None

    no_sum: ClassVar[str | None] = "the losses of single parts add up to no total unless parts do not interact"

    def __post_init__(self) -> None:
        if isinstance(self.players, Tensor):
            object.__setattr__(self, "players", Segments(self.players))
        super().__post_init__()

    def rows(self, features: torch.Size) -> int | None:
        count = self.count(features)
        return 0 if count == 1 else count  # without its only part the input is the baseline

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        game = self.game(score, x, baseline, rng)
        worth = game.worth([~torch.eye(count, dtype=torch.bool) for count in game.counts])
        game.enough(all(len(each) == count for each, count in zip(worth, game.counts, strict=True)))
        return game.estimate([full - each for full, each in zip(game.full, worth, strict=True)], None)
