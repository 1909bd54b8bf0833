"""The input pass: the model at x itself, once per `explain()`, for all methods."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..base.types import Model, Outputs
from ..question.given import Given
from ..question.readings import Reading, read_outputs
from ..question.targets import ClassTarget, Confidence, Logit, Target, class_scores, joined_vectors
from .layer_maps import Grid
from .layer_search import OF_COLUMNS, LayerSearch
from .layer_watch import search_layers
from .layers import Layer, Linear
from .model_copy import PassAgain
from .passes import Activation, Merged, Outcome, detached
from .runner import Runner


@dataclass(frozen=True)
class InputPass:
    """The model's results at x. `target` has the classes filled in that the model chose.

    `chosen_by_gradient`: a backward pass was made to choose the layer, which a method that reads one needs too.
    `rows`: forward rows of the pass; `reread_rows`: further ones, to read a map that the model had overwritten.
    """

    target: Target
    scores: Tensor
    outputs: Tensor | None
    gradient: Tensor | None
    layers: tuple[Layer, ...] = ()
    activations: tuple[Activation, ...] = ()
    chosen_by_gradient: bool = False
    notes: tuple[str, ...] = ()
    rows: int = 0
    reread_rows: int = 0

    @property
    def layer(self) -> str | None:
        """The layers' names, as `explain(layer=...)` takes them."""
        return ", ".join(layer.name for layer in self.layers) or None

    @property
    def classes(self) -> int | None:
        """The number of outputs per row, as `Score.classes`."""
        return None if self.outputs is None else self.outputs.reshape(len(self.outputs), -1).shape[1]


def input_pass(
    runner: Runner,
    x: Tensor,
    target: Target,
    *,
    gradient: bool,
    layers: tuple[str, ...],
    read_layer: bool,
    layer_gradient: bool,
    measure: bool,
) -> InputPass:
    """Run x `(batch, *features)` once, forward and, on request, backward to the input and to the layers.

    With `read_layer` the outputs of `layers` are kept; where none is named, one is chosen during the same pass, see
    `LayerSearch.rank`. With `measure` the rows of later passes are chosen by the memory of this one's activations.
    """
    names = layers if read_layer else ()
    before, reread_rows = runner.forward_rows, 0
    places: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()
    searched = chosen_by_gradient = False

    def run(rows: Tensor, examples: Tensor) -> Outcome:
        nonlocal names, places, notes, searched, chosen_by_gradient, reread_rows
        if searched or not runner.differentiable or not (read_layer or measure):
            return runner.once(rows, examples, target, gradient, names, layer_gradient)
        pick, start = read_layer and not names, runner.forward_rows
        keeps = isinstance(target, ClassTarget) and (pick or bool(names and layer_gradient))
        key = (tuple(x.shape[1:]), type(target), names)
        watched = runner.copy.searched.get(key) if keeps else None
        inputs = Merged.of(rows, runner.equal_rows(rows, examples))  # before the search, which follows operators
        with search_layers(runner.modules, tuple(x.shape[1:]), watched, runner.packing.folds) as search:

            def picked(outputs: Any, scores: Tensor) -> dict[str, Tensor]:
                found = search.rank(outputs, scores, runner.forward_rows - start) if pick else {}
                runner.frames.update(search.frames_of_maps())
                return found

            def rank(outputs: Any, scores: Tensor) -> dict[str, Tensor]:
                search.led_by(scores)
                if watched is None:
                    return picked(outputs, scores)
                try:
                    found = picked(outputs, scores)
                except ValueError:
                    found = None
                if found is None or not search.is_like(watched):
                    runner.copy.searched.pop(key, None)  # another path than at the input that was searched
                    raise PassAgain
                return found

            also = rank if pick or keeps else None
            outcome = runner.once(inputs, examples, target, gradient, names, layer_gradient, also=also)
        search.rows = runner.forward_rows - start
        size = search.bytes if watched is None else watched.bytes * search.rows
        runner.sizes.fit(search.rows, size, rows.device)
        searched = True
        if keeps and watched is None:
            found_by = search.watched(len(rows)) if pick else search.watched_for(names, len(rows))
            runner.copy.searched |= {key: found_by} if found_by is not None else {}
        if pick:
            name, found, passed_over, flat = search.choose(outcome.layer_gradients)
            names, notes = (name,), (_reason(name, found.grid, found.channels, passed_over, flat),)
            chosen_by_gradient = len(outcome.layer_gradients) > 1
            if name not in outcome.activations:
                # The model overwrote this map in place, so it is read again from a copy.
                start = runner.forward_rows
                again = runner.once(rows, examples, target, False, names, layer_gradient)
                reread_rows += runner.forward_rows - start
                outcome = replace(outcome, activations=again.activations, layer_gradients=again.layer_gradients)
        if read_layer:
            places = tuple(_layer(each, search, outcome, target) for each in names)
            if not pick:
                notes = tuple(
                    f"layer {each.name}: a map of {each.grid}"
                    for each in places
                    if each.grid and each.grid.order != "channels first"
                )
        search.release()
        return outcome

    examples = torch.arange(len(x), device=x.device)
    with runner.compiling.paused():  # a pass that takes a gradient is not compiled, whichever method asks for it
        found = list(runner.safely(x, examples, run, owners=examples))
    return InputPass(
        _resolved(target, [each.row_outputs for each in found], runner),
        torch.cat([each.scores for each in found]),
        joined_vectors([each.row_outputs for each in found], len(x), target),
        torch.cat([each.gradient for each in found if each.gradient is not None]) if gradient else None,
        places,
        tuple(Activation.of(place, found, layer_gradient) for place in places if place.grid),
        chosen_by_gradient,
        notes,
        runner.forward_rows - before - reread_rows,
        reread_rows,
    )


def _reason(name: str, grid: Any, channels: int, passed_over: list[str], flat: bool) -> str:
    why = f"layer {name}: the last one with a spatial map ({channels} channels of {grid})"
    if not passed_over:
        return why
    none = "whose positions have no gradient" if flat else "where the score reads a single position or none"
    return f"{why} before {', '.join(reversed(passed_over))}, {none}"


def _layer(name: str, search: LayerSearch, outcome: Outcome, target: Target) -> Layer:
    output = outcome.activations[name]
    shape = tuple(output.shape[1:])
    grid = search.grid(name, shape)
    if grid is not None:
        run = slice(None) if outcome.shared is None else outcome.shared.first  # the search saw the distinct rows alone
        maps = grid.maps(output)[run]
        return Layer(name, grid, _linear(maps, search, joined_vectors([outcome.outputs], len(maps), target)))
    others = ", ".join([*search.candidates()][-6:])
    if not search.space:
        return Layer(name, None, None, f"returns {shape} per example; {OF_COLUMNS}")
    why = f"returns {shape} per example, no map of channels over the input's {len(search.space)} spatial axes"
    return Layer(name, None, None, why + (f"; layers with a map: {others}" if others else ""))


def _linear(maps: Tensor, search: LayerSearch, outputs: Tensor | None) -> Linear | None:
    """Return the classifier, if its inputs are the maps' means and its outputs are the model's; else None."""
    if search.linear is None or outputs is None:
        return None
    linear, inputs, returned = search.linear
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    is_classifier = _equal(inputs, maps.flatten(2).mean(2)) and _equal(returned, outputs)
    return linear if is_classifier else None


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    tolerance = 1e-2 if a.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def _resolved(target: Target, outputs: list[Any], runner: Runner) -> Target:
    if isinstance(target, ClassTarget) and target.index is None:
        parts = [target.resolve(part) for part in outputs]
        target = replace(target, index=sum((part.listed(0) for part in parts), start=()))
    if isinstance(target, Confidence) and target.kinds is None:
        whole = torch.cat([class_scores(part) for part in outputs])
        examples = torch.arange(len(whole), device=whole.device)
        target = target.read(whole, examples, runner.declared, runner.outputs_made_by)
    return target


def outputs_at(
    model: Model, pixels: Tensor, declared: Outputs | None = None, given: Given | None = None
) -> tuple[Tensor | None, Reading | None]:
    """Return the model's outputs `(rows, outputs)` at some inputs and what they are; None for other outputs."""
    with Runner(model, pixels, None, None, declared=declared, given=given) as runner, torch.no_grad():
        examples = torch.arange(len(pixels), device=pixels.device)
        passes = list(runner.safely(pixels, examples, lambda rows, _: detached(runner.outputs(rows))))
        found = joined_vectors(passes, len(pixels), Logit())
        if found is None or found.ndim != 2:
            return None, None
        return found, read_outputs(found, declared, runner.outputs_made_by)


@dataclass(frozen=True)
class Candidate:
    """A layer that returns a spatial map.

    `shape` has channels first and tokens as their grid, `grid` says how the output is read; `activation` and `gradient`
    are the L2 norms of the map and of the top class's gradient there.
    """

    name: str
    shape: tuple[int, ...]
    grid: str
    activation: float
    gradient: float


def layers_of(model: nn.Module, pixels: Tensor) -> tuple[list[Candidate], str, str]:
    """List the layers that return a map, in order of use; also the one `explain()` chooses, and why.

    Names are those that `explain(layer=...)` takes, occurrences included. Layers inside a block that returns a map
    itself are left out. Raises ValueError where the model returns no classes.
    """
    options: dict[str, Any] = {"gradient": False, "layers": (), "read_layer": True, "layer_gradient": True}
    with Runner(model, pixels, None, None) as runner:
        at_input = input_pass(runner, pixels, Logit(), measure=False, **options)
        example = torch.zeros(1, dtype=torch.long, device=pixels.device)
        grids: dict[str, Grid] = {}
        with search_layers(runner.modules, tuple(pixels.shape[1:])) as search:

            def candidates(outputs: Any, scores: Tensor) -> dict[str, Tensor]:
                search.rank(outputs, scores, len(pixels))
                runner.frames.update(search.frames_of_maps())
                grids.update((name, each.grid) for name, each in search.candidates().items())
                return {}

            runner.once(pixels, example, at_input.target, also=candidates)
        search.release()
        found = runner.once(pixels, example, at_input.target, layers=tuple(grids), layer_gradients=True)
    candidates_found = []
    for name, grid in grids.items():
        maps, slopes = grid.maps(found.activations[name]), grid.maps(found.layer_gradients[name])
        norms = float(maps.norm()), float(slopes.norm())
        candidates_found.append(Candidate(name, tuple(maps.shape[1:]), str(grid), *norms))
    return candidates_found, str(at_input.layer), at_input.notes[0]
