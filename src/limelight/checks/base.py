"""The base classes of checks, and the result of one: a value for each example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.arithmetic import rounding_of
from ..base.errors import NotApplicable as NotApplicable
from ..base.named import Named
from ..question.per_example import for_examples, has_each
from .case import Case
from .exhibits import Exhibits

Kind = Literal["hard", "robustness", "faithfulness", "localisation", "complexity"]
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measured:
    """The result of a check: `values` `(n,)`, NaN with a reason in `reasons` (one text per example, empty elsewhere).

    `passed` `(n,)` is set where a right answer is known. `detail` holds further figures by name, `(n, ...)` each;
    `notes` are about the whole batch. `exhibits` are what can be looked at, of the first examples.
    """

    values: Tensor
    passed: Tensor | None = None
    detail: Mapping[str, Tensor] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    exhibits: Exhibits = ()

    def unknown_where(self, bad: Tensor, reason: str) -> Measured:
        """Return the result with NaN and `reason` for the examples where `bad` `(n,)` is True."""
        earlier = self.reasons or ("",) * len(bad)
        reasons = tuple(reason if each else before for each, before in zip(bad.tolist(), earlier, strict=True))
        return replace(self, values=self.values.masked_fill(bad, torch.nan), reasons=reasons)


@dataclass(frozen=True)
class Check(Named, ABC):
    """Base of all checks. Subclasses are frozen dataclasses; their fields are the settings.

    `kind`: a hard check has a right answer, the others are evidence. `better`: which direction is better, None for
    figures that only describe. `meaning`: one line that explains the figure to the reader of a report.
    """

    kind: ClassVar[Kind]
    better: ClassVar[Better | None] = None
    meaning: ClassVar[str] = ""
    own_rows: ClassVar[int] = 0  # that it runs beside further maps

    @abstractmethod
    def run(self, case: Case) -> Measured:
        """Compute one value per example of `case`. Raises NotApplicable where none of them can have one."""

    def maps(self) -> float:
        """Return how many further maps one example costs, for budgets."""
        return 0.0

    @property
    def needs_method(self) -> bool:
        """Whether the check makes further maps, so that a finished map alone is not enough."""
        return self.maps() > 0

    def select(self, example: int, x: Tensor) -> Self:
        """Return the check for one example of the batch `x`: settings given for each example are cut to it."""
        alone = for_examples(self, [example], x)
        chosen = {
            name: value[example : example + 1]
            for name, value in vars(alone).items()
            if isinstance(value, Tensor) and has_each(value, x)
        }
        return replace(alone, **chosen) if chosen else alone


@dataclass(frozen=True)
class HardCheck(Check):
    """Base of the checks with a right answer: the value is an error, the lower the better, and at most `limit` passes.

    `passes` and `fails`: what either means, as a plain sentence; `brief`: both in a few words, {} being the value.
    """

    kind: ClassVar[Kind] = "hard"
    better: ClassVar[Better | None] = "lower"
    brief: ClassVar[tuple[str, str]]
    passes: ClassVar[str]
    fails: ClassVar[str]

    @abstractmethod
    def limit(self, x: Tensor) -> float:
        """Return the largest value that passes, for inputs like these."""

    def judged(
        self, values: Tensor, x: Tensor, detail: Mapping[str, Tensor] = {}, notes: tuple[str, ...] = ()
    ) -> Measured:
        """Return the values `(n,)` with whether each passes."""
        return Measured(values, values <= self.limit(x), detail, notes=notes)

    def judged_maps(
        self, values: Tensor, case: Case, detail: Mapping[str, Tensor] = {}, notes: tuple[str, ...] = ()
    ) -> Measured:
        """Return the relative differences `(n,)` of two maps with whether each passes.

        In half precision one above the limit that is within the rounding of the map, and of the scores that it may be
        differences of, is no figure: it shows nothing.
        """
        measured, precision = self.judged(values, case.x, detail, notes), case.score.runner.precision
        if precision.itemsize >= 4:
            return measured
        size = case.attribution.values.double().abs().flatten(1).amax(1)
        rounding = rounding_of(precision, size, case.attribution.score).to(values) / size.to(values)
        within = (values > self.limit(case.x)) & (values <= rounding)
        name = str(precision).removeprefix("torch.")
        return measured.unknown_where(within, f"the maps differ by no more than {name} may round them by; use float32")


@dataclass(frozen=True)
class Tolerated(HardCheck):
    """Base of the hard checks whose limit is a field of theirs."""

    @property
    @abstractmethod
    def tolerance(self) -> float:
        """The largest value that passes."""

    def limit(self, x: Tensor) -> float:
        return self.tolerance


def relative_difference(a: Tensor, b: Tensor) -> Tensor:
    """Compute max |a - b| / max |a| for each example `(n,)`; 0 where both are zero, NaN where a value is NaN."""
    a, b = a.double().flatten(1), b.double().flatten(1)
    size = a.abs().amax(1)
    largest = size.maximum(b.abs().amax(1))
    ratio = (a - b).abs().amax(1) / torch.where(size > 0, size, largest)
    return torch.where(largest == 0, torch.zeros_like(ratio), ratio)


def as_wide(figures: Sequence[Tensor]) -> list[Tensor]:
    """Fill figures `(n,)` or `(n, depths)` up with NaN to as many depths as any of them has; equal ones stay."""
    if len({each.shape[1:] for each in figures}) == 1:
        return list(figures)
    figures = [each.double().cpu() for each in figures]
    flat = [each if each.ndim > 1 else each[:, None] for each in figures]
    widest = max(each.shape[1] for each in flat)
    return [F.pad(each, (0, widest - each.shape[1]), value=torch.nan) for each in flat]
