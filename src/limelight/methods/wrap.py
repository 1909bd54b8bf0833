"""Smoothing: statistics of any method's maps over noisy copies of the input."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import LATER, require, require_number, require_steadiness, require_tolerance, require_whole
from ..base.notes import Note, renumbered
from ..base.view import View
from ..engine.score import Score
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs, convergence
from .gradient import Gradient
from .moments import Moments, spread_over
from .stopping import Goal, Halves, of_example

FIRST_STAGE = 8  # samples before the first test of the tolerance; each later test doubles them


class _MeanOf:
    """The mean over maps of `power` of the map."""

    def __init__(self, like: Tensor, power: int) -> None:
        self._moments = Moments(like)
        self._power = power

    def add(self, examples: Tensor, unit: tuple[Tensor, ...]) -> None:
        self._moments.add(examples, torch.stack([each.double() ** self._power for each in unit]).mean(0))

    def value(self) -> Tensor:
        return self._moments.mean()

    def standard_error(self) -> Tensor:
        return self._moments.standard_error()

    def halves(self) -> Halves | None:
        return self._moments.halves()


class _Variance:
    """The population variance over maps, with its standard error by the delta method.

    A unit is one map or an antithetic pair. With k a fixed shift, s the unit's mean and d^2 its inner variance, the
    variance is mean(q) - mean(v)^2 for v = s - k and q = v^2 + d^2, so a unit's influence is q - 2 mean(v) v.
    """

    def __init__(self, like: Tensor) -> None:
        self._maps, self._q, self._v = Moments(like), Moments(like), Moments(like)
        self._shift: Tensor | None = None
        self._cross: Tensor | None = None

    def add(self, examples: Tensor, unit: tuple[Tensor, ...]) -> None:
        maps = torch.stack(unit).double()
        middle = maps.mean(0)
        if self._shift is None or self._cross is None:
            self._shift = middle.new_zeros((len(self._maps.count), *middle.shape[1:]))
            self._cross = torch.zeros_like(self._shift)
        new = self._maps.count[examples] == 0
        self._shift[examples[new]] = middle[new]
        for each in unit:
            self._maps.add(examples, each)
        v = middle - self._shift[examples]
        q = v**2 + (maps - middle).square().mean(0)
        before, _ = self._q.add(examples, q)
        _, after = self._v.add(examples, v)
        self._cross[examples] += before * after

    def value(self) -> Tensor:
        return self._maps.variance()

    def halves(self) -> Halves | None:
        q, v = self._q.halves(), self._v.halves()
        return None if q is None or v is None else (q[0] - v[0] ** 2, q[1] - v[1] ** 2)

    def standard_error(self) -> Tensor:
        assert self._cross is not None
        count = self._q.column()
        pull = 2 * self._v.exact_mean()
        squares = self._q.squares() - 2 * pull * self._cross + pull**2 * self._v.squares()
        return (squares.clamp(min=0) / ((count - 1) * count)).sqrt().to(self._maps.dtype)


Statistic = _MeanOf | _Variance  # adds one map at a time, or an antithetic pair of them


@dataclass(frozen=True)
class Smoothing(Method):
    """Base of the smoothing methods: `samples` maps of `inner` at x + N(0, sigma^2), sigma = noise x range of x.

    `antithetic` draws the noise in pairs of opposite sign, which cancels its first-order effect on a mean. `stderr`
    counts a pair as one draw. `tolerance` stops an example as soon as |stderr| / |map| (L2) is below it after 8, 16,
    32, ... samples, `steadiness` as soon as two runs would correlate by so much as drawn (the lower end of the interval
    of `Attribution.steadiness`); with both it meets both. `samples` is then the most it may take.
    """

    inner: Method = field(default_factory=Gradient)
    samples: int = 32
    noise: float = 0.15
    antithetic: bool = True
    tolerance: float | None = None
    steadiness: float | None = field(default=None, kw_only=True, metadata=LATER)

    per_unit: ClassVar[bool] = True
    no_sum: ClassVar[str | None] = "a statistic over noisy inputs promises no sum at the input itself"

    def __post_init__(self) -> None:
        require(isinstance(self.inner, Method), self, "inner", "a method such as Gradient()")
        require_whole(self, "samples", 1)
        if self.antithetic:
            require(self.samples % 2 == 0, self, "samples", "an even number with antithetic=True")
        require_number(self, "noise", lambda noise: noise >= 0, "0 or a positive share of the input's range")
        require_tolerance(self)
        require_steadiness(self)

    @property
    def by_part(self) -> bool:  # type: ignore[override]  # as the inner method reads
        return self.inner.by_part

    @property
    def view(self) -> View:  # type: ignore[override]  # as the inner map scatters
        return self.inner.view

    @property
    def goal(self) -> Goal:
        return Goal(self.tolerance, self.steadiness, self.view)

    @property
    def needs(self) -> Needs:
        return replace(self.inner.needs, at_inputs=False, value=False, value_at_baseline=False, own_scores=False)

    def rows(self, features: torch.Size) -> int | None:
        inner, needs = self.inner.rows(features), self.inner.needs
        if inner is None or self.goal.is_set:
            return None
        return self.samples * (inner + needs.value + needs.value_at_baseline)

    @abstractmethod
    def statistic(self, like: Tensor) -> Statistic: ...

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        statistic, goal = self.statistic(x), self.goal
        notes: list[Note] = []
        active = torch.arange(len(x), device=x.device)
        for start, stop in goal.stages(FIRST_STAGE, self.samples):
            first: Tensor | None = None
            for sample, examples, maps in self._maps(score, x, baseline, rng, range(start, stop), active, notes):
                if not self.antithetic:
                    statistic.add(examples, (maps,))
                elif sample % 2 == 0:
                    first = maps.new_empty((len(x), *maps.shape[1:])) if first is None else first
                    first[examples] = maps
                else:
                    assert first is not None
                    statistic.add(examples, (first[examples], maps))
            if not goal.is_set:
                break
            error = _norm(statistic.standard_error()[active]) / _norm(statistic.value()[active])
            halves, good = statistic.halves() if self.steadiness is not None else None, []
            # A NaN, from too few samples or an empty map, is never good.
            for i, each in zip(active.tolist(), error.tolist(), strict=True):
                ok, detail = goal.met(each, of_example(halves, i))
                good.append(ok)
                if ok or stop == self.samples:
                    notes.append(convergence(ok, f"after {stop} samples", detail, i))
            active = active[~torch.tensor(good, device=x.device)]
            if not len(active):
                break
        stderr = statistic.standard_error()
        if self.samples // (2 if self.antithetic else 1) < 2:
            notes.append(Note("caution", "stderr is NaN: a single draw has no known spread; use more samples"))
        return Estimate(statistic.value(), stderr, notes=tuple(notes), halves=statistic.halves())

    def _maps(
        self, score: Score, x: Tensor, baseline: Tensor, rng: Streams, samples: range, active: Tensor, notes: list[Note]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield maps of the active examples by sample: (sample, examples, maps). Rows of all samples are packed."""
        sigma = self.noise * spread_over(x)
        flat = [(sample, example) for sample in samples for example in active.tolist()]
        start = 0
        cautions: list[Note] = []
        balances: list[Note] = []
        while start < len(flat):
            group = flat[start : start + score.rows_per_pass]
            start += len(group)
            examples = torch.tensor([example for _, example in group], device=x.device)
            noise = torch.cat([self._noise(sample, rng.select([example]), x) for sample, example in group])
            maps = self.inner.run(
                score.select(examples),
                x[examples] + sigma[examples] * noise,
                baseline[:, examples] if self.needs.references else baseline[examples],
                rng.select(examples.tolist()).fork([f"sample {sample}" for sample, _ in group]),
            )
            places = examples.tolist()
            cautions += _cautions(maps.notes, places)
            balances += _cautions(maps.shares.notes() if maps.shares else (), places)
            for sample in dict.fromkeys(sample for sample, _ in group):
                mine = torch.tensor([s == sample for s, _ in group], device=x.device)
                yield sample, examples[mine], maps.values[mine]
        unfinished = [note for note in cautions if note.kind == "not-converged"]
        if unfinished:
            text = f"{len(unfinished)} of {len(flat)} inner maps did not converge: {unfinished[0]}"
            notes.append(Note("not-converged", text))
        notes += [note for note in cautions if note.kind != "not-converged" and note not in notes]
        for example in dict.fromkeys(note.example for note in balances):  # one note, for each map has other numbers
            those = [note for note in balances if note.example == example]
            text = f"{len(those)} of {len(samples)} inner maps: {those[0].text}"
            notes.append(Note("caution", text, example))

    def _noise(self, sample: int, rng: Streams, x: Tensor) -> Tensor:
        draw, opposite = divmod(sample, 2) if self.antithetic else (sample, 0)
        noise = rng.normal(f"noise {draw}", x.shape[1:], x)
        return -noise if opposite else noise


def _cautions(notes: Iterable[str], examples: Sequence[int]) -> tuple[Note, ...]:
    """Return the cautions among an inner map's notes, whose rows are these examples."""
    return renumbered([note for note in map(Note.of, notes) if note.is_caution], lambda row: examples[row])


def _norm(maps: Tensor) -> Tensor:
    return maps.double().flatten(1).square().sum(1).sqrt()


@dataclass(frozen=True)
class SmoothGrad(Smoothing):
    r"""The mean map over noisy copies of the input.

    $$A = \frac1n \sum_{j=1}^n M(x + \sigma\epsilon_j), \quad \epsilon_j \sim \mathcal{N}(0, 1)$$

    for any method M; with Gradient, SmoothGrad as published. [smilkov2017]

    >>> a = ll.explain(model, x, ll.SmoothGrad(ll.Gradient(), samples=16), target=2)
    >>> a.values.shape, a.stderr.shape
    (torch.Size([2, 3, 16, 16]), torch.Size([2, 3, 16, 16]))
    """

    def statistic(self, like: Tensor) -> Statistic:
        return _MeanOf(like, 1)


@dataclass(frozen=True)
class SmoothGradSquared(Smoothing):
    r"""The mean squared map, $A = \frac1n \sum_j M(x + \sigma\epsilon_j)^2$. [hooker2019]

    Pairs of opposite noise have nearly the same square, so draws are independent by default.

    >>> bool((ll.explain(model, x, ll.SmoothGradSquared(samples=8), target=2).values >= 0).all())
    True
    """

    antithetic: bool = False

    def statistic(self, like: Tensor) -> Statistic:
        return _MeanOf(like, 2)


@dataclass(frozen=True)
class VarGrad(Smoothing):
    r"""The variance of the map, $A = \frac1n \sum_j (M(x + \sigma\epsilon_j) - \bar M)^2$. [adebayo2018local]

    Computed by Welford's update, so it is never negative. Draws are independent by default, as for the square.

    >>> bool((ll.explain(model, x, ll.VarGrad(samples=8), target=2).values >= 0).all())
    True
    """

    antithetic: bool = False

    def statistic(self, like: Tensor) -> Statistic:
        return _Variance(like)
