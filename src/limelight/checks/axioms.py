"""Hard tests of single features: what changes the score must be seen, what cannot must not be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import require
from ..question.targets import CentredLogit, Logit, LogProbability, Probability
from .base import Better, Check, Kind, Measured, nan_where
from .case import Case
from .maps import over_units, space_of, units_of


def _tried(case: Case, features: int) -> Tensor:
    """Units to try `(n, k)`: all of them, or `features` drawn at random for each example."""
    count = space_of(case.x).numel()
    if count <= features:
        return torch.arange(count, device=case.x.device).expand(len(case), -1)
    return case.rng.permutation("features", count)[:, :features].to(case.x.device)


def _only(case: Case, unit: Tensor) -> Tensor:
    """True at one unit of each example, in a shape that broadcasts to x."""
    count = space_of(case.x).numel()
    chosen = torch.zeros(len(case), count, dtype=torch.bool, device=case.x.device)
    return over_units(chosen.scatter_(1, unit[:, None], True), case.x)


def _flat(case: Case) -> Tensor:
    """Units `(n, units)` at which the score has no slope at all; every one of a black box."""
    if not case.score.runner.differentiable:
        return torch.ones(len(case), space_of(case.x).numel(), dtype=torch.bool, device=case.x.device)
    target, outputs = case.target, case.attribution.outputs
    if isinstance(target, Probability | LogProbability):
        several = outputs is None or outputs.shape[-1] > 1
        target = CentredLogit(target.index) if several else Logit(target.index)
    slope = replace(case.score, target=target, inputs=None, at_inputs=None).gradient(case.x)
    return units_of(slope.abs()) == 0


def _rounding(case: Case) -> Tensor:
    """How far `(n,)` the same score may be off in passes of another size; of a black box not at all."""
    at_x, outputs = case.attribution.score.abs(), case.attribution.outputs
    if not case.score.runner.differentiable:
        return torch.zeros_like(at_x)
    largest = at_x if outputs is None else at_x.maximum(outputs.abs().flatten(1).amax(1))
    return 64 * torch.finfo(case.x.dtype).eps * largest


@dataclass(frozen=True)
class Sensitivity(Check):
    r"""The axiom Sensitivity(a): an input that differs from the baseline in one feature and in score has to have a
    non-zero attribution at that feature. [sundararajan2017]

    For each of `features` units the baseline with that unit of x alone is scored and, where the score moved by more
    than `least` of its size, explained. Value: the share of those with no attribution; 0 passes.
    """

    features: int = 4
    least: float = 1e-5
    kind: ClassVar[Kind] = "hard"
    better: ClassVar[Better | None] = "lower"
    needs_method: ClassVar[bool] = True
    meaning: ClassVar[str] = "share of features that changed the answer alone and got no relevance"

    def __post_init__(self) -> None:
        require(self.features >= 1, self, "features", "1 or more")

    def maps(self) -> float:
        return float(self.features)

    def run(self, case: Case) -> Measured:
        reference = case.reference()
        units = _tried(case, self.features)
        alone = [torch.where(_only(case, unit), case.x, reference) for unit in units.T]
        scores = case.score.stream_values(iter([reference, *alone])).double()
        at_reference = scores[0]
        moved = (scores[1:] - at_reference).abs() > self.least * (1e-3 + at_reference.abs())
        missed = torch.zeros(len(case), device=case.x.device, dtype=torch.float64)
        for k, rows in enumerate(alone):
            index = moved[k].nonzero()[:, 0].tolist()
            if not index:
                continue
            part = case.select(index)
            values = part.explain(x=rows[index], baseline=reference[index]).values
            here = units_of(values.abs()).gather(1, units[index, k][:, None])[:, 0]
            missed[index] += (here == 0).double()
        tried = moved.sum(0)
        values, reasons = nan_where(
            missed / tried.clamp(min=1), tried == 0, "no single feature tried moved the score away from the baseline's"
        )
        return Measured(values, values == 0, {"tried": tried}, reasons)


@dataclass(frozen=True)
class Dummy(Check):
    r"""Features that the score ignores get nothing: max |A| over them, of the map's maximum.

    A unit counts as ignored when the score has a slope of exactly 0 there and `draws` random values in its place,
    within the example's range, all leave the score as it is, rounding apart. A black box has no slope; its score has to
    stay exactly. Of a probability the slope of the logit is taken, which does not vanish where the probability is full.
    `features` units are tried. [sundararajan2017]
    """

    features: int = 16
    draws: int = 16
    tolerance: float = 1e-6
    kind: ClassVar[Kind] = "hard"
    better: ClassVar[Better | None] = "lower"
    meaning: ClassVar[str] = "relevance given to features that the model ignores"

    def __post_init__(self) -> None:
        require(self.features >= 1, self, "features", "1 or more")
        require(self.draws >= 1, self, "draws", "1 or more")

    def run(self, case: Case) -> Measured:
        x = case.x
        low, high = x.flatten(1).amin(1), x.flatten(1).amax(1)
        width = (high - low).clamp(min=1e-3).view(-1, *[1] * (x.ndim - 1))
        low = low.view(width.shape)
        units = _tried(case, self.features)
        at_x = case.attribution.score
        ignored = _flat(case).gather(1, units)
        rounding = _rounding(case)

        def stays(k: int, draws: range) -> Tensor:
            mask = _only(case, units[:, k])
            rows = (
                torch.where(mask, low + width * case.rng.uniform(f"dummy {k} {d}", x.shape[1:], x), x) for d in draws
            )
            return ((case.score.stream_values(rows) - at_x).abs() <= rounding).all(0)

        # Two draws first; the rest only where they have passed in some example.
        for draws in (range(min(2, self.draws)), range(2, self.draws)):
            for k in ignored.any(0).nonzero()[:, 0].tolist() if draws else ():
                ignored[:, k] &= stays(k, draws)
        found = units_of(case.attribution.values.abs())
        scale = found.amax(1).clamp(min=torch.finfo(found.dtype).tiny)
        here = (found.gather(1, units) * ignored).amax(1).double() / scale
        none = ~ignored.any(1)
        values, reasons = nan_where(here, none, "the score ignores none of the features tried")
        return Measured(values, values <= self.tolerance, {"ignored": ignored.sum(1)}, reasons)
