"""Gradient, path and backward methods for a layer's outputs instead of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import require
from ..base.notes import Note
from ..engine.carried import at_a_layer
from ..engine.layer_maps import Grid, grid_of
from ..engine.score import Score
from ..question.random_streams import Streams
from .backward import Backward
from .base import Estimate, Method, Needs
from .path import IntegratedGradients


@dataclass(frozen=True)
class AtLayer(Method):
    r"""Attribute to a layer's units, by any gradient, path or backward method.

    `inner` explains $h \mapsto f(x;\, \mathrm{layer} := h)$ at $h = \mathrm{layer}(x)$.

    The baseline is $\mathrm{layer}(b)$: with IntegratedGradients this is layer integrated gradients, whose sum over
    positions is the contribution of a channel. The whole model runs on x with the layer's output replaced, so skip
    connections around the layer keep their values at x. Complete as `inner` is, with respect to the layer: the values
    sum to $f(x) - f(x;\, \mathrm{layer} := \mathrm{layer}(b))$, which is $f(x) - f(b)$ where all paths run through
    the layer; a note says where they do not.

    A backward method (`DeepLift`, `LRP`, ...) runs through the whole network, from the score to the layer, and stops
    there: its contributions or relevance of the layer's units, and with `DeepLift(multiply=False)` their multipliers.
    Where skip connections run around the layer, DeepLIFT's values sum to what runs through it, and a note says how
    much that is. [shrikumar2017]

    `raw` holds a value per unit `(n, *layer)`. `values` equal it where the layer has the input's shape. For a map over
    the input's positions, `values` `(n, 1, *space)` sum the channels and spread each position's value linearly over
    the pixels, with its sum kept. For other layers they have the layer's shape. `layer` None is the layer of
    `explain(layer=...)`. Raises ValueError for an unknown layer or one that runs more than once. [sundararajan2017]
    [dhamdhere2019]

    >>> ll.explain(model, x, ll.AtLayer(ll.IntegratedGradients(16), "1"), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    inner: Method = field(default_factory=IntegratedGradients)
    layer: str | int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.layer, int):  # the layers of a Sequential have numbers for names
            object.__setattr__(self, "layer", str(self.layer))
        require(isinstance(self.inner, Method), self, "inner", "a method such as IntegratedGradients()")
        needs = self.inner.needs
        fits = needs.gradients and not needs.layer and (not needs.own_scores or isinstance(self.inner, Backward))
        require(fits, self, "inner", "a gradient, path or backward method that reads no layer of its own")

    @property
    def no_sum(self) -> str | None:  # type: ignore[override]  # the inner method's promise
        return self.inner.no_sum

    @property
    def needs(self) -> Needs:
        inner = self.inner.needs
        return Needs(baseline=inner.baseline, references=inner.references, layer=self.layer is None, value=True)

    def rows_at_least(self, features: torch.Size) -> int:
        return self.inner.rows_at_least(features)

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        layer, grid = read_layer(self.layer, score)
        if isinstance(self.inner, Backward):
            found = self.inner.run(replace(score, stops_at=layer), x, baseline, rng)
            notes = self._through(found, layer, score, x, baseline)
            return replace(placed(found, x, layer, grid, notes), layer=layer, own_scores=None, shares=found.shares)
        at_x, needs = score.layer_outputs(x, layer), self.inner.needs
        own = score.values(x)
        inside = replace(score.at_layer(layer, x), inputs=at_x, at_inputs=own)
        notes = []
        at_baseline = torch.zeros_like(at_x)  # a placeholder that is never read
        if needs.references:
            at_baseline = torch.stack([score.layer_outputs(reference, layer) for reference in baseline])
        elif needs.baseline:
            at_baseline = score.layer_outputs(baseline, layer)
            cut = inside.values(at_baseline)
            notes += _around(layer, own, cut, score.values(baseline))
            inside = replace(inside, baseline=at_baseline, at_baseline=cut)
        with at_a_layer():
            found = self.inner.run(inside, at_x, at_baseline, rng)
        return replace(placed(found, x, layer, grid, notes), layer=layer)

    def _through(self, found: Estimate, layer: str, score: Score, x: Tensor, baseline: Tensor) -> list[Note]:
        """Write a note for each example whose promised sum does not all run through the layer."""
        if self.no_sum is not None or found.own_scores is None or found.own_scores.at_baseline is None:
            return []
        change = (found.own_scores.at_inputs - found.own_scores.at_baseline).double()
        own = found.values.double().flatten(1).sum(1)
        notes = []
        for i in ((own - change).abs() > 1e-4 * change.abs()).nonzero()[:, 0].tolist():
            text = f"the score does not all run through {layer}: of its change {float(change[i]):.4g} the values hold"
            notes.append(Note("fact", f"{text} {float(own[i]):.4g}", i))
        return notes


def read_layer(own: str | int | None, score: Score) -> tuple[str, Grid | None]:
    """Return the name of the layer to read, a method's own or the one of `explain(layer=...)`, and its map if known."""
    layer = score.layer if own is None else str(own)
    assert layer is not None  # because of needs.layer
    return layer, {each.name: each.grid for each in score.layers}.get(layer)


def _around(layer: str, at_x: Tensor, cut: Tensor, at_baseline: Tensor) -> list[Note]:
    """Write a note for each example whose score does not all run through the layer."""
    apart = (cut - at_baseline).abs() > 1e-4 * (at_x - at_baseline).abs().maximum(at_baseline.abs())
    notes = []
    for i in apart.nonzero()[:, 0].tolist():
        text = f"the score does not all run through {layer}: with its output at the baseline's it is"
        text += f" {float(cut[i]):.4g}, at the baseline {float(at_baseline[i]):.4g}; the values sum to the change"
        notes.append(Note("fact", f"{text} {float(at_x[i] - cut[i]):.4g} that runs through the layer", i))
    return notes


def placed(found: Estimate, x: Tensor, layer: str, grid: Grid | None, notes: Sequence[str]) -> Estimate:
    """Place the units' values at the input's positions, if the layer has a map over them."""
    raw, notes = found.values, [*notes, *found.notes]
    if raw.shape == x.shape:
        return replace(found, raw=raw, notes=tuple(notes))
    space = x.shape[2:]
    grid = grid or grid_of(tuple(raw.shape[1:]), tuple(space))
    if grid is None or len(grid.space) != len(space):
        notes.append(f"layer {layer}: no map over the input's positions; values have its shape {tuple(raw.shape[1:])}")
        return replace(found, raw=raw, notes=tuple(notes))
    if grid.prefix:
        notes.append(f"layer {layer}: {grid.prefix} prefix tokens have no position; their values are in raw alone")
    values, error = spread(grid.maps(raw).sum(1, keepdim=True), space), found.stderr
    if error is not None:  # the correlation of the channels' errors is unknown; in the worst case they add up
        error = spread(grid.maps(error).sum(1, keepdim=True), space)
        notes.append("stderr is an upper bound: the standard errors of the channels added up")
    return Estimate(values, error, raw, tuple(notes))


def spread(maps: Tensor, space: torch.Size) -> Tensor:
    """Spread values `(n, channels, *map)` linearly over `space`; the shares of a value sum to it."""
    for axis, size in enumerate(space, start=2):
        unit = torch.eye(maps.shape[axis], dtype=maps.dtype, device=maps.device)[None]
        mode = "linear" if size >= maps.shape[axis] else "area"
        shares = F.interpolate(unit, size=size, mode=mode)[0]
        shares = shares / shares.sum(1, keepdim=True)
        maps = (maps.movedim(axis, -1) @ shares).movedim(-1, axis)
    return maps.contiguous()
