"""Shapley values by definition: from every coalition, or from sampled orders of the players."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import LATER, require, require_steadiness, require_tolerance, require_whole
from ..base.notes import Note
from ..engine.score import Score
from ..question.players import Players
from ..question.random_streams import Streams
from .base import Estimate, convergence
from .coalitions import Game, GameMethod, check_table, every_coalition, every_one_pays
from .stopping import Goal, Halves
from .two_precision import Sampler, TwoPrecision

MOST_PLAYERS = 16
PILOT = 4  # orders that are run in both precisions first
FIRST_STAGE = 8  # permutations before the first test of the tolerance; each later test doubles them


def shapley_values(worth: Tensor) -> Tensor:
    r"""Compute Shapley values `(M,)` from v of every coalition `(2**M,)`, player i being bit i.

    $$\phi_i = \sum_{S \not\ni i} \frac{|S|!\,(M - |S| - 1)!}{M!}\,\bigl(v(S \cup i) - v(S)\bigr)$$
    """
    players = len(worth).bit_length() - 1
    number = torch.arange(len(worth))
    weight = torch.tensor([1 / (players * math.comb(players - 1, size)) for size in range(players)], dtype=worth.dtype)
    size = every_coalition(players).sum(1)
    found = []
    for player in range(players):
        without = number[(number >> player) & 1 == 0]
        found.append((weight[size[without]] * (worth[without | 1 << player] - worth[without])).sum())
    return torch.stack(found)


@dataclass(frozen=True)
class ExactShapley(GameMethod):
    r"""Shapley values from every coalition of the players, each evaluated once: $2^M$ rows, at most 16 players.

    $$\phi_i = \sum_{S \not\ni i} \frac{|S|!\,(M - |S| - 1)!}{M!}\,\bigl(v(S \cup i) - v(S)\bigr)$$

    v(S) is the score where the players outside S are as in the baseline. The default players of a picture are a
    3 x 3 grid. Raises ValueError for more than 16 players. [shapley1953]

    >>> a = ll.explain(model, x, ll.ExactShapley(ll.Grid(2)), target=2)
    >>> a.raw.shape, torch.allclose(a.raw.sum(1), a.score - a.baseline_score, atol=1e-5)
    (torch.Size([2, 4]), True)
    """

    players: Players | None = None

    cells: ClassVar[int] = 3

    def rows(self, features: torch.Size) -> int | None:
        count = self.count(features)
        return None if count is None else (1 << count) - 2

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        game = self.game(score, x, baseline, rng)
        if max(game.counts) > MOST_PLAYERS:
            raise ValueError(
                f"ExactShapley.players={self.players!r} gives {max(game.counts)} players, and every coalition of more "
                f"than {MOST_PLAYERS} is too many; use fewer, such as Grid(4), Windows() or Columns([...]), or "
                "KernelShap or PermutationShap"
            )
        worth = game.worth([every_coalition(count) for count in game.counts])
        game.enough(False)
        return game.estimate([shapley_values(each) for each in worth], None)


@dataclass(frozen=True)
class _Orders(GameMethod):
    """Base of the methods that add the players one after the other, in random orders.

    `tolerance` stops an example as soon as its largest standard error is below that share of the range of its values
    after 8, 16, 32, ... orders, `steadiness` as soon as two runs would correlate by so much as drawn (the lower end of
    the interval of `Attribution.steadiness`); `permutations` is then the most it may take. Where all coalitions cost no
    more rows than the orders, those that the orders left out are run too, and the values are exact.
    """

    permutations: int = 64
    tolerance: float | None = field(default=None, kw_only=True)
    steadiness: float | None = field(default=None, kw_only=True, metadata=LATER)

    paired: ClassVar[bool]
    rows_at_most: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, "permutations", 1)
        require_tolerance(self)
        require_steadiness(self)
        if self.paired:
            require(self.permutations % 2 == 0, self, "permutations", "an even number: each order and its reverse")

    @property
    def goal(self) -> Goal:
        return Goal(self.tolerance, self.steadiness, self.view)

    @property
    def unit(self) -> int:
        """The orders of one draw."""
        return 2 if self.paired else 1

    def rows(self, features: torch.Size) -> int | None:
        count = self.count(features)
        if count is None or self.goal.is_set:
            return None
        return min(self._inner(count), (1 << count) - 2)

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        game = self.game(score, x, baseline, rng)
        found: list[list[Tensor]] = [[] for _ in game.counts]  # one tensor (M,) an order, or a pair of them
        in_two = [i for i, count in enumerate(game.counts) if not every_one_pays(count, self._inner(count))]
        twice = {i: _Twice(self, game, i, game.bfloat16.cost) for i in in_two if game.bfloat16}
        notes: list[Note] = []
        exact: dict[int, Tensor] = {}
        active, goal = list(range(len(game.counts))), self.goal
        for start, stop in goal.stages(FIRST_STAGE, self.permutations):
            for first, last in _blocks(start, stop, max(game.counts), self.unit):
                for i in set(active) & twice.keys():
                    twice[i].extend(range(first // self.unit, last // self.unit))
                if not game.interrupted:
                    self._add(game, found, [i for i in active if i not in twice], first, last)
            for i in set(active) & twice.keys():
                found[i] = twice[i].results(stop // self.unit)
            exact |= self._exact(game, active, stop)
            if not goal.is_set or game.interrupted:
                break
            for i in list(active):
                error = 0.0 if i in exact else game.relative_error(i, *_summary(found[i]))
                done, detail = game.met(goal, i, error, (exact[i],) * 2 if i in exact else _halves(found[i]))
                if done or stop == self.permutations:
                    notes.append(convergence(done, f"after {stop} permutations", detail, i))
                    active.remove(i)
        game.enough(all(each or i in exact for i, each in enumerate(found)))
        summaries = [
            (exact[i], torch.zeros_like(exact[i])) if i in exact else _summary(each) for i, each in enumerate(found)
        ]
        if any(bool(error.isnan().any()) for _, error in summaries):
            notes.append(Note("caution", "stderr is NaN: a single draw has no known spread; use more permutations"))
        notes += game.exactness(list(exact))
        notes += [each.rows.note(len(found[i]), "orders", i) for i, each in twice.items()]
        halves = [(exact[i],) * 2 if i in exact else _halves(each) for i, each in enumerate(found)]
        return game.estimate([mean for mean, _ in summaries], [error for _, error in summaries], notes, halves)

    def _inner(self, players: int) -> int:
        """Return the rows of all orders if no two shared a coalition: those between no player and all."""
        return self.permutations * (players - 1)

    def _exact(self, game: Game, active: list[int], permutations: int) -> dict[int, Tensor]:
        """Return the Shapley values of the examples all of whose coalitions cost no more than the orders asked for.

        The orders have run most of these coalitions; the few that they left out are run now.
        """
        paid = [i for i in active if every_one_pays(game.counts[i], permutations * (game.counts[i] - 1))]
        if not paid or game.interrupted:
            return {}
        none = game.no_coalitions()
        worth = game.worth([every_coalition(game.counts[i]) if i in paid else each for i, each in enumerate(none)])
        return {i: shapley_values(worth[i]) for i in paid if len(worth[i]) == 1 << game.counts[i]}

    def _add(self, game: Game, found: list[list[Tensor]], active: list[int], first: int, last: int) -> None:
        """Run permutations `first` to `last` of the active examples and add the gain of each player to `found`."""
        orders = {i: self._orders(game, i, first, last) for i in active}
        none = game.no_coalitions()
        worth = game.worth([_prefixes(orders[i]) if i in orders else each for i, each in enumerate(none)])
        for i, order in orders.items():
            found[i] += list(self._gains(game, i, order, worth[i]))

    def _gains(self, game: Game, i: int, order: Tensor, worth: Tensor) -> Tensor:
        """Return the gain of each player, `(orders, M)` or `(pairs, M)`, of the orders whose worth is complete."""
        steps = order.shape[1] - 1
        whole = len(worth) // steps if steps else len(order)
        inner = worth[: whole * steps].reshape(whole, steps)
        empty, full = game.empty[i].expand(whole, 1), game.full[i].expand(whole, 1)
        gains = torch.cat([empty, inner, full], 1).diff(dim=1)
        each = torch.zeros_like(gains).scatter_(1, order[:whole], gains)
        return each[: whole // 2 * 2].reshape(-1, 2, each.shape[1]).mean(1) if self.paired else each

    def gains(self, game: Game, i: int, units: range, bfloat16: bool) -> Tensor:
        """Return the gains of example i's orders or pairs of these numbers, in one precision."""
        if not units:
            return torch.zeros(0, game.counts[i], dtype=torch.float64)
        orders = self._orders(game, i, units.start * self.unit, units.stop * self.unit)
        return self._gains(game, i, orders, game.worth_of(i, _prefixes(orders), bfloat16))

    def _orders(self, game: Game, i: int, first: int, last: int) -> Tensor:
        drawn = range(first // 2, last // 2) if self.paired else range(first, last)
        stream = game.rng.select([i])
        orders = torch.cat([stream.permutation(f"order {k}", game.counts[i]) for k in drawn])
        return torch.stack([orders, orders.flip(1)], 1).flatten(0, 1) if self.paired else orders


class _Twice(Sampler):
    """The orders of one example in two precisions.

    A whole order is corrected, since a player's gain is a difference of two scores that differ alike in bfloat16.
    """

    def __init__(self, method: _Orders, game: Game, i: int, cost: float) -> None:
        super().__init__(TwoPrecision(cost, PILOT))
        self._method, self._game, self._i = method, game, i
        self._others: list[Tensor] = []

    def reset(self) -> None:
        self._others = []

    def run(self, samples: range, bfloat16: bool, alone: bool) -> Tensor:
        found = self._method.gains(self._game, self._i, samples, bfloat16)
        self._others += list(found) if alone else []
        return found

    def results(self, units: int) -> list[Tensor]:
        """Return the gains of all orders so far, those run in both precisions first."""
        known, mean = self.rows.corrected(units)
        return [*known, *(each + mean for each in self._others)]


def _blocks(first: int, last: int, players: int, unit: int) -> Iterator[tuple[int, int]]:
    """Cut a stage at whole units into blocks whose tables of coalitions are not too large."""
    check_table(unit * players, players, "one permutation")
    most = max(unit, 2**24 // players**2 // unit * unit)
    for start in range(first, last, most):
        yield start, min(start + most, last)


def _prefixes(orders: Tensor) -> Tensor:
    """Return the coalitions along each order, without the empty and the full one: `(orders * (M - 1), M)`."""
    rank = orders.argsort(1)
    size = torch.arange(1, orders.shape[1])
    return (rank[:, None] < size[:, None]).flatten(0, 1)


def _summary(found: list[Tensor]) -> tuple[Tensor, Tensor]:
    values = torch.stack(found)
    if len(values) < 2:
        return values[0], torch.full_like(values[0], torch.nan)
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def _halves(found: list[Tensor]) -> Halves | None:
    """Return the means of every second draw; None of a single one."""
    return (torch.stack(found[::2]).mean(0), torch.stack(found[1::2]).mean(0)) if len(found) > 1 else None


@dataclass(frozen=True)
class ShapleySampling(_Orders):
    r"""The gain of score by each player at its turn, averaged over independent random orders.

    $$\hat\phi_i = \frac1n \sum_{k=1}^n \bigl(v(P_i^k \cup i) - v(P_i^k)\bigr)$$

    where $P_i^k$ are the players before i in order k. The values sum to f(x) - f(b) exactly, whatever n.
    `stderr` is that of a mean of n draws, and in two precisions (`methods/two_precision.py`) of both together, whole
    orders being corrected. Coalitions that orders share are evaluated once. Where all $2^M - 2$ of them cost no more
    rows than the orders (up to 9 players by default), the values are exact and `stderr` is 0. [castro2009]

    >>> ll.explain(model, x, ll.ShapleySampling(8, players=ll.Grid(4)), target=2).stderr.shape
    torch.Size([2, 1, 16, 16])
    """

    paired: ClassVar[bool] = False
    two_precisions: ClassVar[bool] = True


@dataclass(frozen=True)
class PermutationShap(_Orders):
    r"""The gain of score by each player at its turn, averaged over random orders and their reverses.

    $$\hat\phi_i = \frac1n \sum_{k=1}^{n} \bigl(v(P_i^k \cup i) - v(P_i^k)\bigr), \qquad n \text{ even}$$

    A pair of opposite orders is exact for games of pairs, and counts as one draw in `stderr`. The values sum to
    f(x) - f(b) exactly, whatever n. Where all $2^M - 2$ coalitions cost no more rows than the orders (up to 9 players
    by default), the values are exact and `stderr` is 0. [mitchell2022]

    >>> ll.explain(model, x, ll.PermutationShap(4, players=ll.Grid(4)), target=2).raw.shape
    torch.Size([2, 16])
    """

    paired: ClassVar[bool] = True
