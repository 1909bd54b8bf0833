"""Scores as a function of rows, for backward passes by rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..question.targets import Target
from .graph import make_exact
from .passes import detached, rows_first
from .runner import Runner


@dataclass
class Scorer:
    """The scores `(rows,)` as a function of rows, for backward passes by rules; each call's rows are counted.

    A call takes a row for each example, or one row for all. `outputs` are those of the last call. With `layer`, a pass
    by rules stops there.
    """

    runner: Runner
    examples: Tensor
    target: Target
    layer: str | None = None
    outputs: Any = None
    _shared_outputs: Any = None
    _at: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        owner = self.examples if len(rows) == len(self.examples) else self.examples[:1].expand(len(rows))
        layers = () if self.layer is None else (self.layer,)
        outputs, scores, found = self.runner.scored(rows, owner, self.target, layers)
        if self.layer is not None:
            self._at = rows_first({self.layer: found[self.layer]}, self.runner.run_on(len(rows)))[self.layer]
        make_exact(scores)
        self.outputs = detached(outputs)
        if len(rows) < len(self.examples):
            self._shared_outputs = detached(found[self.target.layer] if self.target.layer else outputs)
        return scores

    @property
    def at(self) -> Callable[[], Tensor] | None:
        """What returns the layer's output of the last call; None without a layer."""
        return None if self.layer is None else self._output

    def _output(self) -> Tensor:
        assert self._at is not None
        return self._at

    def shared(self) -> Tensor:
        """Return each example's score `(n,)` of the one row that was run for all."""
        outputs, examples = self._shared_outputs, self.examples.split(1)
        with torch.no_grad():
            return torch.cat([self.runner.scores(outputs, example, self.target) for example in examples])
