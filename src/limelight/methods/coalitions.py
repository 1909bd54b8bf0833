"""Games: players that are present or absent, and the score of each coalition of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..base.notes import Note
from ..engine.bfloat16_rows import Bfloat16Rows
from ..engine.score import Score, result_dtype
from ..question.players import Pixels, Players, require_players
from ..question.random_streams import Streams
from ..question.series_players import default_players
from .base import Estimate, Method, Needs, interrupted
from .stopping import Goal, Halves, above_rounding

T = TypeVar("T")

_MOST_CELLS = 2**26  # of one table of coalitions: 64 MiB of booleans


class Game:
    """v(S) for each example of a batch: the score of the input where the players outside S are as in the baseline.

    `empty`, `full` `(n,)` are v of no player and of all players. `counts` are the numbers of players. All results are
    float64 on the CPU.
    """

    def __init__(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams, players: Players) -> None:
        self._score, self._x, self._baseline, self.rng = score, x, baseline, rng
        self._players = players
        given = score.runner.given
        texts = given.texts_of(score.examples) if given is not None and score.inside is None else ()
        self.division = players.divide(x, score.examples, texts)
        self.counts = self.division.counts
        self.full, self.empty = score.values(x).double().cpu(), score.values(baseline).double().cpu()
        self.change = self.full - self.empty
        self.interrupted = False
        readers = _readers(score, x, baseline, rng, self.division.labels)
        self._group = {example: group for group, of in enumerate(readers) for example in of}
        self._known = [_Known.of(of, self.counts[of[0]], self.empty, self.full) for of in readers]
        # In bfloat16, where no player and all players keep their worth in the model's own precision.
        self._known_in_bfloat16 = [_Known.of(of, self.counts[of[0]], self.empty, self.full) for of in readers]

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._x.device

    @property
    def bfloat16(self) -> Bfloat16Rows | None:
        """The rows in that precision, where the method is to use them."""
        return self._score.bfloat16

    def worth_of(self, example: int, coalitions: Tensor, bfloat16: bool = False) -> Tensor:
        """Return v of coalitions `(k, counts[example])` of one example: float64 `(k,)`."""
        none = self.no_coalitions()
        return self.worth([coalitions if i == example else each for i, each in enumerate(none)], bfloat16)[example]

    def once_per_draws(self, make: Callable[[int], T]) -> list[T]:
        """Return `make(i)` for each example i, made once for those of equal random numbers and as many players."""
        made: dict[tuple[bytes, int], T] = {}
        keys = list(zip(self.rng.keys, self.counts, strict=True))
        for i, key in enumerate(keys):
            if key not in made:
                made[key] = make(i)
        return [made[key] for key in keys]

    def no_coalitions(self) -> list[Tensor]:
        """Return an empty table `(0, counts[i])` for each example."""
        return [torch.zeros(0, count, dtype=torch.bool) for count in self.counts]

    def worth(self, coalitions: Sequence[Tensor], bfloat16: bool = False) -> list[Tensor]:
        """Return v of `coalitions[i]`, booleans `(k_i, counts[i])`, for each example i: float64 `(k_i,)`.

        No coalition is run twice, and examples of equal content and baseline that differ in their class share the
        model's outputs. Rows go round the examples in turn. For a black box, Ctrl-C stops the run: `interrupted`
        becomes True, and the values from the first missing one on are left out. With `bfloat16` the rows are in that
        precision, and values may be NaN.
        """
        all_known = self._known_in_bfloat16 if bfloat16 else self._known
        keys: dict[tuple[int, Hashable], list[bytes]] = {}
        asked: dict[tuple[int, Hashable], Tensor] = {}
        tables = [(self._group[i], _place(each)) for i, each in enumerate(coalitions)]
        for table, own in zip(tables, coalitions, strict=True):
            if table not in keys:
                keys[table], asked[table] = _keys(own), own
        wanted: dict[tuple[int, bytes], Tensor] = {}
        for k in range(max(map(len, keys.values()), default=0)):
            for table, each in keys.items():
                if k < len(each) and each[k] not in all_known[table[0]].row:
                    wanted.setdefault((table[0], each[k]), asked[table][k])
        try:
            self._run(list(wanted.items()), bfloat16)
        except KeyboardInterrupt:
            if self._score.runner.differentiable:
                raise
            self.interrupted = True
        found = {table: all_known[table[0]].worth(each) for table, each in keys.items()}
        columns = [all_known[group].examples.index(i) for i, (group, _) in enumerate(tables)]
        return [found[table][:, column] for table, column in zip(tables, columns, strict=True)]

    def _run(self, wanted: list[tuple[tuple[int, bytes], Tensor]], bfloat16: bool) -> None:
        all_known = self._known_in_bfloat16 if bfloat16 else self._known
        start = 0
        while start < len(wanted):
            part = wanted[start : start + self._score.rows_per_pass]
            start += len(part)
            groups = [all_known[group] for (group, _), _ in part]
            example = torch.tensor([known.examples[0] for known in groups], device=self._x.device)
            coalitions = torch.zeros(len(part), self.division.most, dtype=torch.bool)
            for row, (_, members) in zip(coalitions, part, strict=True):
                row[: len(members)] = members
            present = self.division.present(example, coalitions.to(example.device))
            rows = torch.where(present, self._x[example], self._baseline[example])
            most = max(len(known.examples) for known in groups)
            readers = [[known.examples[min(k, len(known.examples) - 1)] for known in groups] for k in range(most)]
            scores = self._score.select(example).read_by(rows, self._score.examples[torch.tensor(readers)], bfloat16)
            for known, ((_, key), _), values in zip(groups, part, scores.double().cpu().T.numpy(), strict=True):
                known.add(key, values[: len(known.examples)])

    def enough(self, condition: bool) -> None:
        """Raise KeyboardInterrupt after an interruption, unless the values found before it are enough."""
        if self.interrupted and not condition:
            raise KeyboardInterrupt

    def largest(self, example: int) -> float:
        """Return the largest absolute score that was found, by which rounding is judged."""
        known = self._known[self._group[example]]
        return float(np.abs(known.values[known.examples.index(example)]).max())

    def exactness(self, exact: Sequence[int]) -> list[Note]:
        """Note which examples are exact, in one note where all are."""
        text = "exact: every coalition was evaluated"
        if len(exact) == len(self.counts):
            return [Note("fact", text)]
        return [Note("fact", text, i) for i in sorted(exact)]

    def estimate(
        self,
        values: Sequence[Tensor],
        errors: Sequence[Tensor] | None,
        notes: Sequence[str] = (),
        halves: Sequence[Halves | None] = (),
    ) -> Estimate:
        """Place the players' values and standard errors, one `(counts[i],)` an example, on the map of the input.

        `halves`: the values from both halves of each example's samples, None where there are none.
        """
        if self.interrupted:
            known = (self._known[self._group[i]] for i in range(len(self.counts)))
            samples = (len(each.row) - 2 for each in known)  # without no player and all players
            notes = [*notes, interrupted(samples)]
        notes = [*notes, *(note for i, count in enumerate(self.counts) for note in self._how_many(count, i))]
        kind = self._x.device, result_dtype(self._x)
        raw = self._padded(values)
        stderr = None if errors is None else self.division.spread(self._padded(errors)).to(*kind)
        values_, notes_ = self.division.spread(raw).to(*kind), tuple(notes)
        return Estimate(values_, stderr, raw.to(*kind), notes_, halves=self._placed(halves))

    def relative_error(self, example: int, values: Tensor, errors: Tensor) -> float:
        """Return the `relative_error` of an example's values, 0 where the errors are the rounding of its scores."""
        error = relative_error(values, errors)
        return above_rounding(error, errors, self._score.runner.precision, self.largest(example))

    def met(self, goal: Goal, example: int, error: float, halves: Halves | None) -> tuple[bool, str]:
        """Return what `Goal.met` does for an example, of the values `(counts[example],)` from both halves."""
        both = self._placed([halves if i == example else None for i in range(len(self.counts))])
        return goal.met(error, None if halves is None or both is None else (both[0][[example]], both[1][[example]]))

    def _placed(self, halves: Sequence[Halves | None]) -> Halves | None:
        """Place the values from both halves on the maps, NaN for examples without them."""
        if not any(each is not None for each in halves):
            return None
        none = [torch.full((count,), torch.nan, dtype=torch.float64) for count in self.counts]
        first, second = (
            self.division.spread(
                self._padded([empty if each is None else each[k] for each, empty in zip(halves, none, strict=True)])
            )
            for k in range(2)
        )
        return first, second

    def _how_many(self, count: int, example: int) -> list[Note]:
        """Say how many players there are where the content decides it, and of any players that one alone is no map."""
        players = self._players
        found = f"{players.as_text()} found" if players.finds else f"{players.kebab()} gives"
        if count == 1 and self.division.labels[example].numel() > 1:
            text = f"{found} a single player: the map has one value for all positions; use more segments, or a grid"
            return [Note("caution", text, example)]
        decided = players.finds or players.count(self._x.shape[1:]) is None
        return [Note("fact", f"{found} {count} players", example)] if decided else []

    def _padded(self, values: Sequence[Tensor]) -> Tensor:
        padded = torch.full((len(values), self.division.most), torch.nan, dtype=torch.float64)
        for row, each in zip(padded, values, strict=True):
            row[: len(each)] = each
        return padded


@dataclass(frozen=True)
class GameMethod(Method):
    """Base of the methods that score coalitions of `players`. None is a grid of `cells` x `cells` for pictures, and of
    about as many in all for volumes; a position of a series `(channels, length)`, or a window of a longer one, or a
    token, with all its channels; a column of a table."""

    players: Players | None = field(default=None, kw_only=True)

    cells: ClassVar[int] = 14
    other_names: ClassVar[Mapping[str, str]] = {"feature_mask": "players"}
    needs: ClassVar[Needs] = Needs(gradients=False, value=True, value_at_baseline=True, baseline=True)

    def __post_init__(self) -> None:
        require_players(self, none=True)

    def of_tokens(self) -> Method:
        return self if self.players is not None else replace(self, players=Pixels())

    def game(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Game:
        return Game(score, x, baseline, rng, self._players(x.shape[1:]))

    def count(self, features: torch.Size) -> int | None:
        """Return how many players an example of this shape has; None where that depends on its content."""
        return self._players(features).count(features)

    def _players(self, features: torch.Size) -> Players:
        return self.players if self.players is not None else default_players(features, self.cells)


def every_coalition(players: int) -> Tensor:
    """Return all subsets as booleans `(2**players, players)`; player i is bit i of the row's number."""
    return (torch.arange(2**players)[:, None] >> torch.arange(players)) & 1 == 1


def every_one_pays(players: int, rows: int) -> bool:
    """Return whether so many rows would run every coalition, of no more players than their table has room for."""
    return players << players <= _MOST_CELLS and (1 << players) - 2 <= rows


def check_table(rows: int, players: int, what: str) -> None:
    """Raise ValueError before a table of coalitions would fill the memory."""
    if rows * players > _MOST_CELLS:
        raise ValueError(
            f"players: {players} of them in {rows} coalitions of {what} are too many; use fewer, such as Grid(8) or "
            "Windows()"
        )


def relative_error(values: Tensor, errors: Tensor) -> float:
    """Return the largest standard error over the range of the values; infinite where one is unknown or the range 0."""
    found = errors.amax() / (values.amax() - values.amin())
    return float(torch.nan_to_num(found, nan=torch.inf if bool(errors.any()) else 0.0, posinf=torch.inf))


def _keys(coalitions: Tensor) -> list[bytes]:
    return [row.tobytes() for row in np.packbits(coalitions.numpy(), axis=1)]


def _place(table: Tensor) -> Hashable:
    """Return where a table lies in memory, by which one that several examples ask for is told."""
    return table.data_ptr(), tuple(table.shape), table.stride()


class _Known:
    """The worth of coalitions to `examples` that share rows: `row` by key, a column for each example."""

    def __init__(self, examples: list[int]) -> None:
        self.examples = examples
        self.row: dict[bytes, int] = {}
        self._rows: list[np.ndarray] = []

    @staticmethod
    def of(examples: list[int], players: int, empty: Tensor, full: Tensor) -> _Known:
        """Make one that knows no player and all players."""
        found = _Known(examples)
        for key, scores in zip(_keys(torch.tensor([[False] * players, [True] * players])), (empty, full), strict=True):
            found.add(key, scores[examples].numpy())
        return found

    def add(self, key: bytes, values: np.ndarray) -> None:
        self.row[key] = len(self._rows)
        self._rows.append(values)

    @property
    def values(self) -> np.ndarray:
        """The worth of all known coalitions, `(examples, known)`."""
        return np.stack(self._rows, 1)

    def worth(self, keys: Sequence[bytes]) -> Tensor:
        """Return the worth of these coalitions up to the first unknown one: float64 `(k, examples)`."""
        known = [self._rows[self.row[key]] for key in takewhile(self.row.__contains__, keys)]
        return torch.from_numpy(np.stack(known)) if known else torch.zeros(0, len(self.examples), dtype=torch.float64)


def _readers(score: Score, x: Tensor, baseline: Tensor, rng: Streams, labels: Tensor) -> list[list[int]]:
    """Group the examples of equal content, baseline, players and arguments, which share rows.

    Equal random numbers are not equal content: examples may draw those of another one, see the option `draws_of`.
    """
    groups: dict[int, list[int]] = {}
    given, examples = score.runner.given, score.examples.tolist()
    for i, key in enumerate(rng.keys):
        same = (
            first
            for first in groups
            if score.target.layer is None
            and rng.keys[first] == key
            and torch.equal(x[first], x[i])
            and torch.equal(baseline[first], baseline[i])
            and torch.equal(labels[first], labels[i])
            and (given is None or given.is_alike(examples[first], examples[i]))
        )
        groups.setdefault(next(same, i), []).append(i)
    return list(groups.values())
