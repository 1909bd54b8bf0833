"""Hard checks of properties that a map should have: axioms of attribution, and determinism."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..base.arithmetic import rounding_of, sum_rounding
from ..base.named import require
from ..methods import BlurIntegratedGradients, IntegratedGradients, Method
from ..question.per_example import rebuilt
from ..question.targets import CentredLogit, ClassTarget, Logit, LogProbability, Probability, Target
from .base import HardCheck, Measured, NotApplicable, Tolerated, relative_difference
from .case import Case
from .imputers import Filled
from .maps import over_units, space_of, units_of
from .shared import ITSELF, Asked, contents

ELSEWHERE = 64  # points at which a feature is ignored before it may fail a map


@dataclass(frozen=True)
class Completeness(Tolerated):
    r"""$|\sum_i A_i - (f(x) - f(b))| \,/\, |f(x) - f(b)|$ of methods that promise the sum. [sundararajan2017]

    A gap within the rounding of $f$ and of $\sum_i |A_i|$ (`detail["rounding"]`) counts as 0, and a change of the score
    below it as that rounding, so that an exact map is not blamed for arithmetic.
    """

    tolerance: float = 0.01
    meaning: ClassVar[str] = "share of the score that the map fails to account for"
    brief: ClassVar[tuple[str, str]] = ("adds up within {:.1%}", "misses {:.1%} of its sum")
    passes: ClassVar[str] = "the values add up to the score"
    fails: ClassVar[str] = "the values do not add up to the score that they should"

    def __post_init__(self) -> None:
        require(self.tolerance > 0, self, "tolerance", "a positive share of f(x) - f(baseline)")

    def run(self, case: Case) -> Measured:
        a = case.attribution
        if not a.complete:
            reason = case.method.no_sum if case.method is not None else None
            raise NotApplicable(f"no sum is promised: {reason or 'the map says so'}")
        change = a.score.double() - a.baseline_score.double()
        gap = (a.values.double().flatten(1).sum(1) - change).abs()
        rounding = sum_rounding(a.values, a.score, a.baseline_score, case.score.runner.precision)
        values = torch.where(gap <= rounding, torch.zeros_like(gap), gap / change.abs().maximum(rounding))
        found = self.judged(values, case.x, {"gap": gap, "change": change, "rounding": rounding})
        nothing = (change == 0) & (a.values == 0).flatten(1).all(1)
        return found.unknown_where(nothing, "f(x) equals f(baseline) and the map is zero: no share of nothing")


@dataclass(frozen=True)
class Determinism(HardCheck):
    r"""The same seed gives the same map, alone, in other batches and chunk sizes: max |A - A'| / max |A|.

    Examples are explained again in batches of other examples, in another order and with `rows_per_pass` rows a pass
    (two more where the map was made with that number). A single example is explained in a batch with its mirror image,
    which costs a second map; with `company=False` it stays alone and only the rows a pass change. `tolerance` None is
    1e-9 for float64 and 1e-4 for float32, whose sums may be taken in another order.
    """

    tolerance: float | None = None
    rows_per_pass: int = 3
    company: bool = True
    meaning: ClassVar[str] = "how much the map changes when nothing but the batch does"
    brief: ClassVar[tuple[str, str]] = ("the same in any batch", "depends on its batch")
    passes: ClassVar[str] = "the same map comes out alone and in any batch"
    fails: ClassVar[str] = "the map depends on the batch that it was made in"

    def __post_init__(self) -> None:
        require(self.rows_per_pass >= 1, self, "rows_per_pass", "1 or more")

    def limit(self, x: Tensor) -> float:
        return _rounding_of(x) if self.tolerance is None else self.tolerance

    def maps(self) -> float:
        return 2.0 if self.company else 1.0

    def run(self, case: Case) -> Measured:
        other = self.rows_per_pass + 2 * (case.question.rows_per_pass == self.rows_per_pass)
        again = torch.empty_like(case.attribution.values)
        if len(case) == 1 and self.company:
            pair = torch.cat([case.x, case.x.flip(-1)])
            again[:] = case.select([0, 0]).explain(x=pair, rows_per_pass=other).values[:1]
        else:  # every second example from the end, then the rest: former neighbours are apart
            for group in (range(len(case) - 1, -1, -2), range(len(case) - 2, -1, -2)):
                if group:
                    again[list(group)] = case.select(list(group)).explain(rows_per_pass=other).values
        values = relative_difference(case.attribution.values, again)
        return self.judged_maps(values, case)


def _rounding_of(x: Tensor) -> float:
    """Return how far two maps may differ, of their maximum, when sums are taken in another order."""
    return 1e-9 if x.dtype == torch.float64 else 1e-4


@dataclass(frozen=True)
class Sensitivity(HardCheck):
    r"""The axiom Sensitivity(a): an input that differs from the baseline in one feature and in score has to have a
    non-zero attribution at that feature. [sundararajan2017]

    For each of `features` units the baseline with that unit of x alone is scored and, where the score moved by more
    than `least` of the larger of the two scores, explained. Value: the share of those with no attribution; 0 passes.
    """

    features: int = 4
    least: float = 1e-5
    meaning: ClassVar[str] = "share of features that changed the answer alone and got no relevance"
    brief: ClassVar[tuple[str, str]] = ("marks what changes the answer", "misses what changes the answer")
    passes: ClassVar[str] = "each feature tried that changed the answer by itself got relevance"
    fails: ClassVar[str] = "features that changed the answer by themselves got no relevance"

    def __post_init__(self) -> None:
        require(self.features >= 1, self, "features", "1 or more")

    def limit(self, x: Tensor) -> float:
        return 0.0

    def maps(self) -> float:
        return float(self.features)

    def run(self, case: Case) -> Measured:
        reference = case.reference().expand_as(case.x)
        units = _tried(case, self.features)
        only = [_only(case, unit) for unit in units.T]
        alone = [torch.where(over_units(chosen, case.x), case.x, reference) for chosen in only]
        hide = Filled(case.x, reference)
        others = [torch.ones_like(only[0]), *(~chosen for chosen in only)]
        scores = case.scores(hide.asked(hidden, 0) for hidden in others).double()
        moved = (scores[1:] - scores[0]).abs() > self.least * scores[1:].abs().maximum(scores[0].abs())
        missed = torch.zeros(len(case), device=case.x.device, dtype=torch.float64)
        for k, rows in enumerate(alone):
            index = moved[k].nonzero()[:, 0].tolist()
            if not index:
                continue
            values = case.select(index).explain(x=rows[index], baseline=reference[index]).values
            here = units_of(values.abs()).gather(1, units[index, k][:, None])[:, 0]
            missed[index] += (here == 0).double()
        tried = moved.sum(0)
        values = missed / tried.clamp(min=1)
        found = self.judged(values, case.x, {"tried": tried})
        return found.unknown_where(tried == 0, "no single feature tried moved the score away from the baseline's")


@dataclass(frozen=True)
class Dummy(Tolerated):
    r"""Features that the score ignores get nothing: max |A| over them, of the map's maximum.

    A unit counts as ignored when the score has a slope of exactly 0 there and `draws` random values in its place,
    within the example's range, all leave the score as it is up to rounding. A black box has no slope; its score has to
    stay exactly, and where it rounds its outputs nothing can be told. For a probability the slope of the logit is
    taken, which does not vanish where the probability saturates. `features` units are tried.

    One that got relevance counts if it is ignored elsewhere too: with the others from x or from the baseline, on the
    line between both, and anywhere in the range. A path, and coalitions, read the score there. [sundararajan2017]
    """

    features: int = 16
    draws: int = 16
    tolerance: float = 1e-6
    meaning: ClassVar[str] = "relevance given to features that the model ignores"
    brief: ClassVar[tuple[str, str]] = ("nothing for ignored features", "relevance for ignored features")
    passes: ClassVar[str] = "features that the model ignores got nothing"
    fails: ClassVar[str] = "features that the model ignores got relevance"

    def __post_init__(self) -> None:
        require(self.features >= 1, self, "features", "1 or more")
        require(self.draws >= 1, self, "draws", "1 or more")

    def run(self, case: Case) -> Measured:
        if case.decimals is not None:
            raise NotApplicable(
                f"the model's outputs are rounded to {case.decimals} decimals: a score that stays may have changed"
            )
        x = case.x
        low, high = x.flatten(1).amin(1), x.flatten(1).amax(1)
        width = (high - low).clamp(min=1e-3).view(-1, *[1] * (x.ndim - 1))
        low = low.view(width.shape)
        units = _tried(case, self.features)
        at_x = case.attribution.score
        ignored = _flat(case).gather(1, units)
        rounding = _rounding(case)

        def stays(k: int, draws: range) -> Tensor:
            mask = over_units(_only(case, units[:, k]), x)

            def drawn(label: str) -> Tensor:
                return torch.where(mask, low + width * case.rng.uniform(label, x.shape[1:], x), x)

            unit = units[:, k].tolist()
            labels = [f"dummy {k} {draw}" for draw in draws]
            asked = (Asked([(label, each) for each in unit], partial(drawn, label)) for label in labels)
            return ((case.scores(asked) - at_x).abs() <= rounding).all(0)

        # Two draws first; the rest only where they left the score of some example as it is.
        for draws in (range(min(2, self.draws)), range(2, self.draws)):
            for k in ignored.any(0).nonzero()[:, 0].tolist() if draws else ():
                ignored[:, k] &= stays(k, draws)
        found = units_of(case.attribution.values.abs())
        scale = found.amax(1).clamp(min=torch.finfo(found.dtype).tiny)
        share = found.gather(1, units).double() / scale[:, None]
        every = torch.arange(len(case), device=x.device)
        while bool((doubted := (share * ignored).amax(1) > self.tolerance).any()):
            first = (share * ignored).argmax(1)  # the one that fails the map, unless it matters elsewhere
            matters = _matters_elsewhere(case, units[every, first], doubted)
            if not bool(matters.any()):
                break
            ignored[every[matters], first[matters]] = False
        values = (share * ignored).amax(1)
        measured = self.judged(values, case.x, {"ignored": ignored.sum(1)})
        return measured.unknown_where(~ignored.any(1), "the score ignores none of the features tried")


def _matters_elsewhere(case: Case, unit: Tensor, asked: Tensor) -> Tensor:
    """Find for the examples `asked` `(n,)` whether the score depends on the unit `(n,)` elsewhere; False for others."""
    x, reference = case.x, case.reference().expand_as(case.x)
    count, column = space_of(x).numel(), (-1, *[1] * (x.ndim - 1))
    both = torch.cat([x.flatten(1), reference.flatten(1)], 1)
    low, width = both.amin(1).view(column), (both.amax(1) - both.amin(1)).clamp(min=1e-3).view(column)
    here = over_units(_only(case, unit), x)
    own = list(zip(unit.tolist(), contents(reference), asked.tolist(), strict=True))

    def place(k: int) -> Tensor:
        """Return x and the reference mixed by units, two times of four, a point between them, and one of the range."""
        if k % 4 == 2:
            return torch.lerp(reference, x, case.rng.uniform(f"time {k}", (1,), x).view(column))
        if k % 4 == 3:
            return low + width * case.rng.uniform(f"place {k}", x.shape[1:], x)
        drawn = case.rng.uniform(f"coalition {k}", (count,), x) < 0.5
        if 1 << count <= ELSEWHERE // 2:  # each coalition once
            drawn = ((2 * (k // 4) + k % 4) >> torch.arange(count, device=x.device) & 1 == 1).expand_as(drawn)
        return torch.where(over_units(drawn, x), x, reference)

    def changed(rows: Tensor) -> Tensor:
        return torch.where(asked.view(column), rows, x)

    def pair(k: int) -> Iterator[Asked]:
        """Yield the place with the unit as at x, and as at the reference or as drawn."""
        there = place(k)
        for which, other in enumerate((x, reference if k % 4 < 2 else there)):
            keys = [("elsewhere", k, which, *key) if wanted else ITSELF for *key, wanted in own]
            yield Asked(keys, partial(changed, torch.where(here, other, there)))

    matters = torch.zeros_like(asked)
    differentiable = case.score.runner.differentiable
    for k in range(ELSEWHERE):
        one, other = case.scores(pair(k))
        rounding = rounding_of(x.dtype, one, other) if differentiable else torch.zeros_like(one)
        matters |= asked & ((one - other).abs() > rounding.maximum(_rounding(case)))
        if bool((matters == asked).all()):
            break
    return matters


def _tried(case: Case, features: int) -> Tensor:
    """Return the units to try `(n, k)`: all of them, or `features` drawn at random for each example."""
    count = space_of(case.x).numel()
    if count <= features:
        return torch.arange(count, device=case.x.device).expand(len(case), -1)
    return case.rng.permutation("features", count)[:, :features].to(case.x.device)


def _only(case: Case, unit: Tensor) -> Tensor:
    """Return a mask `(n, units)` that is True at one unit of each example."""
    chosen = torch.zeros(len(case), space_of(case.x).numel(), dtype=torch.bool, device=case.x.device)
    return chosen.scatter_(1, unit[:, None], True)


def _flat(case: Case) -> Tensor:
    """Find the units `(n, units)` at which the score has a slope of exactly 0; all units of a black box."""
    if not case.score.runner.differentiable:
        return torch.ones(len(case), space_of(case.x).numel(), dtype=torch.bool, device=case.x.device)
    target, outputs = case.target, case.attribution.outputs
    if isinstance(target, Probability | LogProbability):
        several = outputs is None or outputs.shape[-1] > 1
        target = CentredLogit(target.index) if several else Logit(target.index)
    score = replace(case.score, target=target, inputs=None, at_inputs=None)

    def flat() -> Tensor:
        return units_of(score.gradient(case.x).abs()) == 0

    return case.once(("flat", target), flat)


def _rounding(case: Case) -> Tensor:
    """Return how far `(n,)` a score may differ between passes of different sizes; 0 for a black box."""
    at_x, outputs = case.attribution.score, case.attribution.outputs
    if not case.score.runner.differentiable:
        return torch.zeros_like(at_x)
    return rounding_of(case.x.dtype, at_x, *([] if outputs is None else [outputs.abs().flatten(1).amax(1)]))


@dataclass(frozen=True)
class Linearity(HardCheck):
    r"""The map of $\alpha f_1 + \beta f_2$ is $\alpha A_1 + \beta A_2$: max difference over the map's maximum.

    $f_1$ is the explained logit, $f_2$ the next likeliest class's. Explanations by rules and rectified maps fail it,
    which is a property of the method. A method that stops by what it finds is compared with as many nodes or samples
    for each score where it would fail. [sundararajan2017]
    """

    alpha: float = 2.0
    beta: float = -0.5
    tolerance: float | None = None
    meaning: ClassVar[str] = "whether the map of a mixture of scores is the mixture of their maps"
    brief: ClassVar[tuple[str, str]] = ("linear in the score", "not linear in the score")
    passes: ClassVar[str] = "the map of a mixture of scores is the mixture of their maps"
    fails: ClassVar[str] = "the map of a mixture of scores is not the mixture of their maps"

    def limit(self, x: Tensor) -> float:
        return 100 * _rounding_of(x) if self.tolerance is None else self.tolerance

    def maps(self) -> float:
        return 2.0

    def run(self, case: Case) -> Measured:
        outputs, target = case.attribution.outputs, case.target
        if not isinstance(target, ClassTarget) or outputs is None or outputs.ndim != 2 or outputs.shape[1] < 2:
            raise NotApplicable("linearity is tested between two classes, and this target or model has no second one")
        classes = torch.as_tensor(target.index, device=outputs.device).expand(len(outputs))
        rest = outputs.scatter(1, classes[:, None], -torch.inf)
        first, other = Logit(tuple(classes.tolist())), Logit(tuple(rest.argmax(1).tolist()))
        mixed = Combination(first, other, self.alpha, self.beta)
        own = case.attribution.values if type(target) is Logit else case.explain(target=first).values
        notes: tuple[str, ...] = ()
        values = self._difference(case, own, other, mixed)
        if bool((values > self.limit(case.x)).any()) and (fixed := _without_stop(case)) is not None:
            # Scores of other slopes are integrated at other points, to the tolerance, which is no matter of linearity.
            values = self._difference(fixed, fixed.explain(target=first).values, other, mixed)
            notes = ("compared with as many nodes or samples for each score, so that where each stops fails no map",)
        return self.judged_maps(values, case, notes=notes)

    def _difference(self, case: Case, own: Tensor, other: Target, mixed: Target) -> Tensor:
        expected = self.alpha * own + self.beta * case.explain(target=other).values
        return relative_difference(expected, case.explain(target=mixed).values)


def _without_stop(case: Case) -> Case | None:
    """Return the case with a method that takes all its nodes or samples; None where it does so already."""

    def whole(part: Any) -> Any:
        if isinstance(part, IntegratedGradients) and part.stop is not None:
            return replace(part, quadrature=part.rule, tolerance=None)
        if isinstance(part, BlurIntegratedGradients) and part.stop is not None:
            return replace(part, steps=part.first.n, tolerance=None)
        goals = {name: None for name in ("tolerance", "steadiness") if getattr(part, name, None) is not None}
        return rebuilt(replace(part, **goals), whole) if isinstance(part, Method) and goals else part

    method = rebuilt(case.method, whole)
    return None if method is case.method else replace(case, method=method)


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
