"""One pass of the model: which of its rows are equal, what it returns, and what is read at layers."""

from __future__ import annotations

import sys
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

    `shared`: which rows were equal and run once. `outputs` are then those of the distinct rows, all else of all rows.
    """

    outputs: Any
    scores: Tensor
    gradient: Tensor | None = None
    activations: dict[str, Tensor] = field(default_factory=dict)
    layer_gradients: dict[str, Tensor] = field(default_factory=dict)
    shared: SharedRows | None = None

    @property
    def row_outputs(self) -> Any:
        """The outputs of all rows."""
        return self.outputs if self.shared is None else self.outputs[self.shared.index]


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
    def find(rows: Tensor, apart: Tensor | None = None) -> SharedRows | None:
        """Return the distinct rows where equal ones are neighbours; None where no two neighbours are equal.

        `apart` `(rows,)`: rows with other numbers are distinct whatever they hold.
        """
        new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        if rows.stride(0) == 0:
            new[1:] = False
        else:
            new[1:] = (rows[1:] != rows[:-1]).flatten(1).any(1)
        if apart is not None:
            new[1:] |= apart[1:] != apart[:-1]
        return None if bool(new.all()) else SharedRows.of(new.cumsum(0) - 1)

    @staticmethod
    def of(index: Tensor) -> SharedRows:
        """Return what each row's distinct row `(rows,)` says, numbered from 0 in order."""
        new = torch.ones(len(index), dtype=torch.bool, device=index.device)
        new[1:] = index[1:] != index[:-1]
        first = new.nonzero()[:, 0]
        return SharedRows(first, index, torch.arange(len(index), device=index.device) - first[index])

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


@dataclass(frozen=True)
class Merged:
    """Rows of which equal neighbours are held once: row r is `distinct[index[r]]`. All are distinct with index None."""

    distinct: Tensor
    index: Tensor | None = None

    @staticmethod
    def of(rows: Tensor, shared: SharedRows | None) -> Merged:
        return Merged(rows) if shared is None else Merged(rows[shared.first], shared.index)

    def __len__(self) -> int:
        return len(self.distinct if self.index is None else self.index)

    @property
    def rows(self) -> Tensor:
        """All rows, equal ones repeated."""
        return self.distinct if self.index is None else self.distinct[self.index]

    @property
    def shared(self) -> SharedRows | None:
        return None if self.index is None else SharedRows.of(self.index)

    def fitting(self, start: int, distinct: int, rows: int, at_least: bool) -> int:
        """Return how many rows from `start` on, up to `rows`, hold so many distinct ones and all of each.

        With `at_least` those of a first one, however few or many fit.
        """
        if self.index is None:
            return max(int(at_least), min(len(self) - start, distinct, rows))
        _, sizes = self.index[start:].unique_consecutive(return_counts=True)
        ends = sizes[: max(0, distinct)].cumsum(0)
        fit = ends[ends <= rows].tolist() or [int(sizes[0]) if at_least else 0]
        return int(fit[-1])

    def part(self, start: int, size: int) -> Merged:
        """Return `size` rows from `start` on."""
        if self.index is None:
            return Merged(self.distinct[start : start + size])
        own = self.index[start : start + size]
        first, last = int(own[0]), int(own[-1])
        return Merged(self.distinct[first : last + 1], own - first)

    @staticmethod
    def joined(parts: Sequence[Merged]) -> Merged:
        """Put several one after the other."""
        if len(parts) == 1:
            return parts[0]
        distinct = torch.cat([each.distinct for each in parts])
        if all(each.index is None for each in parts):
            return Merged(distinct)
        index, before = [], 0
        for each in parts:
            own = torch.arange(len(each), device=distinct.device) if each.index is None else each.index
            index.append(own + before)
            before += len(each.distinct)
        return Merged(distinct, torch.cat(index))


@dataclass(frozen=True)
class FullPass:
    """The rows of one pass, each with its batch `step` and its example `position`, both `(rows,)`."""

    rows: Merged
    step: Tensor
    position: Tensor


def full_passes(
    points: Iterable[Tensor | tuple[Tensor, Tensor]],
    budget: Callable[[], int],
    find: Callable[[Tensor, Tensor], SharedRows | None] = lambda *_: None,
    readers: int | None = None,
) -> Iterator[FullPass]:
    """Yield the rows of a lazy stream of batches in passes of `budget()` distinct rows.

    A batch has a row for each example, or goes with the numbers `(rows,)` of those that its rows belong to. `find`
    tells its equal rows. With `readers` a pass has at most so many times as many rows as distinct ones may be, unless
    it has a single distinct one.
    """
    held: list[FullPass] = []
    distinct = rows = 0
    for step, each in enumerate(points):
        batch, examples = each if isinstance(each, tuple) else (each, torch.arange(len(each), device=each.device))
        merged, start = Merged.of(batch, find(batch, examples)), 0
        while start < len(merged):
            most_rows = budget() * readers if readers else sys.maxsize
            size = merged.fitting(start, budget() - distinct, most_rows - rows, at_least=not held)
            if size:
                part, position = merged.part(start, size), examples[start : start + size]
                held.append(FullPass(part, torch.full_like(position, step), position))
                start, distinct, rows = start + size, distinct + len(part.distinct), rows + size
            if not size or distinct >= budget():
                yield _joined(held)
                held, distinct, rows = [], 0, 0
    if held:
        yield _joined(held)


def _joined(held: Sequence[FullPass]) -> FullPass:
    step, position = (torch.cat([getattr(each, name) for each in held]) for name in ("step", "position"))
    return FullPass(Merged.joined([each.rows for each in held]), step, position)


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
