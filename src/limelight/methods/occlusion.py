"""Occlusion by a sliding window and feature ablation: the loss of score where a part of the input is hidden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..base.named import LATER, is_whole, require
from ..base.notes import Note
from ..engine.incremental import Box
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.baselines import Baseline
from ..question.players import Players, Segments
from ..question.random_streams import Streams
from ..question.registries import as_baseline
from .base import Estimate, Method, Needs
from .coalitions import GameMethod
from .moments import column
from .windows import Border, Place, Slices, Window, WindowMask, default_sizes, hides, require_window, slid, spatial

Size = int | tuple[int, ...]


@dataclass(frozen=True)
class Occlusion(Method):
    r"""The loss of score where a window that slides over the input is filled from the baseline.

    $$d_w = f(x) - f(x \text{ with window } w \text{ filled}), \qquad A_i = \frac1{|W_i|}\sum_{w \in W_i} d_w$$

    over the windows $W_i$ that cover position i; with `reduce="sum"`, their sum. `window` and `stride` are in
    positions, one number or one per spatial axis. A window larger than the input is cut to it, and a note says so. All
    channels are hidden at once, so the map has a channel axis of 1; `channels="each"` hides them one at a time.
    [zeiler2014]

    Without `window`, it follows from the input: 32 x 32 on pictures, and a seventh of each side where the shorter one
    is below 64; a seventh of each axis of a volume; a sixteenth of a series `(channels, length)`; one token; one
    column of a table. Without `stride`, that is half the window. `window` may also be a `Circle(16)`, or a mask
    `(height, width)` that is not 0 where the window hides. `fill` is a baseline such as `Blur(5)` for the windows
    alone, None takes the question's; in text `"occlusion(window=circle(16), fill=blur(5))"`.

    `raw` `(n, *places)` is $d_w$ on the grid of the windows' places, `(n, channels, *places)` for `channels="each"`,
    NaN where a mask hides nothing. The score with a window hidden is f(x) minus it, for the target `probability` the
    class's probability: see `limelight.window_scores`.

    `border` is what is done along an axis of n positions where (n - window) / stride is no whole number, so that the
    windows 0, stride, 2 stride, ... do not end at the border. "move" moves the last window back to end there: all
    windows have one size, and the last two overlap more than the others. "cut" leaves it in its place and cuts off what
    reaches beyond, as Captum does: the last window is smaller. "centre" shifts the whole row of windows back by half of
    what reaches beyond, rounded down, and cuts off both ends. Windows without gaps (stride up to window) give the
    mirrored map for the mirrored picture of a mirrored network where they end at the border by themselves; with "move"
    also where there are two, and with "centre" also where the number of positions that reach beyond is even. Else the
    map favours the first rows and columns.

    With `incremental`, a module runs on pictures `(channels, H, W)` by exact incremental inference: while operators act
    locally, it computes only the positions that a box can reach. The map is the same up to rounding. A window counts
    as one row, however few positions it needs. `notes` name the operators from which on whole rows were needed.

    >>> ll.explain(model, x, ll.Occlusion(window=4, stride=2), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    by_part: ClassVar[bool] = True
    window: Size | Window | Tensor | None = None
    stride: Size | None = None
    reduce: Literal["mean", "sum"] = "mean"
    channels: Literal["together", "each"] = "together"
    incremental: bool = True
    border: Border = "move"
    fill: Baseline | None = field(default=None, kw_only=True, metadata=LATER)

    no_sum: ClassVar[str | None] = "windows overlap, so the losses they cause add up to no total"
    other_names: ClassVar[Mapping[str, str]] = {"sliding_window_shapes": "window"}
    needs: ClassVar[Needs] = Needs(gradients=False, value=True, baseline=True)

    def __post_init__(self) -> None:
        if isinstance(self.window, Tensor | list) or (isinstance(self.window, tuple) and _nested(self.window)):
            object.__setattr__(self, "window", WindowMask(torch.as_tensor(self.window)))
        require_window(self, self.window)
        strides = self.stride if isinstance(self.stride, tuple) else (self.stride,)
        fits = self.stride is None or all(is_whole(each, 1) for each in strides)
        require(fits, self, "stride", "1 or more positions")
        require(self.reduce in ("mean", "sum"), self, "reduce", "'mean' or 'sum'")
        require(self.channels in ("together", "each"), self, "channels", "'together' or 'each'")
        require(self.border in get_args(Border), self, "border", "'move', 'cut' or 'centre'")
        if self.fill is not None:
            object.__setattr__(self, "fill", as_baseline(self.fill))

    def of_tokens(self) -> Method:
        return self if self.window is not None else replace(self, window=1)

    def rows(self, features: torch.Size) -> int | None:
        return len(list(self._windows(features)))

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        features = x.shape[1:]
        windows = list(self._windows(features))
        if self.fill is not None:
            baseline = self._filling(x, rng)
        scores, how = self._scores(score, x, baseline, windows)
        lost = (score.values(x) - scores).to(sum_dtype(x))
        together = len(features) > 1 and self.channels == "together"
        total = torch.zeros((len(x), 1, *features[1:]) if together else x.shape, dtype=lost.dtype, device=x.device)
        cover = torch.zeros(total.shape[1:], dtype=lost.dtype, device=x.device)
        for (box, mask), each in zip(windows, lost, strict=True):
            hidden = torch.ones((), dtype=lost.dtype, device=x.device) if mask is None else mask.to(cover)
            total[(slice(None), *box)] += column(each, x) * hidden
            cover[box] += hidden
        # A stride above the window leaves positions uncovered: their value is unknown and stays 0.
        values = total / cover.clamp(min=1) if self.reduce == "mean" else total
        raw = self._on_grid(features, lost).to(result_dtype(x))
        return Estimate(values.to(result_dtype(x)), raw=raw, notes=(*self._notes(features, cover), *how))

    def _filling(self, x: Tensor, rng: Streams) -> Tensor:
        assert self.fill is not None
        found = self.fill.references(x, rng.fork("baseline"))
        if len(found) > 1:
            raise ValueError(
                f"Occlusion.fill={self.fill!r}: gives {len(found)} references; give it as baseline, over "
                "which maps are averaged"
            )
        return found[0]

    def _on_grid(self, features: torch.Size, lost: Tensor) -> Tensor:
        """Place what each window costs `(windows, n)` on the grid of their places, NaN where one hides nothing."""
        space = spatial(features)
        hiding = hides(space, *self._sizes(features), self.border, self._mask(space))
        if len(features) > 1 and self.channels == "each":
            hiding = hiding.expand(features[0], *hiding.shape)
        grid = lost.new_full((lost.shape[1], *hiding.shape), torch.nan)
        grid[:, hiding.to(lost.device)] = lost.T
        return grid

    def _mask(self, space: torch.Size) -> Tensor | None:
        return self.window.mask(len(space)) if isinstance(self.window, Window) else None

    def _scores(
        self, score: Score, x: Tensor, baseline: Tensor, windows: Sequence[Place]
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Return scores `(windows, n)` with each window hidden, and a note on how they were computed."""
        boxes = all(mask is None for _, mask in windows)
        if self.incremental and boxes and x.ndim == 4 and score.runs_boxes:
            found, whole = _box_values(score, x, baseline, [(channels, ys, xs) for (channels, ys, xs), _ in windows])
            return found, (f"incremental rows, whole from {', '.join(whole) or 'none'}",)

        def hidden() -> Iterator[Tensor]:
            for box, mask in windows:
                rows, where = x.clone(), (slice(None), *box)
                filling = baseline[where]
                rows[where] = filling if mask is None else torch.where(mask.to(x.device), filling, x[where])
                yield rows

        # A black box has no rows but whole ones.
        might = self.incremental and boxes and score.runner.differentiable
        return score.stream_values(hidden()), ("whole rows",) if might else ()

    def _windows(self, features: torch.Size) -> Iterator[Place]:
        """Yield the windows as boxes of an example `(*features)`, each with its shape."""
        space = spatial(features)
        found = list(slid(space, *self._sizes(features), self.border, self._mask(space)))
        leads: list[Slices] = [(slice(None),)] if len(features) > 1 else [()]
        if len(features) > 1 and self.channels == "each":
            leads = [(slice(c, c + 1),) for c in range(features[0])]
        for lead in leads:
            for box, inside in found:
                yield Place((*lead, *box), inside)

    def _sizes(self, features: torch.Size) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the sizes of the window and its strides along the spatial axes."""
        space = spatial(features)
        if isinstance(self.window, Window):
            sizes = tuple(self.window.mask(len(space)).shape)
        else:
            sizes = default_sizes(features) if self.window is None else self._per_axis("window", space)
        strides = tuple(max(1, size // 2) for size in sizes)
        return sizes, strides if self.stride is None else self._per_axis("stride", space)

    def _per_axis(self, name: Literal["window", "stride"], space: torch.Size) -> tuple[int, ...]:
        value: Size = getattr(self, name)
        if not isinstance(value, tuple):
            return (int(value),) * len(space)
        wanted = f"one number, or {len(space)} for an input of {tuple(space)}"
        require(len(value) == len(space), self, name, wanted)
        return value

    def _notes(self, features: torch.Size, cover: Tensor) -> tuple[str, ...]:
        space = spatial(features)
        sizes, strides = self._sizes(features)
        notes: list[str] = [] if self.fill is None else [f"windows filled from {self.fill!r}"]
        if any(w > s for w, s in zip(sizes, space, strict=True)):
            text = f"window {self.window} is larger than the input {tuple(space)} and was cut to it; use a smaller one"
            notes.append(text)
        if self.window is None:
            notes.append(f"window {_by(sizes)}, stride {_by(strides)}")
        share = float((cover == 0).cpu().double().mean())
        if share:
            text = f"{share:.0%} of the positions were never hidden (stride above the window) and show 0"
            notes.append(Note("caution", text))
        return tuple(notes)


def _nested(window: tuple[object, ...]) -> bool:
    """Whether a window is a mask in rows, as text has it."""
    return bool(window) and all(isinstance(row, tuple | list) for row in window)


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


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

    The parts are `players`, or integer labels `(*space)` or `(batch, *space)`. None is a 14 x 14 grid for pictures, a
    position of a series with all its channels, a grid of 6 cells along each axis of a volume, a column of a table.
    `raw` `(n, parts)` holds one value a part, `values` shares it equally among the part's positions. One row a part.
    [zeiler2014]

    >>> ll.explain(model, x, ll.FeatureAblation(ll.Grid(4)), target=2).raw.shape
    torch.Size([2, 16])
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
