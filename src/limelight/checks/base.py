"""What a check is: a frozen dataclass with one function over a case; and what it finds, one value per example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from ..base.errors import NotApplicable
from ..base.named import Named
from ..question.per_example import for_examples, has_each
from .case import Case

__all__ = ["Better", "Check", "Kind", "Measured", "NotApplicable", "nan_where", "relative_difference"]

Kind = Literal["hard", "robustness", "faithfulness", "localisation", "complexity"]
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measured:
    """What a check found: `values` `(n,)`, NaN with a reason in `reasons` (one text per example, empty elsewhere).

    `passed` `(n,)` booleans where a right answer is known; `detail` more figures by name, `(n, ...)` each; `notes`
    what holds for the whole batch.
    """

    values: Tensor
    passed: Tensor | None = None
    detail: Mapping[str, Tensor] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check(Named, ABC):
    """Base of all checks. Subclasses are frozen dataclasses; their fields are the protocol's settings.

    `kind`: a hard test has a right answer, the others are evidence. `better`: which way is better, None for figures
    that only describe. `needs_mask`: reads the true region. `meaning`: one line for a reader who decides.
    """

    kind: ClassVar[Kind]
    better: ClassVar[Better | None] = None
    needs_mask: ClassVar[bool] = False
    needs_method: ClassVar[bool] = False
    meaning: ClassVar[str] = ""

    @abstractmethod
    def run(self, case: Case) -> Measured:
        """One value per example of `case`; raises NotApplicable where the check has no answer for any of them."""

    def maps(self) -> float:
        """Maps of the method that one example costs beyond the one examined; for budgets."""
        return 0.0

    def select(self, example: int, x: Tensor) -> Self:
        """The check for one example of the batch `x` alone: of what is given for each example, its part."""
        alone = for_examples(self, [example], x)
        chosen = {
            name: value[example : example + 1]
            for name, value in vars(alone).items()
            if isinstance(value, Tensor) and has_each(value, x)
        }
        return replace(alone, **chosen) if chosen else alone


def relative_difference(a: Tensor, b: Tensor) -> Tensor:
    """max |a - b| / max |a| for each example `(n,)`; 0 where both are zero."""
    largest = a.double().abs().flatten(1).amax(1).maximum(b.double().abs().flatten(1).amax(1))
    apart = (a.double() - b.double()).abs().flatten(1).amax(1)
    reference = a.double().abs().flatten(1).amax(1)
    ratio = apart / torch.where(reference > 0, reference, largest)
    return torch.where(largest > 0, ratio, torch.zeros_like(ratio))


def nan_where(values: Tensor, bad: Tensor, reason: str) -> tuple[Tensor, tuple[str, ...]]:
    """`values` with NaN where `bad`, and the reasons that go with it."""
    return values.masked_fill(bad, torch.nan), tuple(reason if each else "" for each in bad.tolist())
