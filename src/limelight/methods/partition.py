"""PartitionShap: Owen values over a recursive halving of the input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..base.named import require_whole
from ..base.notes import Note
from ..engine.score import Score
from ..question.random_streams import Streams
from ..question.series_players import Windows
from .base import Estimate
from .coalitions import Game, GameMethod, check_table

FAR = 1 / 3  # of the map's norm: its correlation with the complete map is then about 1 / sqrt(1 + FAR^2) = .95
_ROUND = 8  # groups that are run before the next are chosen, whatever the size of a pass; later an eighth of all
_PRIOR = 2  # the spread that all groups tell of counts as so many degrees of freedom of each
_MOST_ROWS = 2**24  # cells of one round's table of coalitions
_ORDER = "columns were halved in the order in which they stand, and with another the values differ; KernelShap has none"


@dataclass(frozen=True)
class PartitionShap(GameMethod):
    r"""Owen values: Shapley values of a game between the two halves of the input, then of games within each.

    A group $G$ is halved, across its longer side, into $L$ and $R$. Its value is divided by the contrast of the halves

    $$\phi_L = \tfrac12(\phi_G + D_G),\quad \phi_R = \tfrac12(\phi_G - D_G),\quad
      D_G = \operatorname{mean}_C\bigl[v(C \cup L) - v(C \cup R)\bigr]$$

    over the contexts $C$, $2^d$ of them at depth d: each group beside G or beside one that holds G is present or
    absent. All contexts of all groups give exact Owen values [owen1977]. With fewer `evaluations`, contexts are drawn
    in pairs of opposites, without replacement, so that games of pairs need one pair for each group. The next pair goes
    where it is expected to take most from the map's squared error: to a group whose halves differ by context, or to
    an undivided one of large value. The players of an undivided group share its value equally. The values sum to
    f(x) - f(b) whatever the budget.

    `stderr` is the error that is left: of sampled contexts, from the spread between pairs of the group and of all
    groups, with the correction for a finite population; in an undivided group, what halves were found to differ by
    elsewhere, which is a guess. `notes` give the players that were separated and the error of the whole map,
    $(\sum_i \mathrm{se}_i^2 / \sum_i \phi_i^2)^{1/2}$, as a caution from 1/3 on. The columns of a table are halved in
    the order in which they stand. Values depend on it, as a caution says: put related columns side by side.

    >>> ll.explain(model, x, ll.PartitionShap(64, players=ll.Grid(4)), target=2).raw.shape
    torch.Size([2, 16])
    """

    evaluations: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, "evaluations", 2)

    def rows(self, features: torch.Size) -> int | None:
        count = self.count(features)
        return None if count is None else min(2 + (self.evaluations - 2) // 4 * 4, _whole(count))

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        game = self.game(score, x, baseline, rng)
        trees = [_Halving(game, i, self.evaluations) for i in range(len(game.counts))]
        while not game.interrupted and any(chosen := [tree.choose() for tree in trees]):
            worth = game.worth([tree.coalitions(visits) for tree, visits in zip(trees, chosen, strict=True)])
            for tree, visits, each in zip(trees, chosen, worth, strict=True):
                tree.add(visits, each)
        game.enough(all(tree.is_begun for tree in trees))
        notes = [tree.progress(i) for i, tree in enumerate(trees)]
        if x.ndim == 2 and not isinstance(self.players, Windows) and max(game.counts) > 2:
            notes.append(Note("caution", _ORDER))
        return game.estimate([tree.values() for tree in trees], [tree.errors() for tree in trees], notes)


@dataclass(eq=False)
class _Group:
    """A group of players and what its contexts have given so far.

    `beside` are the groups beside it and beside those that hold it, from the top; `path` names it. `contrasts` are the
    means of v(C + L) - v(C + R) over opposite contexts, one a pair, `halves` half of the pair's difference. `value`
    and `variance` are the estimate of phi and its variance; `square` and `scale` what is expected of phi^2 and of
    `own_scale`, by this group and the others at its depth.
    """

    members: Tensor
    beside: tuple[Tensor, ...]
    path: str
    generator: np.random.Generator
    left: _Group | None = None
    right: _Group | None = None
    drawn: set[int] = field(default_factory=set)
    contrasts: list[float] = field(default_factory=list)
    halves: list[float] = field(default_factory=list)
    value: float = 0.0
    variance: float = 0.0
    square: float = 0.0
    scale: float = 0.0

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def pairs(self) -> int:
        """The pairs of opposite contexts; the whole input has one context alone."""
        return 1 << max(0, len(self.beside) - 1)

    @property
    def is_open(self) -> bool:
        return self.size > 1 and len(self.contrasts) < self.pairs

    @property
    def contrast(self) -> float:
        """The mean contrast of a group that was divided."""
        return math.fsum(self.contrasts) / len(self.contrasts)

    @property
    def deviation(self) -> float:
        """The sum of squared deviations between pairs."""
        mean = self.contrast
        return math.fsum((each - mean) ** 2 for each in self.contrasts)

    @property
    def own_scale(self) -> float:
        """The mean square of what the contexts gave, to which the spread between pairs is set in relation."""
        return math.fsum(a**2 + b**2 for a, b in zip(self.contrasts, self.halves, strict=True)) / len(self.contrasts)

    def draw(self) -> list[int]:
        """Draw the next pair of contexts as numbers whose bit k says whether group k of `beside` is present."""
        if not self.beside:
            return [0]
        while (code := int(self.generator.integers(self.pairs))) in self.drawn:
            pass
        self.drawn.add(code)
        return [2 * code, 2 * code ^ ((1 << len(self.beside)) - 1)]


class _Halving:
    """The halving of one example's players so far."""

    def __init__(self, game: Game, i: int, evaluations: int) -> None:
        self._count = game.counts[i]
        self._centres = game.division.centres(i)
        self._streams = game.rng.select([i])
        self._left = evaluations
        self._spread = self._differing = 1.0  # until groups have told
        root = self._group(torch.arange(self._count), (), "")
        root.value = float(game.change[i])
        self._groups: list[_Group] = [root]  # those that hold others before these
        check_table(4, self._count, "one pair of contexts")
        self._estimate()

    def _group(self, members: Tensor, beside: tuple[Tensor, ...], path: str) -> _Group:
        return _Group(members, beside, path, self._streams.generators(f"halving {path}")[0])

    @property
    def is_begun(self) -> bool:
        """Whether anything is known but the change of the whole."""
        return self._count < 2 or bool(self._groups[0].contrasts)

    def choose(self) -> list[tuple[_Group, list[int]]]:
        """Return the groups to run next, each with its contexts, those first that are expected to tell most."""
        gains = [(self._gain(group), -k) for k, group in enumerate(self._groups) if group.is_open]
        gains.sort(reverse=True)
        most = min(max(_ROUND, len(self._groups) // 8), max(1, _MOST_ROWS // (8 * self._count)))
        chosen = []
        for _, k in gains[:most]:
            group = self._groups[-k]
            # Both pairs at depth 2, where the first spread between pairs is seen.
            for _ in range(2 if len(group.beside) == 2 and not group.contrasts else 1):
                rows = 4 if group.beside else 2
                if self._left >= rows:
                    self._left -= rows
                    chosen.append((group, group.draw()))
        return chosen

    def coalitions(self, visits: list[tuple[_Group, list[int]]]) -> Tensor:
        """Return the coalitions C and L, C and R of each context, in order."""
        rows = torch.zeros(2 * sum(len(codes) for _, codes in visits), self._count, dtype=torch.bool)
        row = 0
        for group, codes in visits:
            left, right = self._halves(group)
            for code in codes:
                for k, members in enumerate(group.beside):
                    if code >> k & 1:
                        rows[row : row + 2, members] = True
                rows[row, left.members] = rows[row + 1, right.members] = True
                row += 2
        return rows

    def _halves(self, group: _Group) -> tuple[_Group, _Group]:
        if group.left is None or group.right is None:
            centres = self._centres[group.members]
            axis = int((centres.amax(0) - centres.amin(0)).argmax())
            order = group.members[centres[:, axis].argsort(stable=True)]
            one, other = order[: len(order) // 2], order[len(order) // 2 :]
            group.left = self._group(one, (*group.beside, other), f"{group.path}l")
            group.right = self._group(other, (*group.beside, one), f"{group.path}r")
        return group.left, group.right

    def add(self, visits: list[tuple[_Group, list[int]]], worth: Tensor) -> None:
        """Add the worth of these coalitions; after an interruption the last ones are missing."""
        row = 0
        for group, codes in visits:
            found = worth[row : row + 2 * len(codes)]
            row += 2 * len(codes)
            if row > len(worth):
                break
            contrasts = found[::2] - found[1::2]
            if not group.contrasts:
                self._groups += self._halves(group)
            group.contrasts.append(float(contrasts.mean()))
            group.halves.append(float(contrasts[0] - contrasts[-1]) / 2)
        self._estimate()

    def _estimate(self) -> None:
        """Set the values and variances of all groups, from the top down, and the two ratios that groups share."""
        seen = [group for group in self._groups if group.contrasts]
        for group, scale in zip(seen, _mixed(seen, [group.own_scale for group in seen]), strict=True):
            group.scale = scale
        several = [group for group in seen if len(group.contrasts) > 1]
        if several:
            free = math.fsum((len(group.contrasts) - 1) * group.scale for group in several)
            self._spread = math.fsum(group.deviation for group in several) / free if free else 0.0
        for group in seen:
            left, right = self._halves(group)
            left.value, right.value = (group.value + group.contrast) / 2, (group.value - group.contrast) / 2
            variance = group.variance + self._variance(group, len(group.contrasts))
            left.variance = right.variance = variance / 4
        for group, square in zip(self._groups, _mixed(self._groups, [g.value**2 for g in self._groups]), strict=True):
            group.square = square
        # The whole input counts once more, as if its halves differed by its value.
        known = math.fsum(group.square for group in seen) + self._groups[0].square
        if known:
            self._differing = (math.fsum(g.contrast**2 for g in seen) + self._groups[0].square) / known

    def _variance(self, group: _Group, pairs: int) -> float:
        """Return the variance of the mean contrast over so many pairs of contexts, drawn without replacement."""
        known = len(group.contrasts) - 1
        between = (_PRIOR * self._spread * group.scale + group.deviation) / (_PRIOR + known)
        return between / pairs * (1 - pairs / group.pairs)

    def _gain(self, group: _Group) -> float:
        """Return what one more pair of contexts is expected to take from the map's squared error."""
        if group.contrasts:
            pairs = len(group.contrasts)
            return (self._variance(group, pairs) - self._variance(group, pairs + 1)) / group.size
        return self._differing * group.square / group.size

    def values(self) -> Tensor:
        return self._on_players(lambda group: group.value / group.size)

    def errors(self) -> Tensor:
        return self._on_players(self._error)

    def _on_players(self, of_group: Callable[[_Group], float]) -> Tensor:
        found = torch.zeros(self._count, dtype=torch.float64)
        for group in self._groups:
            if not group.contrasts:
                found[group.members] = of_group(group)
        return found

    def _error(self, group: _Group) -> float:
        r"""Return the error of equal shares in a group of m players, whose halvings are expected to differ as all did.

        With $E D^2 = r \phi^2$ at each of the $\log_2 m$ halvings below, the mean square of a player's value is
        $(\phi / m)^2 (1 + r)^{\log_2 m}$, of which $(\phi / m)^2$ is that of the equal share.
        """
        below = group.square * (group.size ** math.log2(1 + self._differing) - 1)
        return math.sqrt(group.variance + below) / group.size

    def progress(self, example: int) -> Note:
        """Describe how much of the halving is done, and how far the map is from a complete one."""
        if not any(group.is_open for group in self._groups):
            return Note("fact", "the halving is complete: exact Owen values", example)
        apart = sum(group.size == 1 for group in self._groups)
        error, size = float(self.errors().norm()), float(self.values().norm())
        share = error / size if size else math.inf if error else 0.0
        off = f"{share:.0%} (root mean square)" if math.isfinite(share) else "by an unknown share"
        text = f"{apart} of {self._count} players were separated; the map is {off} off a complete halving, "
        text += f"which takes {_whole(self._count)} evaluations"
        return Note("not-converged" if share > FAR else "fact", text, example)


def _whole(players: int) -> int:
    """Count the coalitions of a complete halving: two for each split, and each half is split in two contexts."""
    if players < 2:
        return 0
    return 2 + 2 * _whole(players // 2) + 2 * _whole(players - players // 2)


def _mixed(groups: list[_Group], each: list[float]) -> list[float]:
    """Return the mean of each group's number and the mean number of the groups at its depth.

    A group alone may show nothing by chance: a value that is the sum of opposite ones, a pair of equal contexts.
    """
    depths: dict[int, list[float]] = {}
    for group, number in zip(groups, each, strict=True):
        depths.setdefault(len(group.beside), []).append(number)
    mean = {depth: math.fsum(numbers) / len(numbers) for depth, numbers in depths.items()}
    return [(number + mean[len(group.beside)]) / 2 for group, number in zip(groups, each, strict=True)]
