"""One pass of the model: which of its rows are equal, what it returns, and what is read at layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .layers import Layer


@dataclass(frozen=True)
class Rows:
    """The outcome of one pass: row r is point `step[r]` of example `position[r]` of the batch."""

    step: Tensor
    position: Tensor
    scores: Tensor
    gradient: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """The results of one pass through the model; gradients are of the scores, None where not requested.

    `first`: where equal rows were run once, the index of the first row of each.
    """

    outputs: Any
    scores: Tensor
    gradient: Tensor | None = None
    activations: dict[str, Tensor] = field(default_factory=dict)
    layer_gradients: dict[str, Tensor] = field(default_factory=dict)
    first: Tensor | None = None


@dataclass(frozen=True)
class SharedRows:
    """The distinct rows of a pass.

    `first` `(distinct,)` is the first row of each, `index` `(rows,)` each row's distinct row, and `rank` `(rows,)`
    counts the rows of one distinct row, which have different targets.
    """

    first: Tensor
    index: Tensor
    rank: Tensor

    @staticmethod
    def find(rows: Tensor) -> SharedRows | None:
        """Return the distinct rows where equal ones are neighbours; None where no two neighbours are equal."""
        new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        new[1:] = (rows[1:] != rows[:-1]).flatten(1).any(1)
        if bool(new.all()):
            return None
        first, index = new.nonzero()[:, 0], new.cumsum(0) - 1
        return SharedRows(first, index, torch.arange(len(rows), device=rows.device) - first[index])

    def gradients(self, scores: Tensor, sources: Sequence[Tensor]) -> list[Tensor | None]:
        """Return d scores / d sources `(rows, ...)` at sources `(distinct, ...)`, by a backward pass for each rank."""
        found: list[Tensor | None] = [None] * len(sources)
        for rank in range(int(self.rank.max()) + 1):
            chosen = self.rank == rank
            more = bool((self.rank > rank).any())
            slopes = torch.autograd.grad(scores[chosen].sum(), sources, retain_graph=more, allow_unused=True)
            for i, slope in enumerate(slopes):
                if slope is None:
                    continue
                whole = found[i]
                if whole is None:
                    whole = found[i] = slope.new_zeros((len(self.index), *slope.shape[1:]))
                whole[chosen] = slope[self.index[chosen]]
        return found


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
    """Return the outputs, by `name` or `name#run`. Raises ValueError for one that does not start with so many rows."""
    for key, output in outputs.items():
        if output.ndim == 0 or len(output) != rows:
            name, shape = key.rpartition("#")[0] or key, tuple(output.shape)
            raise ValueError(f"layer: {name!r} returned {shape} for {rows} rows; rows must be its first axis")
    return outputs


def detached(outputs: Any) -> Any:
    """Return outputs without their graph, where they are a tensor."""
    return outputs.detach() if isinstance(outputs, Tensor) else outputs


def require_finite(values: Tensor, examples: Tensor, stage: str) -> None:
    """Raise FloatingPointError that names the examples `(rows,)` whose values are not finite."""
    # A finite sum has only finite terms and takes a fifth of the time; an infinite one may be an overflow.
    if bool(torch.isfinite(values.detach().sum())) or bool(torch.isfinite(values).all()):
        return
    bad = ~torch.isfinite(values).reshape(len(values), -1).all(1)
    which = sorted({int(i) for i in examples[bad.to(examples.device)]})
    raise FloatingPointError(f"{stage}: NaN or infinity for example {', '.join(map(str, which))}")
