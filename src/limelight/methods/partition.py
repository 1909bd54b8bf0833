"""PartitionShap: Owen values over a recursive halving of the input."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..base.named import require_whole
from ..base.notes import Note
from ..engine.score import Score
from ..question.random_streams import Streams
from .base import Estimate
from .coalitions import Game, GameMethod, check_table

SPLITS = 8  # parts that are split before their halves are run, whatever the size of a pass


class _Part(NamedTuple):
    """A group of players in one context, in the order of a heap: the largest change of the score first.

    `weight` is the share of contexts it represents, `without` and `with_it` the worth of the context alone and with
    the whole group; `serial` breaks ties in the order of creation.
    """

    urgency: float
    serial: int
    members: Tensor
    context: Tensor
    weight: float
    without: float
    with_it: float


@dataclass(frozen=True)
class PartitionShap(GameMethod):
    r"""Owen values: Shapley values of a game between the two halves of the input, then of games within each.

    A group $G$ in context $C$ is halved, across its longer side, into $L$ and $R$, and L gets
    $\tfrac12[v(C \cup L) - v(C)] + \tfrac12[v(C \cup G) - v(C \cup R)]$, R the rest; each half is then split in
    both contexts, without and with the other half. The groups with the largest change of the score are split first,
    until `evaluations` coalitions were run; the players of an undivided group share its value equally. The values sum
    to f(x) - f(b) whatever the budget, and a complete halving gives exact Owen values. [owen1977]

    Nothing is random, so there is no standard error; notes give the number of players that were separated.
    """

    evaluations: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, "evaluations", 2)

    def rows(self, features: torch.Size) -> int | None:
        count = self.count(features)
        return None if count is None else min(self.evaluations // 2 * 2, _whole(count))

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        game = self.game(score, x, baseline, rng)
        trees = [_Halving(game, i, self.evaluations // 2) for i in range(len(game.counts))]
        while any(tree.open for tree in trees) and not game.interrupted:
            chosen = [tree.choose() for tree in trees]
            worth = game.worth([_coalitions(parts, count) for parts, count in zip(chosen, game.counts, strict=True)])
            for tree, parts, each in zip(trees, chosen, worth, strict=True):
                tree.split(parts, each)
        notes = [Note("fact", tree.progress(), i) for i, tree in enumerate(trees)]
        return game.estimate([tree.values() for tree in trees], None, notes)


class _Halving:
    """The halving of one example's players so far: the undivided parts, and the values of single players."""

    def __init__(self, game: Game, i: int, splits: int) -> None:
        count = game.counts[i]
        check_table(2 * SPLITS, count, "one round")
        self._centres = game.division.centres(i)
        self._left = splits
        self._serial = 0
        self._parts: list[_Part] = []
        self._single = torch.zeros(count, dtype=torch.float64)
        none = torch.zeros(count, dtype=torch.bool)
        self._push(torch.arange(count), none, 1.0, float(game.empty[i]), float(game.full[i]))

    @property
    def open(self) -> bool:
        return bool(self._parts) and self._left > 0

    def _push(self, members: Tensor, context: Tensor, weight: float, without: float, with_it: float) -> None:
        if len(members) == 1:
            self._single[members] += weight * (with_it - without)
            return
        self._serial += 1
        urgency = -weight * abs(with_it - without)
        heapq.heappush(self._parts, _Part(urgency, self._serial, members, context, weight, without, with_it))

    def choose(self) -> list[tuple[_Part, Tensor, Tensor]]:
        """Return the next parts to split, each with its two halves."""
        number = min(SPLITS, self._left, len(self._parts))
        self._left -= number
        return [(part, *self._halves(part.members)) for part in (heapq.heappop(self._parts) for _ in range(number))]

    def _halves(self, members: Tensor) -> tuple[Tensor, Tensor]:
        centres = self._centres[members]
        axis = int((centres.amax(0) - centres.amin(0)).argmax())
        order = members[centres[:, axis].argsort(stable=True)]
        return order[: len(order) // 2], order[len(order) // 2 :]

    def split(self, chosen: list[tuple[_Part, Tensor, Tensor]], worth: Tensor) -> None:
        for k, (part, left, right) in enumerate(chosen):
            if len(worth) < 2 * k + 2:  # interrupted before this one
                heapq.heappush(self._parts, part)
                continue
            with_left, with_right = worth[2 * k : 2 * k + 2].tolist()
            half = part.weight / 2
            self._push(left, part.context, half, part.without, with_left)
            self._push(left, _joined(part.context, right), half, with_right, part.with_it)
            self._push(right, part.context, half, part.without, with_right)
            self._push(right, _joined(part.context, left), half, with_left, part.with_it)

    def values(self) -> Tensor:
        found = self._single.clone()
        for part in self._parts:
            found[part.members] += part.weight * (part.with_it - part.without) / len(part.members)
        return found

    def progress(self) -> str:
        """Describe how much of the halving is done."""
        if not self._parts:
            return "the halving is complete: exact Owen values"
        apart = torch.ones(len(self._single), dtype=torch.bool)
        for part in self._parts:
            apart[part.members] = False
        done = f"{int(apart.sum())} of {len(apart)} players were separated in every context"
        return f"{done}; use more evaluations for the rest"


def _coalitions(chosen: list[tuple[_Part, Tensor, Tensor]], players: int) -> Tensor:
    rows = [_joined(part.context, half) for part, left, right in chosen for half in (left, right)]
    return torch.stack(rows) if rows else torch.zeros(0, players, dtype=torch.bool)


def _joined(context: Tensor, members: Tensor) -> Tensor:
    both = context.clone()
    both[members] = True
    return both


def _whole(players: int) -> int:
    """Count the coalitions of a complete halving: two for each split, and each half is split in two contexts."""
    if players < 2:
        return 0
    return 2 + 2 * _whole(players // 2) + 2 * _whole(players - players // 2)
