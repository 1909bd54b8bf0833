"""What is read at layers: their outputs, and the gradients of the scores there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .layers import Layer
from .runner import Outcome


@dataclass(frozen=True)
class Activation:
    """A layer's maps at some rows and the gradient of the scores with respect to them.

    `values` and `gradient` are `(rows, channels, *space)`; `gradient` is None where none was taken.
    """

    layer: Layer
    values: Tensor
    gradient: Tensor | None

    @property
    def name(self) -> str:
        """The layer's dotted name."""
        return self.layer.name

    @staticmethod
    def of(layer: Layer, outcomes: Sequence[Outcome], gradient: bool) -> Activation:
        """Join the layer's outputs from several passes, with `gradient` their gradients too, and read them as maps."""
        name, maps = layer.name, layer.maps
        values = maps(torch.cat([outcome.activations[name] for outcome in outcomes]))
        slopes = maps(torch.cat([outcome.layer_gradients[name] for outcome in outcomes])) if gradient else None
        return Activation(layer, values, slopes)


@dataclass(frozen=True)
class GradientPass:
    """One pass of `Score.gradients_at`.

    `position` `(rows,)`: the example of the batch that each row belongs to. `scores` `(rows,)`; `gradient`
    `(rows, *features)` of the scores with respect to the rows. `runs`: for each layer, by name, a pair (output,
    gradient of the scores with respect to it), both `(rows, *layer)`, of each time that the layer ran, in order.
    """

    position: Tensor
    scores: Tensor
    gradient: Tensor
    runs: dict[str, list[tuple[Tensor, Tensor]]]

    @staticmethod
    def of(position: Tensor, outcome: Outcome, layers: Sequence[str]) -> GradientPass:
        """Sort what a pass with `captured_runs` found by layer."""
        assert outcome.gradient is not None
        runs: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}
        for key, output in outcome.activations.items():
            runs[key.rpartition("#")[0]].append((output, outcome.layer_gradients[key]))
        return GradientPass(position, outcome.scores, outcome.gradient, runs)


def rows_first(outputs: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Return the outputs `name#run` as they are. Raises ValueError for one that does not start with so many rows."""
    for key, output in outputs.items():
        if output.ndim == 0 or len(output) != rows:
            raise ValueError(
                f"layer: {key.rpartition('#')[0]!r} returned {tuple(output.shape)} for {rows} rows; rows must be its "
                "first axis"
            )
    return outputs
