"""Players of tables: groups of columns, such as the one-hot columns of a category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Self

import torch
from torch import Tensor

from ..base.attribution import Attribution
from ..base.named import is_whole, require
from ..base.nearest import nearest_names
from .players import Players

Group = str | tuple[int | str, ...]


@dataclass(frozen=True)
class Columns(Players):
    """Columns of a table that are one player together, such as the one-hot columns of a category.

    `groups` lists them: each is a list of columns by number or name, `[[3, 4, 5], ["colour_red", "colour_blue"]]`, or a
    text with `*` for any letters that their names fit, `["colour_*"]`. A column in no group is a player by itself.
    Players are in the order of their first columns. Names are those of `explain(names=)`. Raises ValueError for a
    column that is in two groups, for a number or name that the table lacks, and for inputs that are no table
    `(batch, columns)`.
    """

    groups: tuple[Group, ...]
    names: tuple[str, ...] = field(default=(), repr=False, kw_only=True, compare=False)
    """Filled in by the library."""

    def __post_init__(self) -> None:
        given: Any = self.groups
        groups = tuple(tuple(each) if isinstance(each, list | tuple | range) else each for each in _listed(given))
        require(len(groups) > 0 and all(map(_is_group, groups)), self, "groups", _WANTED)
        object.__setattr__(self, "groups", groups)

    def named(self, names: Sequence[str]) -> Self:
        return replace(self, names=tuple(names)) if names else self

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        return torch.tensor(self._labels(x.shape[1:]), device=x.device).expand(x.shape)

    def count(self, features: torch.Size) -> int | None:
        if not self.names and any(isinstance(each, str) for group in self.groups for each in (group, *group)):
            return None
        return len(set(self._labels(features)))

    def grouped(self, attribution: Attribution) -> Attribution:
        """Return the map of a table with one column for each player: the sum of its columns' values.

        What a path, a gradient or a rule gives the one-hot columns of a category adds up to the category's value. A
        group's input is the place of its largest column, which is the category where they are one-hot, and its name the
        text of the group without `*`, or what its columns' names begin with. `stderr` is that of the sum where these
        players were the method's own, else None, since it is not known how the columns' errors go together. Raises
        ValueError as `labels` does.
        """
        own = self.named(attribution.names)
        places = [own._labels(attribution.inputs.shape[1:])]
        players = [[j for j, each in enumerate(places[0]) if each == label] for label in sorted(set(places[0]))]

        def summed(values: Tensor | None) -> Tensor | None:
            return None if values is None else torch.stack([values[..., each].sum(-1) for each in players], -1)

        x = attribution.inputs
        inputs = [x[:, each].argmax(1).to(x) if len(each) > 1 else x[:, each[0]] for each in players]
        values = summed(attribution.values)
        assert values is not None
        played = getattr(attribution.method, "players", None) == self
        return replace(
            attribution,
            values=values,
            inputs=torch.stack(inputs, 1),
            stderr=summed(attribution.stderr) if played else None,
            spread=None,
            names=tuple(own._name_of(each) for each in players),
        )

    def _name_of(self, columns: list[int]) -> str:
        names = [self.names[each] if self.names else f"column {each + 1}" for each in columns]
        if len(names) == 1:
            return names[0]
        text = next((each for each in self.groups if isinstance(each, str) and columns == self._found(each)), "")
        common = text.replace("*", "") or (_beginning(names) if self.names else "")
        return common.rstrip(" _-=:.") or f"{names[0]} to {names[-1]}"

    def _labels(self, features: torch.Size) -> list[int]:
        """Return the first column of each column's player."""
        if len(features) != 1:
            raise ValueError(
                f"players: {self!r} are of tables (batch, columns), an example has shape {tuple(features)}; use "
                "Windows() or Channels() for series, Grid() for pictures, Segments(map) for any"
            )
        if self.names and len(self.names) != features[0]:
            raise ValueError(f"players: {len(self.names)} names for {features[0]} columns")
        labels = list(range(features[0]))
        owner: dict[int, Group] = {}
        for group in self.groups:
            columns = self._found(group) if isinstance(group, str) else [self._place(e, features[0]) for e in group]
            for each in columns:
                if each in owner:
                    name = f" ({self.names[each]!r})" if self.names else ""
                    raise ValueError(f"players: column {each}{name} is in two groups, {owner[each]!r} and {group!r}")
                owner[each], labels[each] = group, min(columns)
        return labels

    def _found(self, pattern: str) -> list[int]:
        self._require_names(pattern)
        found = [j for j, name in enumerate(self.names) if fnmatchcase(name, pattern.replace("[", "[[]"))]
        if not found:
            raise ValueError(f"players: no column's name fits {pattern!r}; {self._nearest(pattern.replace('*', ''))}")
        return found

    def _place(self, column: int | str, columns: int) -> int:
        if isinstance(column, str):
            self._require_names(column)
            if column not in self.names:
                raise ValueError(f"players: no column is called {column!r}; {self._nearest(column)}")
            return self.names.index(column)
        if column >= columns:
            raise ValueError(f"players: Columns.groups has column {column}; the inputs have columns 0 to {columns - 1}")
        return column

    def _nearest(self, text: str) -> str:
        near = nearest_names(text, self.names)
        return f"nearest: {', '.join(near)}" if near else f"names: {', '.join(self.names[:8])}"

    def _require_names(self, group: str) -> None:
        if not self.names:
            raise ValueError(
                f"players: Columns.groups has {group!r}, and the columns have no names; give names=[...] to explain, "
                "or columns by number"
            )


_WANTED = "a list of groups such as [[3, 4, 5]], [['colour_red', 'colour_blue']] or ['colour_*']"


def _listed(groups: Any) -> Sequence[Any]:
    return (groups,) if isinstance(groups, str) else groups if isinstance(groups, list | tuple) else ()


def _is_group(group: Any) -> bool:
    if isinstance(group, str):
        return "*" in group
    return isinstance(group, tuple) and len(group) > 0 and all(isinstance(e, str) or is_whole(e, 0) for e in group)


def _beginning(names: Sequence[str]) -> str:
    """Return what all names begin with."""
    first, last = min(names), max(names)
    return first[: next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]
