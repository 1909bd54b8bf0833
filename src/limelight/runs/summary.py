"""The summary of a run: accuracy, distributions, extreme examples, failed hard tests, and the maps of each class."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .agreeing import AGREEMENT, mean_correlations
from .clusters import MOST, Cluster, clusters_of, features_of
from .stored import Run

Rows = Mapping[str, NDArray[Any]]
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
COLUMNS = ("probability", "score", "delta", "seconds")
"""The columns that examples are ranked by, beside the checks."""


@dataclass(frozen=True)
class Spread:
    """The distribution of a column for one method and group: `quantiles` are minimum, quartiles and maximum."""

    method: str
    group: str
    count: int
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Extremes:
    """The examples with the smallest and the largest figures of a column, for one method."""

    method: str
    column: str
    smallest: tuple[tuple[int, float], ...]
    largest: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Share:
    """A share: `count` of `total` examples."""

    name: str
    count: int
    total: int

    @property
    def share(self) -> float:
        return self.count / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of 95 % of the share. [wilson1927]"""
        if not self.total:
            return 0.0, 1.0
        square, n = 1.96**2, self.total
        middle = (self.share + square / (2 * n)) / (1 + square / n)
        reach = math.sqrt(square * (self.share * (1 - self.share) / n + square / (4 * n * n))) / (1 + square / n)
        return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass
class GroupMaps:
    """The maps of one class by one method: their features, their sum, and the sum of the centred maps."""

    ids: list[int] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    total: Tensor | float = 0.0
    centred: Tensor | float = 0.0
    count: int = 0

    def add(self, ids: Sequence[int], heatmaps: Tensor) -> None:
        size = heatmaps.abs().flatten(1).sum(1)[:, None, None].clamp(min=torch.finfo(torch.float64).tiny)
        scaled = heatmaps / size  # else a few strong maps would dominate the mean
        self.total = self.total + scaled.sum(0)
        self.centred = self.centred + torch.stack([_centred(each) for each in scaled]).sum(0)
        self.count += len(ids)
        room = MOST - len(self.ids)
        self.ids += ids[:room]
        self.features.append(features_of(heatmaps[:room]))

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the mean of the maps, and of the centred maps."""
        assert isinstance(self.total, Tensor) and isinstance(self.centred, Tensor)
        return self.total / self.count, self.centred / self.count


def _centred(heatmap: Tensor) -> Tensor:
    """Move a map so that the centre of its relevance is in the middle; pixels from outside are zero."""
    weight = heatmap.abs()
    if not bool(weight.any()):
        return heatmap
    kept: list[Tensor] = []
    for axis, size in enumerate(heatmap.shape):
        places = torch.arange(size)
        shift = round(size / 2 - float((weight.sum(1 - axis) * (places + 0.5)).sum() / weight.sum()))
        heatmap = heatmap.roll(shift, axis)
        kept.append((places >= shift) & (places < size + shift))
    return heatmap * (kept[0][:, None] & kept[1])


@dataclass(frozen=True)
class Summary:
    """All figures and maps of the report.

    `correlations`: for every two methods the mean rank correlation of their maps, and over how many examples.
    """

    run: Run
    accuracy: tuple[Share, ...]
    spreads: Mapping[str, tuple[Spread, ...]]
    extremes: tuple[Extremes, ...]
    failing: tuple[Share, ...]
    maps: Mapping[tuple[str, str], GroupMaps]
    clusters: Mapping[str, tuple[Cluster, ...]]
    correlations: Sequence[Sequence[tuple[float, int]]]

    @staticmethod
    def of(run: Run, most: int = 4) -> Summary:
        """Summarise a run, with `most` examples at either end. Raises LookupError where nothing is done yet."""
        rows = rows_of(run)
        explained = explained_classes(rows)
        groups = rows["label"] if any(rows["label"]) else explained
        alike = run.settings["store"] != "scores" and not run.is_of_texts  # places mean the same in all maps
        maps = maps_of(run, rows, explained) if alike else {}
        return Summary(
            run,
            tuple(accuracies(rows, groups)),
            {name: tuple(_spreads(rows, name, groups, run.methods)) for name in (*run.checks, "probability")},
            tuple(_extremes(rows, run, most)),
            tuple(failing_maps(rows, run)),
            maps,
            {method: _clusters(maps, method) for method in run.methods if maps},
            mean_correlations(rows, run.methods) if AGREEMENT in rows else (),
        )


def rows_of(run: Run) -> dict[str, NDArray[Any]]:
    """Return the columns of the index, without the examples that failed. Raises LookupError where nothing is done."""
    table = run.table()
    rows = {name: np.asarray(table[name].to_pylist(), dtype=object) for name in table.column_names}
    return {name: column[rows["error"] == ""] for name, column in rows.items()}


def explained_classes(rows: Rows) -> NDArray[Any]:
    """Name the class that each row explains; a class that was never predicted has only a number."""
    names = dict(zip(rows["prediction"], rows["predicted"], strict=True))
    classes = ("the target" if each is None else names.get(each, f"class {each}") for each in rows["target"])
    return np.asarray(list(classes), dtype=object)


def accuracies(rows: Rows, groups: NDArray[Any]) -> Iterator[Share]:
    """Yield the accuracy of all examples, then of each class."""
    known = np.flatnonzero([each is not None for each in rows["correct"]])
    _, first = np.unique(rows["id"][known], return_index=True)
    known = known[first]  # each example once: its rows are equal for all methods
    correct, groups = rows["correct"][known], groups[known]
    yield Share("all examples", int(correct.sum()), len(correct))
    for name in sorted(set(groups)):
        chosen = correct[groups == name]
        yield Share(name, int(chosen.sum()), len(chosen))


def _figures(rows: Rows, column: str, chosen: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the ids and the figures of the chosen rows that have a figure."""
    known = chosen & np.asarray([each is not None for each in rows[column]], dtype=bool)
    return rows["id"][known], rows[column][known].astype(np.float64)


def _spreads(rows: Rows, column: str, groups: NDArray[Any], methods: Sequence[str]) -> Iterator[Spread]:
    for method in methods:
        for group in sorted(set(groups)):
            _, values = _figures(rows, column, (rows["method"] == method) & (groups == group))
            if len(values):
                yield Spread(method, group, len(values), tuple(np.quantile(values, _QUANTILES).tolist()))


def _extremes(rows: Rows, run: Run, most: int) -> Iterator[Extremes]:
    for method in run.methods:
        for column in (*COLUMNS, *run.checks, *([AGREEMENT] if AGREEMENT in rows else [])):
            ids, values = _figures(rows, column, rows["method"] == method)
            order = np.argsort(values, kind="stable")
            if len(order):
                small, large = order[:most], order[::-1][:most]
                pairs = [tuple((int(ids[i]), float(values[i])) for i in part) for part in (small, large)]
                yield Extremes(method, column, *pairs)


def failing_maps(rows: Rows, run: Run) -> Iterator[Share]:
    """Yield for each method the share of maps that fail any hard test, then the share for each test."""
    for method in run.methods:
        here = rows["method"] == method
        results = {check: rows[f"{check} passed"][here] for check in run.checks}
        tested = {check: passed for check, passed in results.items() if any(each is not None for each in passed)}
        if not tested:
            continue
        failed = np.any([[each is False for each in passed] for passed in tested.values()], axis=0)
        yield Share(f"{method}: any hard test", int(failed.sum()), len(failed))
        for check, passed in tested.items():
            known = [each for each in passed if each is not None]
            yield Share(f"{method}: {check}", known.count(False), len(known))


def maps_of(run: Run, rows: Rows, groups: NDArray[Any]) -> dict[tuple[str, str], GroupMaps]:
    """Collect the maps of each method and group, with one shard in memory at a time. `groups`: of each row."""
    found: dict[tuple[str, str], GroupMaps] = defaultdict(GroupMaps)
    for shard in sorted(set(rows["shard"])):
        for method in run.methods:
            here = np.flatnonzero((rows["shard"] == shard) & (rows["method"] == method))
            if not len(here):
                continue
            kept = run.shard_maps(int(shard), method).double()
            heatmaps = kept.sum(1) if kept.ndim == 4 else kept
            for group in sorted(set(groups[here])):
                places = [i for i in here if groups[i] == group]
                offsets = torch.tensor([rows["offset"][i] for i in places])
                found[method, group].add([int(rows["id"][i]) for i in places], heatmaps[offsets])
    return dict(found)


def _clusters(maps: Mapping[tuple[str, str], GroupMaps], method: str) -> tuple[Cluster, ...]:
    """List the clusters of all classes, the most coherent first, without clusters of a single map."""
    found = [
        cluster
        for (name, group), each in maps.items()
        if name == method
        for cluster in clusters_of(group, torch.cat(each.features), each.ids)
    ]
    return tuple(sorted((each for each in found if len(each.ids) > 1), key=lambda each: -each.coherence))
