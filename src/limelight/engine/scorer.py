"""Scores as a function of rows, for backward passes by rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..question.targets import Target
from .graph import make_exact
from .passes import detached
from .runner import Runner


@dataclass
class Scorer:
    """The scores `(rows,)` as a function of rows, for backward passes by rules; each call's rows are counted.

    A call takes a row for each example, or one row for all. `outputs` are those of the last call.
    """

    runner: Runner
    examples: Tensor
    target: Target
    outputs: Any = None
    _shared_outputs: Any = None

    def __call__(self, rows: Tensor) -> Tensor:
        owner = self.examples if len(rows) == len(self.examples) else self.examples[:1].expand(len(rows))
        outputs, scores, found = self.runner.scored(rows, owner, self.target)
        make_exact(scores)
        self.outputs = detached(outputs)
        if len(rows) < len(self.examples):
            self._shared_outputs = detached(found[self.target.layer] if self.target.layer else outputs)
        return scores

    def shared(self) -> Tensor:
        """Return each example's score `(n,)` of the one row that was run for all."""
        outputs, examples = self._shared_outputs, self.examples.split(1)
        with torch.no_grad():
            return torch.cat([self.runner.scores(outputs, example, self.target) for example in examples])
