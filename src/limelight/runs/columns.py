"""Columns of a run's index as arrays: numbers, each known or missing, and texts as the groups of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .stored import Run
from .tables import arrow

# Small pieces of a column take more memory than its values.
_JOINED = 256  # shards whose columns are joined at once
Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Numbers:
    """A column of numbers or truth values: `values`, 0 where they are missing, and which are `known`."""

    values: NDArray[Any]
    known: NDArray[np.bool_]

    def at(self, rows: Places) -> NDArray[Any]:
        """Return the known values of these rows, in their order."""
        values: NDArray[Any] = self.values[rows][self.known[rows]]
        return values


@dataclass(frozen=True, eq=False)
class Groups:
    """A name for each row: `names` in order, each once, and for each row the place of its name as `codes`."""

    codes: Places
    names: tuple[str, ...]

    @staticmethod
    def of(codes: Places, names: Sequence[str]) -> Groups:
        """Sort the names, join those that are equal, and leave out those without a row."""
        used, codes = np.unique(codes, return_inverse=True)
        found = [names[each] for each in used.tolist()]
        ordered = sorted(set(found))
        places = {name: place for place, name in enumerate(ordered)}
        return Groups(np.asarray([places[each] for each in found], np.int64)[codes], tuple(ordered))

    def are(self, name: str) -> NDArray[np.bool_]:
        """Say which rows have this name."""
        if name not in self.names:
            return np.zeros(len(self.codes), dtype=bool)
        found: NDArray[np.bool_] = self.codes == self.names.index(name)
        return found

    def at(self, rows: Places) -> NDArray[np.str_]:
        """Return the names of these rows."""
        found: NDArray[np.str_] = np.asarray(self.names, dtype=np.str_)[self.codes[rows]]
        return found

    def parts(self, rows: Places) -> Iterator[tuple[str, Places]]:
        """Yield each name that some of these rows have, in order, with its rows, in their order."""
        codes = self.codes[rows]
        ends = np.bincount(codes, minlength=len(self.names)).cumsum()
        ordered = rows[np.argsort(codes, kind="stable")]
        start = 0
        for name, end in zip(self.names, ends.tolist(), strict=True):
            if end > start:
                yield name, ordered[start:end]
            start = end


class Rows:
    """Rows of a run's index. `table`: a `pyarrow.Table` with texts as dictionaries."""

    def __init__(self, table: Any) -> None:
        self.table = table
        self.groups = cache(self._groups)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __contains__(self, column: str) -> bool:
        return column in self.table.column_names

    def numbers(self, column: str) -> Numbers:
        """Return a column of numbers or truth values."""
        found = self.table[column]
        return Numbers(found.fill_null(0 if found.type != arrow().bool_() else False).to_numpy(), _known(found))

    def _groups(self, column: str) -> Groups:
        """Return a column of texts without missing ones."""
        if not len(self):
            return Groups(np.zeros(0, np.int64), ())
        found = self.table[column].chunk(0)
        return Groups.of(found.indices.to_numpy().astype(np.int64), found.dictionary.to_pylist())

    def texts(self, column: str, rows: Places) -> list[str | None]:
        """Return the texts of some rows."""
        return [self.table[column][row].as_py() for row in rows.tolist()]


def _known(column: Any) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = column.is_valid().to_numpy()
    return found


def rows_of(run: Run, columns: Iterable[str]) -> Rows:
    """Read columns of the index, without the examples that failed; columns that the index lacks are left out.

    One shard is decoded at a time, and each text is kept once. Raises LookupError where nothing is done.
    """
    compute = arrow("compute")
    wanted, joined, parts = (*dict.fromkeys(columns), "error"), list[Any](), list[Any]()
    for table in run.tables(wanted):
        kept = table.filter(compute.equal(table["error"], "")).drop_columns(["error"])
        for place, field in enumerate(kept.schema):
            if arrow("types").is_string(field.type):
                kept = kept.set_column(place, field.name, kept[field.name].dictionary_encode())
        parts.append(kept)
        if len(parts) == _JOINED:
            joined, parts = [*joined, _joined(parts)], []
    return Rows(_joined([*joined, *parts]))


def _joined(tables: Sequence[Any]) -> Any:
    return arrow().concat_tables(tables).unify_dictionaries().combine_chunks()
