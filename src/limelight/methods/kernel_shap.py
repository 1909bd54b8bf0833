"""KernelShap: Shapley values by regression on few coalitions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..base.named import LATER, require, require_steadiness, require_tolerance, require_whole
from ..base.notes import Note
from ..engine.score import Score
from ..question.random_streams import Streams
from .base import Estimate, convergence
from .coalitions import Game, GameMethod, check_table, every_coalition
from .kriging import Kriged, Pairs, shapley_by_kriging
from .shapley import shapley_values
from .stopping import Goal, Halves
from .two_precision import TwoPrecision, told

MOST_SAMPLES = 2**14
PILOT = 16  # pairs of each kind that are run in both precisions first
FIRST_STAGE = 128  # samples at least before the first test of the tolerance; each later test doubles them


@dataclass(frozen=True)
class KernelShap(GameMethod):
    r"""Shapley values by regression over `samples` coalitions, in pairs of a coalition and its complement.

    Exact, from all $2^M - 2$ coalitions, where that is at most twice `samples`: up to 12 players by default. Otherwise
    every player alone against all the others, then distinct random pairs, half of uniform size (leverage scores
    [musco2025]), half by fair coins. A Gaussian process for interactions of three and more players
    (`limelight.methods.kriging`) extends the linear regression of KernelSHAP [lundberg2017]: games of pairs are exact
    from $2M$ samples on, and the values always sum to f(x) - f(b). `stderr` is the posterior's, and in two precisions
    (`limelight.methods.two_precision`) also that of the corrections.

    `tolerance` stops an example as soon as its largest standard error is below that share of the range of its values
    after 128 (or 4M), 256, 512, ... samples, `steadiness` as soon as two runs would correlate by so much as drawn (the
    lower end of the interval of `Attribution.steadiness`, known from 6M samples on); `samples` is then the most it may
    take. Below $2M$ samples, plain least squares, exact for linear models alone, without `stderr`; below M - 1 a
    ValueError.

    >>> a = ll.explain(model, x, ll.KernelShap(128, players=ll.Grid(4)), target=2)
    >>> a.raw.shape, a.stderr.shape
    (torch.Size([2, 16]), torch.Size([2, 1, 16, 16]))
    """

    samples: int = 2048
    tolerance: float | None = field(default=None, kw_only=True)
    steadiness: float | None = field(default=None, kw_only=True, metadata=LATER)

    two_precisions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, "samples", 1)
        require_tolerance(self)
        require_steadiness(self)

    @property
    def goal(self) -> Goal:
        return Goal(self.tolerance, self.steadiness, self.view)

    def rows(self, features: torch.Size) -> int | None:
        count = self.count(features)
        if count is None:
            return None
        if self._exact(count):
            return (1 << count) - 2
        return None if self.goal.is_set else self._rows(count)

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        game = self.game(score, x, baseline, rng)
        designs = game.once_per_draws(lambda i: self._design(game, i))
        found: list[Kriged | None] = [None] * len(game.counts)
        taken, goal = [0] * len(game.counts), self.goal
        halves: list[Halves | None] = [None] * len(game.counts)
        twice = {i: _Twice(game, i, designs[i], game.bfloat16.cost) for i in self._in_two(game) if game.bfloat16}
        notes: list[Note] = []
        while None in found and not game.interrupted:
            active = [i for i, each in enumerate(found) if each is None]
            for i in active:
                taken[i] = self._next(taken[i], game.counts[i])
            last = {i for i in active if taken[i] >= len(designs[i])}
            worth = game.worth([design[: 0 if i in twice else taken[i]] for i, design in enumerate(designs)])
            ends = last if not game.interrupted else set(active)
            plain = {i: (designs[i][: len(worth[i])], worth[i]) for i in active if i not in twice}
            fits = self._solve(game, plain) | {i: twice[i].fit(taken[i]) for i in active if i in twice}
            in_halves = {i: each for i, each in plain.items() if i in ends or self.steadiness is not None}
            for i, each in self._halves(game, in_halves).items():
                halves[i] = each
            for i in active:
                error = game.relative_error(i, fits[i].values, fits[i].errors)
                converged, detail = game.met(goal, i, error, halves[i]) if goal.is_set else (False, "")
                if goal.is_set and (converged or i in last):
                    notes.append(convergence(converged, f"after {taken[i]} samples", detail, i))
                found[i] = fits[i] if converged or i in ends else None
        solved = [each for each in found if each is not None]
        exact = all(map(self._exact, game.counts)) and not game.interrupted
        notes += game.exactness([i for i, count in enumerate(game.counts) if self._exact(count)])
        if any(bool(each.errors.isnan().any()) for each in solved):
            text = "stderr is NaN: too few samples for more than a linear model; use 2M + 4 or more"
            notes.append(Note("caution", text))
        notes += [each.note() for each in twice.values()]
        errors = None if exact else [s.errors for s in solved]
        return game.estimate([s.values for s in solved], errors, notes, halves)

    def _exact(self, players: int) -> bool:
        return players <= 62 and 2**players - 2 <= 2 * self.samples

    def _in_two(self, game: Game) -> list[int]:
        """Return the examples whose coalitions are sampled with a standard error."""
        if self.steadiness is not None:  # which is read in one precision
            return []
        return [i for i, count in enumerate(game.counts) if not self._exact(count) and self.samples >= 2 * count]

    def _rows(self, players: int) -> int:
        return self.samples // 2 * 2 if self.samples >= 2 * players else self.samples

    def _next(self, done: int, players: int) -> int:
        """Return the rows to run until the next test of the tolerance."""
        if self._exact(players):
            return 1 << players
        first = max(FIRST_STAGE, 4 * players)
        everything = self._rows(players)
        return min(everything, max(first, 2 * done)) if self.goal.is_set else everything

    def _design(self, game: Game, i: int) -> Tensor:
        """Return the coalitions to run, in order."""
        players = game.counts[i]
        if self._exact(players):
            return every_coalition(players)
        more = f"{players - 1} or more: fewer leave the values of {players} players undetermined"
        require(self.samples >= players - 1, self, "samples", more)
        less = f"{MOST_SAMPLES} or less, whose covariances fill some gigabytes, or PermutationShap"
        require(self.samples <= MOST_SAMPLES, self, "samples", less)
        check_table(self.samples, players, "samples")
        generator = game.rng.generators("coalitions")[i]
        alone = torch.from_numpy(np.eye(players, dtype=bool)[generator.permutation(players)])
        if self.samples < 2 * players:
            return torch.cat([alone, ~alone])[: self.samples]
        pairs = torch.cat([alone, _distinct(generator, self.samples // 2 - players, players)])
        return torch.stack([pairs, ~pairs], 1).flatten(0, 1)

    def _halves(self, game: Game, sampled: dict[int, Sampled]) -> dict[int, Halves]:
        """Return the values from both halves of the random pairs, each with the players alone, that all runs share."""
        parts: dict[int, tuple[Pairs, Pairs]] = {}
        for i, (coalitions, worth) in sampled.items():
            players, pairs = game.counts[i], len(worth) // 2
            # With fewer random pairs both halves lean on the players alone, and seem more alike than two runs are.
            if self._exact(players) or pairs < 3 * players:
                continue
            whole, alone = _pairs(game, i, coalitions, worth), torch.arange(players)
            first, second = (torch.cat([alone, torch.arange(players + k, pairs, 2)]) for k in range(2))
            parts[i] = whole.part(first), whole.part(second)
        found = [
            each.values for each in shapley_by_kriging([one for both in parts.values() for one in both], game.device)
        ]
        return dict(zip(parts, zip(found[::2], found[1::2], strict=True), strict=True))

    def _solve(self, game: Game, sampled: dict[int, Sampled]) -> dict[int, Kriged]:
        """Return the values of the examples of which these coalitions and their worth are known."""
        found: dict[int, Kriged] = {}
        games: dict[int, Pairs] = {}
        for i, (coalitions, worth) in sampled.items():
            players, change = game.counts[i], float(game.change[i])
            if self._exact(players):
                game.enough(len(worth) == 2**players)
                values = shapley_values(worth)
                found[i] = Kriged(values, torch.zeros_like(values))
            elif self.samples >= 2 * players:
                game.enough(len(worth) // 2 >= players)
                games[i] = _pairs(game, i, coalitions, worth)
            else:
                game.enough(len(worth) >= players - 1)
                # The values sum to the change: this equation eliminates the last player.
                table = coalitions.double()
                target = worth - game.empty[i] - table[:, -1] * change
                others = torch.linalg.lstsq(table[:, :-1] - table[:, -1:], target[:, None], driver="gelsd").solution
                values = torch.cat([others[:, 0], change - others.sum(0)])
                found[i] = Kriged(values, torch.full_like(values, torch.nan))
        return found | dict(zip(games, shapley_by_kriging([*games.values()], game.device), strict=True))


Sampled = tuple[Tensor, Tensor]  # the coalitions of an example and their worth


def _pairs(game: Game, i: int, coalitions: Tensor, worth: Tensor) -> Pairs:
    """Return coalitions that each stand before their complement as pairs."""
    whole = len(worth) // 2 * 2
    first, second = worth[:whole].reshape(-1, 2).unbind(1)
    return Pairs(coalitions[:whole:2], first - second, float(game.change[i]))


class _Twice:
    """The pairs of one example in two precisions: the players alone, and the random pairs, each corrected by its own.

    The fit to the bfloat16 results is linear in them once its covariance is chosen, so the corrections add what its
    weights make of them, and their variance.
    """

    def __init__(self, game: Game, i: int, design: Tensor, cost: float) -> None:
        self._game, self._i, self._design = game, i, design
        self._kinds = (TwoPrecision(cost, PILOT), TwoPrecision(cost, PILOT))
        self._pairs = 0

    def fit(self, rows: int) -> Kriged:
        """Return the values after so many rows of the design."""
        players, self._pairs = self._game.counts[self._i], rows // 2
        kinds = list(zip(self._kinds, (range(players), range(players, self._pairs)), strict=True))
        for kind, pairs in kinds:
            self._correct(kind, pairs)
        everything, change = range(self._pairs), float(self._game.change[self._i])
        coalitions = self._design[: 2 * self._pairs : 2]
        cheap = self._differences(everything, self._pays)
        if not bool(torch.isfinite(cheap).all()):
            for kind in self._kinds:
                kind.give_up()
        if not self._pays:
            exact = Pairs(coalitions, self._differences(everything, False), change)
            return shapley_by_kriging([exact], self._game.device)[0]
        (found,) = shapley_by_kriging([Pairs(coalitions, cheap, change)], self._game.device, weights=True)
        assert found.weights is not None
        squares = found.weights.square().mean(0)  # of a pair's weights in the players' values
        error = float(found.errors.square().mean())
        if not math.isnan(error):
            added = sum(kind.spread() * float(squares[pairs.start : pairs.stop].sum()) for kind, pairs in kinds)
            for kind, pairs in kinds:
                kind.judge_by(error, added)
                self._correct(kind, pairs)
        return self._corrected(found, found.weights, kinds)

    def _corrected(self, fit: Kriged, weights: Tensor, kinds: list[tuple[TwoPrecision, range]]) -> Kriged:
        values, squares = fit.values, fit.errors.square()
        for kind, pairs in kinds:
            if not pairs:
                continue
            known, mean = kind.corrected(len(pairs))
            rise = mean.expand(len(pairs)).clone()
            rise[: len(known)] = known - kind.cheap
            own = weights[:, pairs.start : pairs.stop]
            moved = own @ rise
            values = values + moved - moved.mean()  # the sum stays f(x) - f(b)
            if len(known) < len(pairs):
                squares = squares + (own[:, : len(known)] ** 2) @ (rise[: len(known)] - mean) ** 2
        return replace(fit, values=values, errors=squares.sqrt())

    @property
    def _pays(self) -> bool:
        return all(kind.pays for kind in self._kinds)

    def _correct(self, kind: TwoPrecision, pairs: range) -> None:
        """Run as many of these pairs in both precisions as are to be."""
        while self._pays and (both := kind.next(range(len(kind.exact), len(pairs)))):
            numbers = range(pairs.start + both.start, pairs.start + both.stop)
            kind.add(self._differences(numbers, False), self._differences(numbers, True))

    def _differences(self, pairs: range, bfloat16: bool) -> Tensor:
        rows = self._design[2 * pairs.start : 2 * pairs.stop]
        return self._game.worth_of(self._i, rows, bfloat16).reshape(-1, 2).mv(torch.tensor([1.0, -1.0]).double())

    def note(self) -> Note:
        """Tell which pairs ran in which precision."""
        return told(self._kinds, self._pairs, "pairs of coalitions", self._i)


def _distinct(generator: np.random.Generator, pairs: int, players: int) -> Tensor:
    """Draw distinct coalitions of 2 to M - 2 players, no two complementary; more `pairs` continue the list."""
    found: dict[bytes, np.ndarray] = {}
    for block in _drawn(generator, players):
        for row in block:
            key = np.packbits(row ^ row[0]).tobytes()  # the one of the pair without player 0
            found.setdefault(key, row)
        if len(found) >= pairs:
            break
    rows = list(found.values())[:pairs]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, players, dtype=torch.bool)


def _drawn(generator: np.random.Generator, players: int, block: int = 256) -> Iterator[np.ndarray]:
    """Yield blocks of random coalitions without end: in turn of uniform size and by fair coins."""
    while True:
        uniform, coins = generator.integers(2, players - 1, block), generator.binomial(players, 0.5, block)
        size = np.where(np.arange(block) % 2 == 0, uniform, coins)
        rank = generator.random((block, players)).argsort(1).argsort(1)
        yield (rank < size[:, None])[(size >= 2) & (size <= players - 2)]
