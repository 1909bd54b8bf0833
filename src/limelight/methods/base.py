"""What a method is: a frozen dataclass of hyper-parameters with one pure function over a Score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import Named
from ..base.notes import Kind, Note
from ..engine.score import Score
from ..question.random_streams import Streams


@dataclass(frozen=True)
class Needs:
    """What a method asks of the question, so that `explain()` can prepare and share it.

    `gradients`: the model must be differentiable. `at_inputs`: reads the gradient at x itself (of the layer, if it
    reads one). `value`, `value_at_baseline`: reads f(x), f(b), which are free at the input itself and a row each
    elsewhere. `baseline`: compares with the baseline; `references`: wants all its references at once, as
    `(references, n, *features)`, instead of one at a time. `layer`: reads a layer. `told`: the
    Estimate brings f(x), and with a baseline f(b), from the method's own passes.
    """

    gradients: bool = True
    at_inputs: bool = False
    value: bool = False
    value_at_baseline: bool = False
    baseline: bool = False
    references: bool = False
    layer: bool = False
    told: bool = False


@dataclass(frozen=True)
class Told:
    """What a method's own passes told besides its map: scores `(n,)` at x and at the baseline, the outputs at x where
    they are one number or vector a row."""

    at_inputs: Tensor
    at_baseline: Tensor | None
    outputs: Tensor | None


@dataclass(frozen=True)
class Estimate:
    """A method's answer for a batch: `values` `(n, *features)` (channel axis 1 where channels count as one),
    `stderr` like values, `raw` the map before it was spread over the pixels, `told` where `Needs.told`, `layer` the
    layer read where the method names its own."""

    values: Tensor
    stderr: Tensor | None = None
    raw: Tensor | None = None
    notes: tuple[str, ...] = ()
    told: Told | None = None
    layer: str | None = None


def convergence(converged: bool, spent: str, detail: str, example: int) -> Note:
    """How an adaptive method ended: `"NOT converged after 40 samples, relative standard error 0.2"`."""
    kind: Kind = "fact" if converged else "not-converged"
    return Note(kind, f"{'' if converged else 'NOT '}converged {spent}, {detail}", example)


@dataclass(frozen=True)
class Method(Named, ABC):
    """Base of all methods. Subclasses are frozen dataclasses; their fields are the hyper-parameters."""

    no_sum: ClassVar[str | None] = None
    """Why the map's values promise no sum; None where they sum to f(x) - f(baseline)."""

    rows_at_most: ClassVar[bool] = False
    """Whether `rows` is a bound, because rows that turn out equal are run once."""

    @property
    def needs(self) -> Needs:
        return Needs()

    def rows(self, features: torch.Size) -> int | None:
        """Model rows one example of this shape will cost beyond f(x) and f(baseline); None if not known before."""
        return None

    @abstractmethod
    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        """The map of each example: x and baseline are `(n, *features)`, aligned with `score` and `rng`."""
