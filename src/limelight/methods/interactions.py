"""Shapley interactions: what two players add together beyond what each adds alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..base.named import require, require_whole
from ..base.notes import Note
from ..engine.score import Score, result_dtype
from ..question.random_streams import Streams
from .base import Estimate
from .coalitions import Game, GameMethod, check_table, every_coalition, every_one_pays
from .shapley import shapley_values

TOLD = 3  # pairs that the notes name
ROUNDING = 16  # units in the last place of the largest score; an interaction adds up four scores
_SURE = 1.96  # standard errors from 0 that a pair must have to be named


def shapley_interactions(worth: Tensor) -> Tensor:
    r"""Compute the Shapley interaction indices `(M, M)` from v of every coalition `(2**M,)`, player i being bit i.

    $$I_{ij} = \sum_{S \not\ni i, j} \frac{|S|!\,(M - |S| - 2)!}{(M - 1)!}\,
      \bigl(v(S \cup ij) - v(S \cup i) - v(S \cup j) + v(S)\bigr)$$

    The diagonal is 0. [grabisch1999]
    """
    players = len(worth).bit_length() - 1
    found = worth.new_zeros(players, players)
    if players < 2:
        return found
    number = torch.arange(len(worth))
    size = every_coalition(players).sum(1)
    sizes = range(players - 1)
    weight = torch.tensor([1 / ((players - 1) * math.comb(players - 2, each)) for each in sizes], dtype=worth.dtype)
    for i in range(players):
        for j in range(i):
            one, other = 1 << i, 1 << j
            s = number[(number & (one | other)) == 0]
            mixed = worth[s | one | other] - worth[s | one] - worth[s | other] + worth[s]
            found[i, j] = found[j, i] = (weight[size[s]] * mixed).sum()
    return found


def _matrix(values: Tensor, index: Tensor) -> Tensor:
    """Return half of the indices `(..., M, M)` beside the diagonal, and on it what is left of the values `(..., M)`."""
    half = index / 2
    return half + torch.diag_embed(values - half.sum(-1))


@dataclass(frozen=True)
class ShapleyInteractions(GameMethod):
    r"""Shapley values divided into a main effect of each player and an interaction of each pair.

    $$I_{ij} = \sum_{S \not\ni i, j} \frac{|S|!\,(M - |S| - 2)!}{(M - 1)!}\,
      \bigl(v(S \cup ij) - v(S \cup i) - v(S \cup j) + v(S)\bigr), \qquad
      \Phi_{ij} = \tfrac12 I_{ij},\quad \Phi_{ii} = \phi_i - \tfrac12 \sum_{j \ne i} I_{ij}$$

    with the Shapley interaction index $I$ [grabisch1999] and the Shapley values $\phi$: the rows of $\Phi$ sum to
    $\phi$ and all of it to f(x) - f(b), as in [bordt2023] at order 2 and in [lundberg2020]. `raw` is $\Phi$,
    `(n, players, players)`, `raw_stderr` its standard errors. The map is each player's `effect`: "interaction",
    $\sum_{j \ne i} \Phi_{ij}$, or "main", $\Phi_{ii}$. `notes` name the strongest pairs that differ from 0 by more than
    1.96 standard errors, by their numbers in `raw`.

    Exact, with `stderr` 0, where all $2^M - 2$ coalitions cost no more rows than `rounds`: up to 12 players by default.
    Otherwise each round draws orders in which every two players are neighbours once (the Hamiltonian paths of a
    complete graph), and their reverses; neighbours i, j after the players S give one draw of
    $v(S \cup ij) - v(S \cup i) - v(S \cup j) + v(S)$, whose mean is $I_{ij}$ without bias. A round costs
    $M (M - 1)$ rows at most, and counts as one draw in the standard errors. The default players of a picture are a
    3 x 3 grid.

    >>> ll.explain(model, x, ll.ShapleyInteractions(players=ll.Grid(2)), target=2).raw.shape
    torch.Size([2, 4, 4])
    """

    rounds: int = 32
    effect: Literal["interaction", "main"] = "interaction"

    cells: ClassVar[int] = 3
    rows_at_most: ClassVar[bool] = True
    no_sum: ClassVar[str | None] = "main effects and interactions sum to f(x) - f(baseline) together, as `raw` does"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, "rounds", 1)
        require(self.effect in ("interaction", "main"), self, "effect", "'interaction' or 'main'")

    def rows(self, features: torch.Size) -> int | None:
        count = self.count(features)
        if count is None or every_one_pays(count, self._sampled(count)):
            return None if count is None else (1 << count) - 2
        return sum(min(math.comb(count, size), self.rounds * count) for size in range(1, count))

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        game = self.game(score, x, baseline, rng)
        paid = [i for i, count in enumerate(game.counts) if every_one_pays(count, self._sampled(count))]
        draws: list[list[Tensor]] = [[] for _ in game.counts]  # one matrix (M, M) a round
        for number in range(self.rounds if len(paid) < len(game.counts) else 0):
            if not game.interrupted:
                self._add(game, draws, [i for i in range(len(game.counts)) if i not in paid], number)
        none = game.no_coalitions()
        worth = game.worth([every_coalition(game.counts[i]) if i in paid else each for i, each in enumerate(none)])
        exact = {i: worth[i] for i in paid if len(worth[i]) == 1 << game.counts[i]}
        game.enough(all(i in exact or each for i, each in enumerate(draws)))
        found = []
        for i, each in enumerate(draws):
            if i in exact:
                matrix = _matrix(shapley_values(exact[i]), shapley_interactions(exact[i]))
                found.append(_Found(matrix[None].expand(2, -1, -1)))
            else:
                found.append(_Found(torch.stack(each)))
        notes = game.exactness(list(exact))
        if min(len(each.draws) for each in found) < 2:
            notes.append(Note("caution", "stderr is NaN: a single round has no known spread; use more rounds"))
        dtype = result_dtype(x)
        for i, one in enumerate(found):
            notes.append(one.strongest(i, ROUNDING * torch.finfo(dtype).eps * float(game.largest(i))))
        values, errors = zip(*(each.effect(self.effect) for each in found), strict=True)
        matrices, matrix_errors = zip(*map(_Found.matrix, found), strict=True)
        raw, raw_stderr = (_padded(each).to(x.device, dtype) for each in (matrices, matrix_errors))
        return replace(game.estimate(values, errors, notes), raw=raw, raw_stderr=raw_stderr)

    def _sampled(self, players: int) -> int:
        """Return the rows of all rounds if no two of them shared a coalition."""
        return self.rounds * players * (players - 1)

    def _add(self, game: Game, draws: list[list[Tensor]], active: list[int], number: int) -> None:
        """Run one round of each active example; one that an interruption left incomplete is left out."""
        check_table(2 * max(game.counts) ** 2, max(game.counts), "one round")
        rounds = {i: _Round(game.rng.select([i]).permutation(f"round {number}", game.counts[i])[0]) for i in active}
        none = game.no_coalitions()
        worth = game.worth([rounds[i].coalitions() if i in rounds else each for i, each in enumerate(none)])
        for i, each in rounds.items():
            if len(worth[i]) == each.rows:
                draws[i].append(each.matrix(worth[i], float(game.empty[i]), float(game.full[i])))


class _Round:
    """Orders in which every two players are neighbours once, and their reverses: `(orders, M)`.

    With M even, the zigzag 0, 1, -1, 2, -2, ... and its rotations by 1 to M / 2 - 1 modulo M divide the pairs among
    M / 2 paths. With M odd, one player more takes part and is then left out, and the two that it parted are no
    neighbours: forwards these are after an odd number of players, backwards after an even one, so that each number is
    as frequent. The players before a place of a zigzag are an arc of the circle of all, and so are those before a pair
    with its second one: there are M arcs of each size, so that a round has M (M - 1) coalitions at most.
    `shuffled` `(M,)` are the players in the places of 0 to M - 1.
    """

    def __init__(self, shuffled: Tensor) -> None:
        players = len(shuffled)
        places = players + players % 2
        step = torch.arange(1, places)
        zigzag = torch.cat([torch.zeros(1, dtype=torch.long), torch.where(step % 2 == 1, (step + 1) // 2, -step // 2)])
        paths = (zigzag + torch.arange(places // 2)[:, None]) % places
        paths = torch.cat([paths, paths.flip(1)])
        real = paths < players
        self.orders = shuffled[paths[real]].reshape(places, players)
        place = torch.arange(places).expand(places, places)[real].reshape(places, players)
        self.neighbours = place.diff(dim=1) == 1

    @property
    def rows(self) -> int:
        return len(self.orders) * (self.orders.shape[1] - 1) + int(self.neighbours.sum())

    def coalitions(self) -> Tensor:
        """Return the players before each place, then before each pair of neighbours with its second one."""
        rank = self.orders.argsort(1)[:, None]
        size = torch.arange(self.orders.shape[1] - 1)[:, None]
        before, second = rank <= size, (rank < size) | (rank == size + 1)
        return torch.cat([before.flatten(0, 1), second[self.neighbours]])

    def matrix(self, worth: Tensor, empty: float, full: float) -> Tensor:
        r"""Return $\Phi$ `(M, M)` of these orders alone, from the worth of their coalitions."""
        orders, players = self.orders.shape
        ends = worth.new_tensor([empty, full]).expand(orders, 2)
        inner = worth[: orders * (players - 1)].reshape(orders, players - 1)
        along = torch.cat([ends[:, :1], inner, ends[:, 1:]], 1)
        values = worth.new_zeros(players).index_add_(0, self.orders.flatten(), along.diff(dim=1).flatten()) / orders
        mixed = (along[:, 2:] - along[:, 1:-1] + along[:, :-2])[self.neighbours] - worth[orders * (players - 1) :]
        one, other = self.orders[:, :-1][self.neighbours], self.orders[:, 1:][self.neighbours]
        index = worth.new_zeros(players, players).index_put_((one, other), mixed, accumulate=True)
        return _matrix(values, (index + index.T) / 2)


@dataclass(frozen=True)
class _Found:
    r"""Draws of $\Phi$ of one example, `(draws, M, M)`."""

    draws: Tensor

    def matrix(self) -> tuple[Tensor, Tensor]:
        values, errors = _with_error(self.draws)
        return (values + values.T) / 2, (errors + errors.T) / 2  # sums of equal numbers may differ in the last place

    def effect(self, which: str) -> tuple[Tensor, Tensor]:
        main = self.draws.diagonal(dim1=1, dim2=2)
        return _with_error(main if which == "main" else self.draws.sum(2) - main)

    def strongest(self, example: int, rounding: float) -> Note:
        """Name the pairs of the largest interactions, of those that are not zero within their errors and rounding."""
        values, errors = self.matrix()
        one, other = torch.triu_indices(len(values), len(values), 1)
        index, error = 2 * values[one, other], 2 * errors[one, other]
        sure = index.abs() > (_SURE * error).clamp(min=rounding)
        first = torch.where(sure, index.abs(), 0).argsort(descending=True, stable=True)[:TOLD]
        named = [
            f"{int(one[k])} and {int(other[k])}: {float(index[k]):.3g} +- {float(error[k]):.2g}"
            for k in first
            if sure[k]
        ]
        text = f"strongest interactions of {int(sure.sum())} that differ from 0: players {'; '.join(named)}"
        return Note("fact", text if named else "no interaction of two players differs from 0", example)


def _with_error(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of draws and its standard error, NaN after a single one."""
    if len(draws) < 2:
        return draws[0], torch.full_like(draws[0], torch.nan)
    return draws.mean(0), draws.std(0) / math.sqrt(len(draws))


def _padded(matrices: Sequence[Tensor]) -> Tensor:
    most = max(map(len, matrices))
    padded = torch.full((len(matrices), most, most), torch.nan, dtype=torch.float64)
    for whole, each in zip(padded, matrices, strict=True):
        whole[: len(each), : len(each)] = each
    return padded
