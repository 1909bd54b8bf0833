"""Occlusion by a sliding window and feature ablation: the loss of score where a part of the input is hidden."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..base.named import is_whole, require
from ..base.notes import Note
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.players import Players, Segments
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs
from .coalitions import GameMethod
from .moments import column

Size = int | tuple[int, ...]


@dataclass(frozen=True)
class Occlusion(Method):
    r"""The loss of score where a window that slides over the input is filled from the baseline.

    $$d_w = f(x) - f(x \text{ with window } w \text{ filled}), \qquad A_i = \frac1{|W_i|}\sum_{w \in W_i} d_w$$

    over the windows $W_i$ that cover position i; with `reduce="sum"`, their sum. `window` and `stride` are in
    positions, one number or one per spatial axis. The last window is moved back to end at the border. A window larger
    than the input is cut to it, and a note says so. All channels are hidden at once, so the map has a channel axis
    of 1; `channels="each"` hides them one at a time. [zeiler2014]

    With `incremental`, a module runs on pictures `(channels, H, W)` by exact incremental inference: while operators act
    locally, it computes only the positions that a window can reach. The map is the same up to rounding. A window counts
    as one row, however few positions it needs. `notes` name the operators from which on whole rows were needed.
    """

    window: Size = 32
    stride: Size = 16
    reduce: Literal["mean", "sum"] = "mean"
    channels: Literal["together", "each"] = "together"
    incremental: bool = True

    no_sum: ClassVar[str | None] = "windows overlap, so the losses they cause add up to no total"
    needs: ClassVar[Needs] = Needs(gradients=False, value=True, baseline=True)

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            value = getattr(self, name)
            sizes = value if isinstance(value, tuple) else (value,)
            require(all(is_whole(size, 1) for size in sizes), self, name, "1 or more positions")
        require(self.reduce in ("mean", "sum"), self, "reduce", "'mean' or 'sum'")
        require(self.channels in ("together", "each"), self, "channels", "'together' or 'each'")

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
            boxes = [(channels, ys, xs) for _, channels, ys, xs in windows]
            found, whole = score.box_values(x, baseline, boxes)
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
            last = max(size - window, 0)
            starts = [*range(0, last, stride), last]
            axes.append([slice(start, start + window) for start in starts])
        if len(features) > 1:
            each = self.channels == "each"
            axes.insert(0, [slice(c, c + 1) for c in range(features[0])] if each else [slice(None)])
        for place in product(*axes):
            yield (slice(None), *place)

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
