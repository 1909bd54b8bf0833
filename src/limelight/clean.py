"""The clean pass: the model at x itself, once per `explain()`, with all that any method asks of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .layers import Trace, traced
from .passes import Outcome, Runner
from .score import Activation
from .targets import ClassTarget, Target


@dataclass(frozen=True)
class Clean:
    """What the model says at x. `target` has the classes filled in that were left to the model."""

    target: Target
    scores: Tensor
    outputs: Tensor | None
    gradient: Tensor | None
    layer: str | None
    activation: Activation | None
    layers_seen: tuple[str, ...]
    notes: tuple[str, ...]


def clean_pass(
    runner: Runner,
    x: Tensor,
    target: Target,
    *,
    gradient: bool,
    layer: str | None,
    choose_layer: bool,
    layer_gradient: bool,
    measure: bool,
) -> Clean:
    """Run x `(batch, *features)` once, forward and (where asked) backward to the input and to the layer.

    With `choose_layer` the layer is found during the same forward pass: the last one with a spatial map. With
    `measure` the rows of later passes are chosen by what this one's activations weigh.
    """
    trace: Trace | None = None
    notes: tuple[str, ...] = ()

    def run(rows: Tensor, examples: Tensor) -> Outcome:
        nonlocal trace, layer, notes
        known = (layer,) if layer and layer_gradient else ()
        if trace is not None or not runner.differentiable or not (choose_layer or measure):
            return runner.once(rows, examples, target, gradient, known, layer_gradient)
        pick = choose_layer and layer is None
        with traced(runner.modules) as seen:
            outcome = runner.once(
                rows,
                examples,
                target,
                gradient,
                known,
                layer_gradient,
                also=lambda: _candidate(seen) if pick and layer_gradient else None,
            )
        runner.set_budget(len(rows), seen.bytes, rows.device)
        trace = seen
        if pick:
            layer, shape = seen.choose()
            size = " x ".join(map(str, shape[1:]))
            notes = (f"layer {layer}: the last one with a spatial map ({shape[0]} channels of {size})",)
            if layer_gradient and layer not in outcome.activations:
                # The model overwrote this map in place, so it is read again, this time from a copy.
                outcome = runner.once(rows, examples, target, gradient, (layer,), layer_gradient)
        seen.last = None
        return outcome

    examples = torch.arange(len(x), device=x.device)
    found = list(runner.safely(x, examples, run))
    activation = None
    if layer_gradient and layer is not None:
        activation = Activation(
            torch.cat([each.activations[layer] for each in found]),
            torch.cat([each.layer_gradients[layer] for each in found]),
        )
    return Clean(
        _resolved(target, [each.outputs for each in found]),
        torch.cat([each.scores for each in found]),
        _small(found),
        torch.cat([_present(each.gradient) for each in found]) if gradient else None,
        layer,
        activation,
        tuple(dict.fromkeys(name for name, _ in trace.maps)) if trace else (),
        notes,
    )


def _candidate(trace: Trace) -> tuple[str, Tensor] | None:
    """The traced map itself, when it is the one to be chosen and nothing has overwritten it."""
    if not trace.maps or trace.last is None or not trace.intact:
        return None
    name = trace.maps[-1][0]
    return (name, trace.last) if trace.choose()[0] == name else None


def _present(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient


def _resolved(target: Target, outputs: list[Any]) -> Target:
    if isinstance(target, ClassTarget) and target.index is None:
        index: tuple[int, ...] = ()
        for part in outputs:
            resolved = target.resolve(part).index
            assert isinstance(resolved, tuple)
            index += resolved
        return replace(target, index=index)
    return target


def _small(found: list[Outcome]) -> Tensor | None:
    """The outputs where they are one short vector a row, as evidence beside the maps."""
    outputs = [each.outputs for each in found]
    if all(isinstance(each, Tensor) and each.ndim <= 2 for each in outputs):
        return torch.cat(outputs)
    return None
