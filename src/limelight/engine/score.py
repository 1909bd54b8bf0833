"""The Score: the one thing a method talks to. Rows in, one number per row out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..question.targets import Target, joined_vectors
from ..rules import Propagated, Propagation, multipliers
from ..rules.engine import OnUncovered
from .incremental import Box, Picture, hidden, in_passes
from .layer_input import LayerInput
from .layer_search import search_layers
from .layers import Layer, layer_name
from .partial_forward import recorded, replayed
from .runner import Outcome, Rows, Runner


@dataclass(frozen=True)
class Activation:
    """A layer's maps for some rows and the gradient of their scores there: both `(rows, channels, *space)`.

    `gradient` is None where nobody asked for it.
    """

    layer: Layer
    values: Tensor
    gradient: Tensor | None

    @property
    def name(self) -> str:
        return self.layer.name

    @staticmethod
    def of(layer: Layer, outcomes: Sequence[Outcome], gradient: bool) -> Activation:
        """What the passes found at the layer, as maps."""
        name, maps = layer.name, layer.maps
        values = maps(torch.cat([outcome.activations[name] for outcome in outcomes]))
        slopes = maps(torch.cat([outcome.layer_gradients[name] for outcome in outcomes])) if gradient else None
        return Activation(layer, values, slopes)


@dataclass(frozen=True, eq=False)
class Score:
    """The scalar score f of a batch of `n` examples under one target.

    Every tensor handed in is aligned with the batch: row i asks about example i. Rows are packed into
    passes of the runner's budget, whatever the batch and the number of points, and counted there.
    `inputs`, `at_inputs`, `gradient_at_inputs`, `layers_at_inputs` (and the same for the baseline)
    are what the shared clean pass found; asking about the very same tensor again costs nothing.
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

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def layer(self) -> str | None:
        """The name of the one layer to read; None where there is none. Raises ValueError where there are several."""
        if len(self.layers) > 1:
            several = ", ".join(layer.name for layer in self.layers)
            raise ValueError(f"layer: {several}; a method that reads one layer is to be told which")
        return self.layers[0].name if self.layers else None

    def select(self, index: Tensor | Sequence[int]) -> Score:
        """The same question about other rows: row r asks about example `index[r]` of this batch."""
        chosen = torch.as_tensor(index, dtype=torch.long, device=self.examples.device)
        inside = self.inside.at(chosen) if self.inside else None
        return Score(self.runner, self.target, self.examples[chosen], self.layers, inside=inside)

    def at_layer(self, layer: str, inputs: Tensor) -> Score:
        """The same question about a layer's outputs: rows are `(n, *layer)`, and the model runs on `inputs`.

        `inputs` `(n, *features)` are each row's own; the whole model runs on them with the layer's output replaced by
        the row, so what goes around the layer stays. Raises ValueError for an unknown layer, with the nearest names.
        """
        name = layer_name(self.runner.module, layer)
        return Score(self.runner, self.target, self.examples, inside=LayerInput(name, inputs))

    def layer_outputs(self, rows: Tensor, layer: str) -> Tensor:
        """What the layer returns `(n, *layer)` at `rows`, without gradients; a row that all share is run once."""
        name = layer_name(self.runner.module, layer)
        asked = rows[:1] if rows.stride(0) == 0 else rows
        found = self.runner.safely(
            asked, self.examples[: len(asked)], lambda r, e: self.runner.once(r, e, self.target, layers=(name,))
        )
        outputs = torch.cat([outcome.activations[name] for outcome in found])
        if len(outputs) != len(asked):
            raise ValueError(
                f"layer: {name!r} returned {tuple(outputs.shape)} for {len(asked)} rows; rows must be its first axis"
            )
        return outputs if len(asked) == len(rows) else outputs.expand(len(rows), *outputs.shape[1:])

    @property
    def module(self) -> nn.Module:
        """The module that runs, the user's frozen twin: to be read, never changed."""
        return self.runner.module

    @property
    def rows_per_pass(self) -> int:
        return self.runner.budget

    def outputs(self, rows: Tensor) -> Tensor:
        """The model's outputs `(n, ...)`, without gradients."""
        places = torch.arange(len(self), device=self.examples.device)

        def run(part: Tensor, at: Tensor) -> Outcome:
            inside = self.inside.at(at) if self.inside else None
            return self.runner.once(part, self.examples[at], self.target, inside=inside)

        found = self.runner.safely(rows, places, run)
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
        passes = list(self.runner.stream(points, self.examples, self.target, gradient=False, inside=self.inside))
        scores = torch.cat([rows.scores for rows in passes])
        return scores.reshape(-1, len(self))

    @property
    def runs_boxes(self) -> bool:
        """Whether `box_values` has a module to run incrementally; rows that several targets share are run whole."""
        return self.runner.differentiable and self.inside is None and not self.runner.shares_points

    def box_values(self, x: Tensor, filling: Tensor, boxes: Sequence[Box]) -> tuple[Tensor, tuple[str, ...]]:
        """Scores `(boxes, n)` of pictures x `(n, channels, H, W)` with one box each filled from `filling`.

        Exact, by incremental inference: in the model's spatial part only what a box can reach is worked out. Each box
        counts as a row, however small its share of one. Also returns the operators that asked for whole rows.
        """
        columns: list[Tensor] = []
        whole: dict[str, None] = {}
        groups = in_passes(boxes, self.runner.budget)
        for i in range(len(self)):
            picture, base, fill = Picture(), x[i : i + 1].clone(), filling[i : i + 1]

            def run(
                index: Tensor,
                examples: Tensor,
                base: Tensor = base,
                fill: Tensor = fill,
                picture: Picture = picture,
            ) -> Tensor:
                picture.next_pass()
                rows = hidden(base, fill, [boxes[b] for b in index.tolist()], picture)
                return self.runner.once(rows, examples, self.target).scores

            scores: Tensor | None = None
            for group in groups:
                owner = self.examples[i].expand(len(group))
                part = torch.cat(list(self.runner.safely(torch.tensor(group), owner, run)))
                scores = part.new_empty(len(boxes)) if scores is None else scores
                scores[group] = part
            assert scores is not None
            columns.append(scores)
            whole |= picture.whole_from
        return torch.stack(columns, 1), tuple(whole)

    def read_by(self, rows: Tensor, readers: Tensor) -> Tensor:
        """Scores `(k, n)` of `rows` `(n, *features)`, each run once and read for k examples `readers` `(k, n)`.

        These are examples of this batch that differ in the target alone. A target that reads a layer has one reader.
        """

        def run(part: Tensor, places: Tensor) -> Tensor:
            asked = readers[:, places]
            inside = self.inside.at(places) if self.inside else None
            outcome = self.runner.once(part, asked[0], self.target, inside=inside)
            others = [self.target(outcome.outputs, each) for each in asked[1:]]
            return torch.stack([outcome.scores, *others])

        return torch.cat(list(self.runner.safely(rows, torch.arange(len(rows), device=rows.device), run)), dim=1)

    def gradient(self, rows: Tensor) -> Tensor:
        """Gradient of the score `(n, *features)` at `rows`."""
        if rows is self.inputs and self.gradient_at_inputs is not None:
            return self.gradient_at_inputs
        return self.weighted_gradient([(rows, 1.0)])

    def stream_gradients(self, points: Iterable[Tensor]) -> Iterator[Rows]:
        """Scores and gradients of a lazy stream of batches, a pass at a time."""
        return self.runner.stream(points, self.examples, self.target, gradient=True, inside=self.inside)

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
            weighted = rows.gradient.to(total.dtype, copy=True).mul_(weight.view(-1, *[1] * (total.ndim - 1)))
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
        if self.inside:
            raise ValueError(f"layer: rules run through the whole model, not from {self.inside.layer!r} on")
        place = torch.arange(len(self), device=rows.device)

        def run(part: Tensor, places: Tensor) -> Propagated:
            examples, other = self.examples[places], None
            if reference is not None:
                shared = reference.stride(0) == 0 and self.target.reads_alike(examples)
                other = reference[places[:1] if shared else places]  # of a shared one activations are recorded once
            scorer = self.runner.scorer(examples, self.target)
            one = backward(scorer, part, other)
            self.runner.backward_rows += passes * len(part)
            at_reference = one.reference_score
            if at_reference is not None and len(at_reference) < len(part):
                at_reference = scorer.shared()
            return replace(one, reference_score=at_reference, outputs=joined_vectors([scorer.outputs], len(part)))

        found = list(self.runner.safely(rows, place, run))
        references = [each.reference_score for each in found if each.reference_score is not None]
        return Propagated(
            torch.cat([each.values for each in found]).contiguous(),
            torch.cat([each.multiplier for each in found]).contiguous(),
            torch.cat([each.score for each in found]),
            torch.cat(references) if len(references) == len(found) else None,
            tuple(dict.fromkeys(note for each in found for note in each.notes)),
            sum(each.absorbed for each in found),
            joined_vectors([each.outputs for each in found], len(rows)),
        )

    def activations(self, rows: Tensor, gradient: bool = True) -> tuple[Activation, ...]:
        """The maps of each layer at `rows`, with the gradient of the score there if it is asked for."""
        known = self.layers_at_inputs
        if (
            rows is self.inputs
            and len(known) == len(self.layers)
            and not (gradient and any(each.gradient is None for each in known))
        ):
            return known
        names = tuple(layer.name for layer in self.layers)

        def run(part: Tensor, examples: Tensor) -> Outcome:
            return self.runner.once(part, examples, self.target, layers=names, layer_gradients=gradient)

        found = list(self.runner.safely(rows, self.examples, run))
        return tuple(Activation.of(layer, found, gradient) for layer in self.layers)

    def layers_with_gradient(self, rows: Tensor) -> tuple[str, ...]:
        """Names of the layers whose map the scores of `rows` have a gradient at, in order of use. One more pass."""

        def run(part: Tensor, examples: Tensor) -> list[str]:
            with search_layers(self.runner.modules, tuple(rows.shape[2:])) as seen:
                outcome = self.runner.once(
                    part, examples, self.target, layer_gradients=True, also=lambda outputs, scores: seen.held()
                )
            slopes = outcome.layer_gradients
            candidates = seen.candidates().items()
            return [name for name, each in candidates if name in slopes and bool(each.grid.maps(slopes[name]).any())]

        names = [name for part in self.runner.safely(rows, self.examples, run) for name in part]
        return tuple(dict.fromkeys(names))

    def values_without(self, rows: Tensor, layer: Layer) -> Tensor:
        """Scores `(channels, n)` of `rows` with one channel of the layer's map at a time set to zero.

        What comes before the layer runs once, what comes after it once for each channel.
        """
        modules, budget = self.runner.modules, self.runner.budget

        def run(part: Tensor, examples: Tensor) -> Tensor:
            with recorded(modules, layer.name) as front:
                self.runner.once(part, examples, self.target, merged=False)
            before = front.outputs()
            channels = layer.maps(front.output).shape[1]
            found = []
            for pairs in torch.arange(channels * len(part), device=part.device).split(budget):
                channel, place = pairs // len(part), pairs % len(part)
                changed = front.output[place].clone()
                layer.maps(changed)[torch.arange(len(pairs), device=part.device), channel] = 0
                memory = {name: output[place] for name, output in before.items()} | {layer.name: changed}
                with replayed(modules, memory):
                    found.append(self.runner.once(part[place], examples[place], self.target, merged=False).scores)
            return torch.cat(found).view(channels, len(part))

        return torch.cat(list(self.runner.safely(rows, self.examples, run)), dim=1)


def sum_dtype(values: Tensor) -> torch.dtype:
    """The dtype to accumulate in: float64, or float32 for half precision and where the device has no float64."""
    half = values.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half or values.device.type == "mps" else torch.float64


def result_dtype(values: Tensor) -> torch.dtype:
    """Maps of half-precision models are returned in float32, all others in the model's own dtype."""
    return torch.float32 if values.dtype in (torch.float16, torch.bfloat16) else values.dtype
