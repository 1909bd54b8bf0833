"""The Score: the one thing a method talks to. Rows in, one number per row out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .passes import Rows, Runner
from .rules import Propagated, Propagation, multipliers
from .rules.engine import OnUncovered
from .targets import Target


@dataclass(frozen=True)
class Activation:
    """A layer's output for some rows, with the gradient of their scores: both `(rows, *layer)`."""

    values: Tensor
    gradient: Tensor


@dataclass(frozen=True, eq=False)
class Score:
    """The scalar score f of a batch of `n` examples under one target.

    Every tensor handed in is aligned with the batch: row i asks about example i. Rows are packed into
    passes of the runner's budget, whatever the batch and the number of points, and counted there.
    `inputs`, `at_inputs`, `gradient_at_inputs`, `layer_at_inputs` (and the same for the baseline)
    are what the shared clean pass found; asking about the very same tensor again costs nothing.
    """

    runner: Runner
    target: Target
    examples: Tensor
    layer: str | None = None
    inputs: Tensor | None = None
    at_inputs: Tensor | None = None
    gradient_at_inputs: Tensor | None = None
    layer_at_inputs: Activation | None = None
    baseline: Tensor | None = None
    at_baseline: Tensor | None = None
    layers_seen: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    def select(self, index: Tensor | Sequence[int]) -> Score:
        """The same question about other rows: row r asks about example `index[r]` of this batch."""
        chosen = torch.as_tensor(index, dtype=torch.long, device=self.examples.device)
        return Score(self.runner, self.target, self.examples[chosen], self.layer, layers_seen=self.layers_seen)

    @property
    def rows_per_pass(self) -> int:
        return self.runner.budget

    def outputs(self, rows: Tensor) -> Tensor:
        """The model's outputs `(n, ...)`, without gradients."""
        found = self.runner.safely(rows, self.examples, lambda r, e: self.runner.once(r, e, self.target))
        return torch.cat([outcome.outputs for outcome in found])

    def values(self, rows: Tensor) -> Tensor:
        """Scores `(n,)` of `rows` `(n, *features)`, without gradients."""
        if rows is self.inputs and self.at_inputs is not None:
            return self.at_inputs
        if rows is self.baseline and self.at_baseline is not None:
            return self.at_baseline
        return self.stream_values([rows])[0]

    def stream_values(self, points: Iterable[Tensor]) -> Tensor:
        """Scores `(points, n)` of a lazy stream of batches `(n, *features)`."""
        passes = list(self.runner.stream(points, self.examples, self.target, gradient=False))
        scores = torch.cat([rows.scores for rows in passes])
        return scores.reshape(-1, len(self))

    def gradient(self, rows: Tensor) -> Tensor:
        """Gradient of the score `(n, *features)` at `rows`."""
        if rows is self.inputs and self.gradient_at_inputs is not None:
            return self.gradient_at_inputs
        return self.weighted_gradient([(rows, 1.0)])

    def stream_gradients(self, points: Iterable[Tensor]) -> Iterator[Rows]:
        """Scores and gradients of a lazy stream of batches, a pass at a time."""
        return self.runner.stream(points, self.examples, self.target, gradient=True)

    def weighted_gradient(self, points: Iterable[tuple[Tensor, float]]) -> Tensor:
        """Sum of weight times gradient over a lazy stream of (batch, weight); memory doesn't grow with its length."""
        weights: list[float] = []

        def batches() -> Iterator[Tensor]:
            for batch, weight in points:
                weights.append(weight)
                yield batch

        total: Tensor | None = None
        dtype = torch.float32
        for rows in self.stream_gradients(batches()):
            assert rows.gradient is not None
            if total is None:
                dtype = result_dtype(rows.gradient)
                total = rows.gradient.new_zeros((len(self), *rows.gradient.shape[1:]), dtype=sum_dtype(rows.gradient))
            weight = torch.tensor([weights[int(step)] for step in rows.step], dtype=total.dtype, device=total.device)
            weighted = rows.gradient.to(total.dtype) * weight.view(-1, *[1] * (total.ndim - 1))
            total.index_add_(0, rows.position, weighted)
        if total is None:
            raise ValueError("score: no points to take a gradient at")
        return total.to(dtype)

    def propagate(
        self, rows: Tensor, rules: Propagation, reference: Tensor | None, on_uncovered: OnUncovered
    ) -> Propagated:
        """A backward pass by rules at `rows`; `reference` `(n, *features)` where the rules compare with one."""

        def by_rules(forward: Callable[[Tensor], Tensor], part: Tensor, other: Tensor | None) -> Propagated:
            return multipliers(forward, part, rules, reference=other, on_uncovered=on_uncovered)

        return self.propagate_by(by_rules, rows, reference)

    def propagate_by(
        self,
        backward: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor | None], Propagated],
        rows: Tensor,
        reference: Tensor | None = None,
        passes: int = 1,
    ) -> Propagated:
        """Run `backward(forward, rows, reference)` in passes within the budget and join what they found.

        `passes` is how many backward passes it makes over its rows, for the count.
        """
        place = torch.arange(len(self), device=rows.device)

        def run(part: Tensor, places: Tensor) -> Propagated:
            other = None if reference is None else reference[places]
            if reference is not None and other is not None and reference.stride(0) == 0:
                other = other[:1]  # one reference for all: its activations are recorded once
            scorer = self.runner.scorer(self.examples[places], self.target)
            one = backward(scorer, part, other)
            self.runner.backward_rows += passes * len(part)
            at_reference = one.reference_score
            if at_reference is not None and len(at_reference) < len(part):
                at_reference = scorer.shared()
            return replace(one, reference_score=at_reference, outputs=scorer.outputs)

        found = list(self.runner.safely(rows, place, run))
        references = [each.reference_score for each in found if each.reference_score is not None]
        outputs = [each.outputs for each in found]
        return Propagated(
            torch.cat([each.values for each in found]).contiguous(),
            torch.cat([each.multiplier for each in found]).contiguous(),
            torch.cat([each.score for each in found]),
            torch.cat(references) if len(references) == len(found) else None,
            tuple(dict.fromkeys(note for each in found for note in each.notes)),
            sum(each.absorbed for each in found),
            torch.cat(outputs) if all(isinstance(each, Tensor) for each in outputs) else None,
        )

    def activations(self, rows: Tensor) -> Activation:
        """The layer's output at `rows` and the gradient of the score with respect to it."""
        if rows is self.inputs and self.layer_at_inputs is not None:
            return self.layer_at_inputs
        layer = self.layer
        if layer is None:
            raise ValueError("layer: this method reads a layer and none was chosen")
        found = list(
            self.runner.safely(
                rows,
                self.examples,
                lambda r, e: self.runner.once(r, e, self.target, layers=(layer,), layer_gradients=True),
            )
        )
        return Activation(
            torch.cat([outcome.activations[layer] for outcome in found]),
            torch.cat([outcome.layer_gradients[layer] for outcome in found]),
        )


def sum_dtype(values: Tensor) -> torch.dtype:
    """The dtype to accumulate in: float64, or float32 for half precision and where the device has no float64."""
    half = values.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half or values.device.type == "mps" else torch.float64


def result_dtype(values: Tensor) -> torch.dtype:
    """Maps of half-precision models are returned in float32, all others in the model's own dtype."""
    return torch.float32 if values.dtype in (torch.float16, torch.bfloat16) else values.dtype
