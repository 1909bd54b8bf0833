"""One pass of the model: which of its rows are equal, what it returns, and what is read at layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..base.errors import NO_GRADIENT, NoGradient
from .graph import Inspected
from .layers import Layer

Source = tuple[Tensor, Callable[[Tensor], Tensor]]  # what a gradient is taken at, and what views it by rows


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

    def gradients(self, scores: Tensor, sources: Sequence[Source]) -> list[Tensor | None]:
        """Return d scores / d sources `(rows, ...)` at sources `(distinct, ...)`, by a backward pass for each rank."""
        tensors = [each for each, _ in sources]
        found: list[Tensor | None] = [None] * len(sources)
        for rank in range(int(self.rank.max()) + 1):
            chosen = self.rank == rank
            more = bool((self.rank > rank).any())
            slopes = torch.autograd.grad(scores[chosen].sum(), tensors, retain_graph=more, allow_unused=True)
            for i, (given, (_, view)) in enumerate(zip(slopes, sources, strict=True)):
                if given is None:
                    continue
                slope = view(given)
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


def row_gradients(
    graph: Inspected, sources: Sequence[Source], examples: Tensor, shared: SharedRows | None
) -> list[Tensor]:
    """Return the gradient of each row's score at each source, checked; zeros where there is none.

    A source is a tensor, and what views it and its gradient with the rows as its first axis. Raises NoGradient.
    """
    tensors = [each for each, _ in sources]
    if not graph.carries_gradient(tensors):
        raise NoGradient(NO_GRADIENT)
    scores = graph.scores
    found: list[Tensor | None]
    if shared is None:
        slopes = torch.autograd.grad(scores.sum(), tensors, allow_unused=True)
        found = [None if slope is None else view(slope) for slope, (_, view) in zip(slopes, sources, strict=True)]
    else:
        found = shared.gradients(scores, sources)
    viewed = [view(each) for each, view in sources]
    grads = [
        source.new_zeros((max(len(scores), len(source)), *source.shape[1:])) if slope is None else slope.detach()
        for source, slope in zip(viewed, found, strict=True)
    ]
    for grad in grads:
        require_finite(grad, examples, "gradient")
    return grads


def full_passes(
    points: Iterable[Tensor | tuple[Tensor, Tensor]], budget: Callable[[], int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the rows of a lazy stream of batches in passes of `budget()`, with each row's batch and example.

    A batch has a row for each example, or goes with the numbers `(rows,)` of those that its rows belong to.
    """
    held: list[tuple[Tensor, Tensor, Tensor]] = []
    count = 0
    for step, each in enumerate(points):
        batch, examples = each if isinstance(each, tuple) else (each, torch.arange(len(each), device=each.device))
        start, n = 0, len(batch)
        while start < n:
            take = min(n - start, budget() - count)
            position = examples[start : start + take]
            held.append((batch[start : start + take], torch.full_like(position, step), position))
            start, count = start + take, count + take
            if count >= budget():
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(held: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    rows, step, position = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*held, strict=True))
    return rows, step, position


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
