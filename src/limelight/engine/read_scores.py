"""Scores read from the model's outputs, of rows that several targets share too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..base.devices import users_tensors
from ..question.output_targets import Function
from ..question.targets import Target, output_tensor
from ..rules.predicates import computing_target
from .passes import SharedRows, require_finite

_CELLS = 2**22  # of outputs that are repeated for their targets at once


def require_rows(outputs: Any, examples: Tensor, unbatched: str) -> None:
    """Raise ValueError unless outputs that are a tensor have a row for each of the examples; FloatingPointError for
    NaN. `unbatched`: what to say instead where the inputs look like a single example."""
    if isinstance(outputs, Tensor):
        rows = len(examples)
        if outputs.ndim == 0 or len(outputs) != rows:
            raise ValueError(
                unbatched
                or f"model: returned outputs of shape {tuple(outputs.shape)} for {rows} rows; "
                "the first axis of the outputs must be the rows"
            )
        require_finite(outputs, examples, "model's outputs")


def read_scores(outputs: Any, examples: Tensor, target: Target, unbatched: str) -> Tensor:
    """Return the scores of rows of these examples `(rows,)`. Raises ValueError unless there is one number a row."""
    rows = len(examples)
    require_rows(outputs, examples, unbatched)
    with users_tensors(), computing_target(own=not isinstance(target, Function)):
        scores = target(outputs, examples)
    if not isinstance(scores, Tensor) or scores.shape != (rows,):
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"target: gave {got} for {rows} rows; it must give one number per row, shape ({rows},)")
    require_finite(scores, examples, "score")
    return scores


def read_shared(
    read: Callable[[Any, Tensor, Target], Tensor],
    outputs: Any,
    shared: SharedRows | None,
    examples: Tensor,
    target: Target,
) -> Tensor:
    """Return the scores `(rows,)` that `read` finds in the outputs `(distinct, ...)` of rows that were run once.

    The outputs are repeated for some of the rows at a time, so that memory does not grow with the targets.
    """
    if shared is None:
        return read(outputs, examples, target)
    outputs = output_tensor(outputs)
    if outputs.ndim == 0 or len(outputs) != len(shared.first):
        return read(outputs, examples[shared.first], target)  # raises
    size = max(1, _CELLS // max(1, outputs[0].numel()))
    parts = zip(shared.index.split(size), examples.split(size), strict=True)
    return torch.cat([read(outputs[index], own, target) for index, own in parts])
