r"""Sampling in two precisions: bfloat16 rows for all samples, float32 rows for some, which correct the others.

Of N samples with bfloat16 results $\tilde f_k$, a set C of M is run in float32 too, with differences
$d_k = f_k - \tilde f_k$. The method then gets

$$y_k = \tilde f_k + \bar d + [k \in C]\, \frac{N - 1}{M - 1}\, (d_k - \bar d), \qquad
  \bar d = \frac1M \sum_{k \in C} d_k$$

in place of $f_k$. Over the choice of C the expectation of $y_k$ is $f_k$, so whatever is linear in the scores keeps its
expectation, and the spread of y holds both parts of the variance, $V/N + V_d/M$: standard errors that are robust to
unequal variances need no change. C is chosen by the samples' numbers alone, among samples that are alike in
distribution. How large it is follows from the first of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..base.notes import Note
from ..base.types import Arithmetic
from ..engine.bfloat16_rows import Bfloat16Refused, Bfloat16Rows, has_bfloat16
from ..engine.runner import Runner
from ..question.targets import Target
from .base import Method

PILOT = 32
"""Samples that are run in both precisions first, to judge the difference by; `TwoPrecision` may be given another."""

_LEAST_SHARE = 1 / 64
_EMULATED = "this processor does not multiply in bfloat16: its rows were emulated, which is slower than plain rows"


def corrected(cheap: Tensor, exact: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    r"""Return y for the samples in C, shaped like `exact` `(M, ...)`, and $\bar d$ `(...)`, to add to all others.

    `cheap` `(M, ...)` are their bfloat16 results, `samples` is N. Raises ValueError for 1 of several samples.
    """
    known = len(exact)
    if known < 2 <= samples:
        raise ValueError(f"samples: {known} of {samples} in float32; the spread of a difference needs 2")
    difference = exact - cheap
    mean = difference.mean(0)
    factor = (samples - 1) / (known - 1) if known > 1 else 1.0
    return cheap + mean + factor * (difference - mean), mean


def relative_cost(ratio: float, cost: float) -> float:
    r"""Return the cost of two precisions over that of float32 rows alone, at equal error and the best split:
    $(\sqrt c + \sqrt r)^2$, for a bfloat16 row's `cost` c and the `ratio` r = V_d / V."""
    return (math.sqrt(cost) + math.sqrt(ratio)) ** 2


def share_to_correct(ratio: float, cost: float) -> float:
    r"""Return M / N: the best, $\sqrt{c\,r}$, rounded up to a power of 2 between 1/64 and 1."""
    best = min(1.0, max(_LEAST_SHARE, math.sqrt(cost * ratio)))
    return 2.0 ** math.ceil(math.log2(best))


class TwoPrecision:
    """The samples of one example that are run in both precisions: how many, their results, and what follows.

    Samples have numbers from 0. `exact` and `cheap` `(M, ...)` are the results so far; `ratio` is V_d / V, None before
    the pilot. `pays` is False once two precisions cost as much as float32 rows or more, or bfloat16 gave NaN: all
    other samples are then run in float32 alone, and those in C count as their float32 results.
    """

    def __init__(self, cost: float, pilot: int = PILOT) -> None:
        self.cost, self.pilot = cost, pilot
        self.exact, self.cheap = torch.zeros(0), torch.zeros(0)
        self.ratio: float | None = None
        self.pays = True
        self.is_finite = True

    def next(self, samples: range) -> range:
        """Return the first of these samples that are to be run in both precisions now; empty where enough are."""
        if not self.pays:
            return samples[:0]
        wanted = self.pilot if self.ratio is None else math.ceil(share_to_correct(self.ratio, self.cost) * samples.stop)
        return samples[: max(0, wanted - len(self.exact))]

    def add(self, exact: Tensor, cheap: Tensor) -> None:
        """Add the results `(k, ...)` of samples in float32 and in bfloat16."""
        if not bool(torch.isfinite(cheap).all()):
            self.give_up()
            return
        self.exact = torch.cat([self.exact, exact]) if len(self.exact) else exact
        self.cheap = torch.cat([self.cheap, cheap]) if len(self.cheap) else cheap
        if self.ratio is None and len(self.exact) >= self.pilot:
            self.judge_by(float(self.exact.var(0).mean()))
            self.pays = self.ratio is not None and relative_cost(self.ratio, self.cost) < 1

    def give_up(self) -> None:
        """Take float32 results alone, because bfloat16 gave NaN: all samples are to be run in float32 again."""
        self.pays = self.is_finite = False
        self.exact, self.cheap = self.exact[:0], self.cheap[:0]

    def judge_by(self, variance: float, difference: float | None = None) -> None:
        """Set the ratio by the variance that counts where that is not the results' own, such as what a fit leaves.

        `difference` is what V_d becomes there, by itself if None.
        """
        difference = self.spread() if difference is None else difference
        self.ratio = difference / variance if variance > 0 else 0.0 if difference == 0 else math.inf

    def spread(self) -> float:
        """Return V_d, the variance of the difference; 0 where only one is known."""
        return float((self.exact - self.cheap).var(0).mean()) if len(self.exact) > 1 else 0.0

    def corrected(self, samples: int) -> tuple[Tensor, Tensor]:
        """Return what `corrected` does for the samples run in both precisions, of `samples` in all."""
        if not self.pays:
            return self.exact, torch.zeros_like(self.exact[:1].sum(0))
        return corrected(self.cheap, self.exact, samples)

    def note(self, samples: int, what: str, example: int) -> Note:
        """Tell how many of the samples, named `what`, ran in which precision, and why."""
        return told([self], samples, what, example)


def told(kinds: Sequence[TwoPrecision], samples: int, what: str, example: int) -> Note:
    """Tell how many of an example's samples, of one or several kinds, ran in which precision, and why."""
    known, ratios = sum(len(kind.exact) for kind in kinds), [kind.ratio for kind in kinds if kind.ratio is not None]
    difference = f"the difference has {max(ratios, default=0):.2g} of the variance"
    if not all(kind.is_finite for kind in kinds):
        text = f"all {what} in float32: in bfloat16 a score was NaN or infinite"
    elif not ratios:
        text = f"all {what} in float32: too few for two precisions"
    elif all(kind.pays for kind in kinds):
        text = (
            f"{samples} {what} in bfloat16, {known} in float32 too: the difference has {ratios[0]:.2g} of the variance"
        )
    else:
        text = f"all {what} in float32 from the {known} first on: {difference}"
    return Note("fact", text, example)


class Precisions:
    """Which methods of one call run in two precisions: by its `arithmetic`, their fields and the processor.

    Without an arithmetic these are the methods with a tolerance, where the processor multiplies in bfloat16.
    """

    def __init__(self, runner: Runner, inputs: Tensor, arithmetic: Arithmetic | None) -> None:
        self._runner, self._inputs, self._arithmetic = runner, inputs, arithmetic
        self._rows: Bfloat16Rows | Bfloat16Refused | None = None  # made for the first method

    def rows(self, method: Method, target: Target) -> tuple[Bfloat16Rows | None, list[Note]]:
        """Return the rows in bfloat16 where the method is to use them, and notes on that."""
        asked = self._arithmetic == "two-precision"
        if not method.two_precisions:
            return None, [Note("fact", "float32 rows: this method does not sample in two precisions")] if asked else []
        fast = has_bfloat16(self._inputs.device)
        wanted = self._arithmetic is None and fast and getattr(method, "tolerance", None) is not None
        if not (asked or wanted):
            return None, []
        if self._rows is None:
            try:
                self._rows = Bfloat16Rows(self._runner, self._inputs, target)
            except Bfloat16Refused as refused:
                self._rows = refused
        if isinstance(self._rows, Bfloat16Refused):
            return None, [Note("fact", f"not in two precisions, because {self._rows}")]
        return self._rows, [] if fast else [Note("caution", _EMULATED)]


class Sampler(ABC):
    """Runs the samples of one example in two precisions, stage after stage; `rows` says which.

    `both` are the numbers of the samples in both precisions, in the order of the results in `rows`.
    """

    def __init__(self, rows: TwoPrecision) -> None:
        self.rows = rows
        self.both: list[int] = []

    @abstractmethod
    def run(self, samples: range, bfloat16: bool, alone: bool) -> Tensor:
        """Return the results `(samples, ...)` in one precision; keep those that are `alone`, not run in the other."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the results that were kept."""

    def extend(self, samples: range) -> None:
        """Run the next samples. After NaN in bfloat16 all of the example's samples are run again in float32."""
        was_finite, rest = self.rows.is_finite, samples
        while both := self.rows.next(rest):
            self.rows.add(self.run(both, False, False), self.run(both, True, False))
            self.both += both
            rest = range(both.stop, samples.stop)
        if rest and (self.rows.is_finite or not was_finite):
            found = self.run(rest, self.rows.pays, True)
            if not bool(torch.isfinite(found).all()):
                self.rows.give_up()
        if was_finite and not self.rows.is_finite:
            self.both = []
            self.reset()
            self.run(range(samples.stop), False, True)
