"""Hard tests of the map's arithmetic: completeness, determinism, linearity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..base.named import require
from ..question.targets import ClassTarget, Logit, Target
from .base import Better, Check, Kind, Measured, NotApplicable, nan_where, relative_difference
from .case import Case


@dataclass(frozen=True)
class Completeness(Check):
    r"""$|\sum_i A_i - (f(x) - f(b))| \,/\, |f(x) - f(b)|$ of methods that promise the sum. [sundararajan2017]"""

    tolerance: float = 0.01
    kind: ClassVar[Kind] = "hard"
    better: ClassVar[Better | None] = "lower"
    meaning: ClassVar[str] = "share of the score that the map fails to account for"

    def __post_init__(self) -> None:
        require(self.tolerance > 0, self, "tolerance", "a positive share of f(x) - f(baseline)")

    def run(self, case: Case) -> Measured:
        a = case.attribution
        if not a.complete:
            reason = case.method.no_sum if case.method is not None else None
            raise NotApplicable(f"no sum is promised: {reason or 'the map says so'}")
        change = a.score.double() - a.baseline_score.double()
        gap = (a.values.double().flatten(1).sum(1) - change).abs()
        values, reasons = nan_where(gap / change.abs(), change == 0, "f(x) equals f(baseline): no share of nothing")
        return Measured(values, values <= self.tolerance, {"gap": gap, "change": change}, reasons)


@dataclass(frozen=True)
class Determinism(Check):
    r"""The same seed gives the same map, alone, in other batches and chunk sizes: max |A - A'| / max |A|.

    Each example is explained beside other ones than before, in another order and with another number of rows a pass
    (`rows_per_pass`, two more where that is what the map was made with). With `company` a single example is explained
    beside its mirror image, which costs a second map; else only its passes change. `tolerance` None is 1e-9 for float64
    and 1e-4 for float32, whose sums may be taken in another order.
    """

    tolerance: float | None = None
    rows_per_pass: int = 3
    company: bool = True
    kind: ClassVar[Kind] = "hard"
    better: ClassVar[Better | None] = "lower"
    needs_method: ClassVar[bool] = True
    meaning: ClassVar[str] = "how much the map changes when nothing but the batch does"

    def __post_init__(self) -> None:
        require(self.rows_per_pass >= 1, self, "rows_per_pass", "1 or more")

    def maps(self) -> float:
        return 2.0 if self.company else 1.0

    def run(self, case: Case) -> Measured:
        other = self.rows_per_pass + 2 * (case.question.rows_per_pass == self.rows_per_pass)
        again = torch.empty_like(case.attribution.values)
        if len(case) == 1 and self.company:
            pair = torch.cat([case.x, case.x.flip(-1)])
            again[:] = case.select([0, 0]).explain(x=pair, rows_per_pass=other).values[:1]
        else:  # every other one from the end, then the rest: no two that were neighbours
            for group in (range(len(case) - 1, -1, -2), range(len(case) - 2, -1, -2)):
                if group:
                    again[list(group)] = case.select(list(group)).explain(rows_per_pass=other).values
        values = relative_difference(case.attribution.values, again)
        return Measured(values, values <= _tolerance(self.tolerance, case.x))


def _tolerance(asked: float | None, x: Tensor) -> float:
    return asked if asked is not None else 1e-9 if x.dtype == torch.float64 else 1e-4


@dataclass(frozen=True, eq=False)
class Combination(Target):
    r"""$\alpha z_c + \beta z_o$ for the class c and another class o of each example."""

    first: Logit
    other: Logit
    alpha: float
    beta: float

    @property
    def per_example(self) -> int | None:
        return self.first.per_example

    def select(self, index: Sequence[int]) -> Self:
        return replace(self, first=self.first.select(index), other=self.other.select(index))

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        return self.alpha * self.first(outputs, examples) + self.beta * self.other(outputs, examples)


@dataclass(frozen=True)
class Linearity(Check):
    r"""The map of $\alpha f_1 + \beta f_2$ is $\alpha A_1 + \beta A_2$: max difference over the map's maximum.

    $f_1$ is the logit explained, $f_2$ the next likeliest class's. Explanations by rules and rectified
    maps fail it; that is a property of the method, to be known. [sundararajan2017]
    """

    alpha: float = 2.0
    beta: float = -0.5
    tolerance: float | None = None
    kind: ClassVar[Kind] = "hard"
    better: ClassVar[Better | None] = "lower"
    needs_method: ClassVar[bool] = True
    meaning: ClassVar[str] = "whether the map of a mixture of scores is the mixture of their maps"

    def maps(self) -> float:
        return 2.0

    def run(self, case: Case) -> Measured:
        outputs, target = case.attribution.outputs, case.target
        if not isinstance(target, ClassTarget) or outputs is None or outputs.ndim != 2 or outputs.shape[1] < 2:
            raise NotApplicable("linearity is tested between two classes, and this target or model has no second one")
        classes = torch.as_tensor(target.index, device=outputs.device).expand(len(outputs))
        rest = outputs.scatter(1, classes[:, None], -torch.inf)
        first, other = Logit(tuple(classes.tolist())), Logit(tuple(rest.argmax(1).tolist()))
        own = case.attribution.values if type(target) is Logit else case.explain(target=first).values
        both = Combination(first, other, self.alpha, self.beta)
        mixed = case.explain(target=both).values
        expected = self.alpha * own + self.beta * case.explain(target=other).values
        values = relative_difference(expected, mixed)
        tolerance = 100 * _tolerance(None, case.x) if self.tolerance is None else self.tolerance
        return Measured(values, values <= tolerance)
