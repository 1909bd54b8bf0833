"""The Score: how a method runs the model.

A method gets a Score f, the inputs x `(n, *features)` and a baseline of the same shape, and returns a map. It never
calls the model itself: it hands rows to the Score, which packs them into passes, counts them and bounds their memory.

    def run(self, score, x, baseline, rng):
        return Estimate((x - baseline) * score.gradient((x + baseline) / 2))    # Estimate: see methods/base.py

**Rows.** A row is one input `(*features)` that the model runs on. Row i of a tensor belongs to example i: it is scored
under that example's target. To run other numbers of rows, take `score.select(index)`, whose row r belongs to example
`index[r]`; to run many rows for each example, use the calls that take a stream of batches.

**Cost.** A row that the model runs on counts as one forward row, and as one backward row too where a gradient is
taken. What a call costs stands in its docstring, for n rows. Equal rows that stand next to each other in a batch, as
those of an example's several targets, run forward once: all their scores are read from one output.

**Free.** `explain()` runs the inputs once for all methods and keeps what their `needs` list. `values(x)` costs nothing
more; neither does `gradient(x)` with `Needs(at_inputs=True)`, `activations(x)` with `Needs(layer=True)` and for its
gradient `at_inputs` too, or `values(baseline)` with `Needs(baseline=True)`. Pass the very tensors that `run` got: equal
copies run again. A method with `Needs(own_scores=True)` reports f(x) from its own rows, and nothing is free for it.

**Errors.** Besides what a call lists, every call that runs the model raises FloatingPointError for NaN or infinity in
the outputs, the scores or a gradient, naming the examples; ValueError where the outputs do not start with one entry
per row, or where a gradient is needed and the scores carry none; ValueError or TypeError for a target that does not
fit the outputs; MemoryError where not even a single row fits. The model's own exceptions pass through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..base.notes import notes_of, renumbered
from ..question.targets import Target, joined_vectors
from ..rules import Propagated, Propagation, multipliers
from ..rules.engine import OnUncovered
from .bfloat16_rows import Bfloat16Rows
from .dtypes import result_dtype as result_dtype, sum_dtype as sum_dtype
from .incremental import Box, box_scores
from .layer_watch import search_layers
from .layers import Layer, LayerInput, Modules, captured_runs, layer_name
from .partial_forward import scores_without
from .passes import Activation as Activation, GradientPass as GradientPass, Merged, Outcome, Rows, rows_first
from .read_scores import read_shared
from .runner import Runner, T
from .scorer import Scorer


@dataclass(frozen=True, eq=False)
class Score:
    """The scalar score f of `n` examples under one target, as a function of rows. Costs and errors: see the module.

    Fields: `target` maps outputs to scores; `examples` `(n,)` are the numbers of the examples in the batch of
    `explain()`; `layers` are the layers that `explain(layer=...)` names or chooses, read where the method needs one.
    The others hold what is known of two tensors and so is free: `inputs` `(n, *features)` with their scores
    `at_inputs` `(n,)`, gradients `gradient_at_inputs` and layers `layers_at_inputs`; `baseline` with its scores
    `at_baseline`. `inside` is set on a Score of a layer, see `at_layer`. `bfloat16` runs rows in that precision where
    the method is to use them, see `methods/two_precision.py`; None otherwise. `stops_at`: the layer at which backward
    passes by rules end, in place of the rows. `classes`: the number of the model's outputs per row; None where it is
    not known or the outputs are no numbers for classes.
    """

    runner: Runner
    target: Target
    examples: Tensor
    layers: tuple[Layer, ...] = ()
    inputs: Tensor | None = None
    at_inputs: Tensor | None = None
    gradient_at_inputs: Tensor | None = None
    layers_at_inputs: tuple[Activation, ...] = ()
    baseline: Tensor | None = None
    at_baseline: Tensor | None = None
    inside: LayerInput | None = None
    bfloat16: Bfloat16Rows | None = None
    stops_at: str | None = None
    classes: int | None = None

    def __len__(self) -> int:
        """Return the number of examples n."""
        return len(self.examples)

    @property
    def layer(self) -> str | None:
        """The name of the one layer to read; None where there is none. Raises ValueError where there are several."""
        if len(self.layers) > 1:
            several = ", ".join(layer.name for layer in self.layers)
            raise ValueError(f"layer: {several}; use a single one, since the method reads one layer")
        return self.layers[0].name if self.layers else None

    def select(self, index: Tensor | Sequence[int]) -> Score:
        """Make a Score of other rows: its row r belongs to example `index[r]`, which may repeat or be left out.

        Free. What is known of the inputs and the baseline is not carried over, so every row of it costs.
        """
        chosen = torch.as_tensor(index, dtype=torch.long, device=self.examples.device)
        inside, own = self.inside.at(chosen) if self.inside else None, self.examples[chosen]
        found = Score(self.runner, self.target, own, self.layers, inside=inside, bfloat16=self.bfloat16)
        return replace(found, stops_at=self.stops_at, classes=self.classes)

    def at_layer(self, layer: str, inputs: Tensor) -> Score:
        """Make a Score whose rows `(n, *layer)` replace the layer's output, while the model runs on `inputs`.

        `inputs` `(n, *features)`: those that the model runs on, one for each row; paths that go around the layer keep
        their values. Free; each row then costs a row of the whole model. Of the calls, `values`, `outputs`,
        `gradient`, `read_by` and the streams work from the layer on. Raises ValueError for an unknown layer, naming
        the nearest ones, and later, when rows run, for a layer that runs more than once or returns another shape.
        """
        name = layer_name(self.runner.modules, layer)
        return Score(self.runner, self.target, self.examples, inside=LayerInput(name, inputs))

    def layer_outputs(self, rows: Tensor, layer: str) -> Tensor:
        """Return the layer's outputs `(n, *layer)` at `rows`, without gradients. Costs n forward rows.

        Rows that are one row, expanded, cost a single forward row. Raises ValueError for an unknown layer, naming the
        nearest ones, for one that does not run or runs more than once, and where outputs do not start with the rows.
        """
        name = layer_name(self.runner.modules, layer)
        distinct = rows[:1] if rows.stride(0) == 0 and not self.runner.given else rows
        found = self.runner.safely(
            distinct, self.examples[: len(distinct)], lambda r, e: self.runner.once(r, e, self.target, layers=(name,))
        )
        outputs = torch.cat([outcome.activations[name] for outcome in found])
        rows_first({name: outputs}, len(distinct))
        return outputs if len(distinct) == len(rows) else outputs.expand(len(rows), *outputs.shape[1:])

    @property
    def module(self) -> nn.Module:
        """The module that runs: a frozen copy of the user's model in eval mode, to be read and never changed."""
        return self.runner.module

    @property
    def model(self) -> nn.Module:
        """The user's module itself, with the weights that it has: to be read, and neither run nor changed."""
        assert isinstance(self.runner.model, nn.Module)
        return self.runner.model

    @property
    def modules(self) -> Modules:
        """The modules of `module` by dotted name, itself under ""; a compiled one is the one it was made of."""
        return self.runner.modules

    @property
    def rows_per_pass(self) -> int:
        """The most rows that one pass holds at present; a method that makes its own rows makes so many at a time."""
        return self.runner.budget

    def outputs(self, rows: Tensor) -> Tensor:
        """Return the model's outputs `(n, ...)` at `rows` `(n, *features)`, without gradients. Costs n forward rows.

        For models that return a tensor; `values` is what the target makes of the outputs.
        """

        def run(part: Tensor, places: Tensor) -> Outcome:
            inside = self.inside.at(places) if self.inside else None
            return self.runner.once(part, self.examples[places], self.target, inside=inside)

        return torch.cat([outcome.row_outputs for outcome in self._by_place(rows, run, merges=True)])

    def values(self, rows: Tensor) -> Tensor:
        """Return the scores `(n,)` of `rows` `(n, *features)`, without gradients.

        Costs n forward rows; free for the inputs and the baseline themselves.
        """
        if rows is self.inputs and self.at_inputs is not None:
            return self.at_inputs
        if rows is self.baseline and self.at_baseline is not None:
            return self.at_baseline
        return self.stream_values([rows])[0]

    def stream_values(self, points: Iterable[Tensor], bfloat16: bool = False) -> Tensor:
        """Return the scores `(k, n)` of a stream of k batches `(n, *features)`. Costs k n forward rows.

        The stream is read lazily and its rows are packed into full passes, so a generator holds little memory. With
        `bfloat16`, where the Score has it, rows are computed in that precision, and scores may be NaN.
        """
        once = self.bfloat16.once if bfloat16 and self.bfloat16 else None
        found = self.runner.stream(points, self.examples, self.target, gradient=False, inside=self.inside, once=once)
        return torch.cat([rows.scores for rows in found]).reshape(-1, len(self))

    @property
    def runs_boxes(self) -> bool:
        """Whether `box_values` can be used: not for black boxes, at a layer, or with several targets an example."""
        return self.runner.differentiable and self.inside is None and self.runner.targets == 1

    def box_values(self, x: Tensor, filling: Tensor, boxes: Sequence[Box]) -> tuple[Tensor, tuple[str, ...]]:
        """Return the scores `(boxes, n)` of pictures with one box at a time filled from `filling`.

        x and `filling` are `(n, channels, H, W)`; a box is a slice of channels, of rows and of columns. Exact, by
        incremental inference: in the model's spatial part only the positions that a box can reach are computed. A box
        counts as a forward row of each example. Also returns the names of the operators that had to compute whole rows.
        """
        return box_scores(self.runner, self.target, self.examples, x, filling, boxes)

    def read_by(self, rows: Tensor, readers: Tensor, bfloat16: bool = False) -> Tensor:
        """Return the scores `(k, n)` of `rows` `(n, *features)` under the targets of k examples for each row.

        `readers` `(k, n)`: numbers of examples, as in `examples`, which differ in their target alone. Costs n forward
        rows, whatever k. With a target that reads a layer k must be 1. `bfloat16` as in `stream_values`.
        """
        once = self.bfloat16.once if bfloat16 and self.bfloat16 else None
        places = torch.arange(len(rows), device=rows.device).repeat_interleave(len(readers))
        owners = readers.T.flatten().to(places.device)

        def run(part: Merged, read: Tensor) -> Tensor:
            first = read if part.shared is None else read[part.shared.first]
            if once is not None:
                outputs = once(part.distinct, owners[first], self.target).outputs
                return read_shared(lambda o, e, t: t(o, e).to(rows), outputs, part.shared, owners[read], self.target)
            inside = self.inside.at(places[first]) if self.inside else None
            return self.runner.once(part, owners[read], self.target, inside=inside).scores

        every = Merged(rows, places if len(readers) > 1 else None)
        found = list(self.runner.in_passes(every, torch.arange(len(owners), device=rows.device), run))
        return torch.cat(found).reshape(-1, len(readers)).T

    def gradient(self, rows: Tensor) -> Tensor:
        """Return the gradient of each score with respect to its row, `(n, *features)`, at `rows`.

        Costs n forward and n backward rows; free for the inputs themselves with `Needs(at_inputs=True)`.
        """
        if rows is self.inputs and self.gradient_at_inputs is not None:
            return self.gradient_at_inputs
        return self.weighted_gradient([(rows, 1.0)])

    def stream_gradients(self, points: Iterable[Tensor]) -> Iterator[Rows]:
        """Yield scores and gradients of a stream of k batches `(n, *features)`, a pass at a time.

        Each pass is a `Rows`: row r is the batch `step[r]` at example `position[r]`, with its `scores` and
        `gradient`. Costs k n forward and k n backward rows. The stream is read lazily.
        """
        return self.runner.stream(points, self.examples, self.target, gradient=True, inside=self.inside)

    def weighted_gradient(self, points: Iterable[tuple[Tensor, float]]) -> Tensor:
        """Return the sum of weight times gradient `(n, *features)` over a stream of k pairs (batch, weight).

        Costs k n forward and k n backward rows. The stream is read lazily, and memory does not grow with k; sums are
        kept in float64 where the device has it. Raises ValueError for an empty stream.
        """
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
            weighted = rows.gradient * weight.view(-1, *[1] * (total.ndim - 1))
            total.index_add_(0, rows.position, weighted)
        if total is None:
            raise ValueError("score: no points to take a gradient at")
        return total.to(dtype)

    def gradients_at(self, rows: Tensor, layers: Sequence[str | Layer]) -> Iterator[GradientPass]:
        """Yield the outputs of layers at `rows` and the gradients of the scores there, a pass at a time.

        Layers are given by dotted name and may have outputs of any shape that starts with the rows. Each pass also
        has the scores and the gradient at the rows themselves: see `GradientPass`. A layer that runs several times has
        as many entries in `runs`; one that does not run, or does not depend on the rows, has none. Costs n forward and
        n backward rows, whatever the number of layers, and the memory of their outputs and gradients for one pass.

            for found in score.gradients_at(x, ["conv1"]):
                ((output, gradient),) = found.runs["conv1"]

        Raises ValueError for an unknown layer, naming the nearest ones; for one in TorchScript, one that returns no
        tensor, or a tensor that does not start with the rows; and for a Score of a layer.
        """
        if self.inside:
            raise ValueError(f"layer: gradients_at runs the whole model, not from {self.inside.layer!r} on")
        names = [each.name if isinstance(each, Layer) else layer_name(self.runner.modules, each) for each in layers]

        def run(part: Tensor, position: Tensor) -> GradientPass:
            before = self.runner.forward_rows
            with captured_runs(
                self.runner.modules, names, self.runner.run_on(len(part)), self.runner.frames
            ) as captured:
                outcome = self.runner.once(
                    part,
                    self.examples[position],
                    self.target,
                    gradient=True,
                    layer_gradients=True,
                    also=lambda *_: rows_first(captured, self.runner.forward_rows - before),
                )
            return GradientPass.of(position, outcome, names)

        return self._by_place(rows, run)

    def propagate(
        self, rows: Tensor, rules: Propagation, reference: Tensor | None, on_uncovered: OnUncovered
    ) -> Propagated:
        """Return what a backward pass by rules finds at `rows`: values and multipliers `(n, *features)`, scores `(n,)`.

        `reference` `(n, *features)` is for rules that compare with one. `on_uncovered`: "error" raises
        `UncoveredOperator` at an operator without a rule, "gradient" takes its derivative and adds a note. With
        `stops_at`, values and multipliers are the layer's. Costs n forward and n backward rows, and the reference's
        forward rows, 1 a pass where the rows share it. Raises ValueError for a Score of a layer.
        """

        def by_rules(forward: Scorer, part: Tensor, other: Tensor | None) -> Propagated:
            return multipliers(forward, part, rules, reference=other, on_uncovered=on_uncovered, at=forward.at)

        return self.propagate_by(by_rules, rows, reference)

    def propagate_by(
        self,
        backward: Callable[[Scorer, Tensor, Tensor | None], Propagated],
        rows: Tensor,
        reference: Tensor | None = None,
        passes: int = 1,
    ) -> Propagated:
        """Run `backward(forward, rows, reference)` in passes within the budget and join the results.

        `forward` maps rows to scores with a graph to differentiate, and `forward.at()` is the layer to stop at;
        `passes` is how many backward passes `backward` makes over its rows. Costs the forward rows that it runs and
        `passes` times n backward rows. Raises ValueError for a Score of a layer.
        """
        if self.inside:
            raise ValueError(f"layer: rules run through the whole model, not from {self.inside.layer!r} on")

        def run(part: Tensor, places: Tensor) -> Propagated:
            examples, other = self.examples[places], None
            if reference is not None:
                alike = self.target.reads_alike(examples) and not self.runner.given
                shared = reference.stride(0) == 0 and alike
                other = reference[places[:1] if shared else places]  # of a shared one activations are recorded once
            scorer = Scorer(self.runner, examples, self.target, self.stops_at)
            one = backward(scorer, part, other)
            self.runner.backward_rows += passes * len(part)
            at_reference = one.reference_score
            if at_reference is not None and len(at_reference) < len(part):
                at_reference = scorer.shared()
            outputs = joined_vectors([scorer.outputs], len(part), self.target)
            notes = renumbered(notes_of(one.notes), lambda row: int(places[row]))
            return replace(one, reference_score=at_reference, outputs=outputs, notes=notes)

        found = list(self._by_place(rows, run))
        return replace(
            Propagated.joined(found), outputs=joined_vectors([each.outputs for each in found], len(rows), self.target)
        )

    def activations(self, rows: Tensor, gradient: bool = True) -> tuple[Activation, ...]:
        """Return the maps of each of `layers` at `rows`, with `gradient` the gradient of the scores there too.

        Costs n forward rows, with `gradient` n backward rows; free for the inputs themselves where the method needs
        the layer, and its gradient with `Needs(at_inputs=True)`. Raises ValueError for a layer without a map over the
        input's positions, or one that runs more than once. For other layers, or outputs of any shape: `gradients_at`.
        """
        known = self.layers_at_inputs
        enough = len(known) == len(self.layers) and not (gradient and any(each.gradient is None for each in known))
        if rows is self.inputs and enough:
            return known
        names = tuple(layer.name for layer in self.layers)

        def run(part: Tensor, examples: Tensor) -> Outcome:
            return self.runner.once(part, examples, self.target, layers=names, layer_gradients=gradient)

        found = list(self.runner.safely(rows, self.examples, run, owners=None if gradient else self.examples))
        return tuple(Activation.of(layer, found, gradient) for layer in self.layers)

    def layers_with_gradient(self, rows: Tensor) -> tuple[str, ...]:
        """Name the layers at whose maps the scores of `rows` have a gradient other than zero, in order of use.

        Costs n forward and n backward rows.
        """

        def run(part: Tensor, examples: Tensor) -> list[str]:
            before = self.runner.forward_rows
            with search_layers(self.runner.modules, tuple(rows.shape[1:])) as seen:
                held = partial(seen.held_of, lambda: self.runner.forward_rows - before, self.runner.frames)
                outcome = self.runner.once(part, examples, self.target, layer_gradients=True, also=held)
            slopes = outcome.layer_gradients
            candidates = seen.candidates().items()
            return [name for name, each in candidates if name in slopes and bool(each.grid.maps(slopes[name]).any())]

        names = [name for part in self.runner.safely(rows, self.examples, run) for name in part]
        return tuple(dict.fromkeys(names))

    def values_without(self, rows: Tensor, layer: Layer) -> Tensor:
        """Return the scores `(channels, n)` of `rows` with one channel of the layer's map at a time set to zero.

        The model before the layer runs once, the model after it once for each channel. Costs n and channels times n
        forward rows: a run of the part after the layer counts as a row. Raises ValueError for a layer without a map.
        """
        return scores_without(self.runner, self.target, self.examples, rows, layer)

    def _by_place(self, rows: Tensor, run: Callable[[Tensor, Tensor], T], merges: bool = False) -> Iterator[T]:
        """Yield `run(part of rows, their places among the rows)` pass by pass; `merges`: as `Runner.safely` does."""
        owners = self.examples if merges and self.inside is None else None
        return self.runner.safely(rows, torch.arange(len(rows), device=rows.device), run, owners)
