"""The summary of a run: accuracy, distributions, extreme examples, failed hard tests, and the maps of each class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .agreeing import AGREEMENT, agreement_columns, with_method
from .class_maps import ClassMaps, maps_of
from .clusters import Cluster
from .columns import Groups, Rows, rows_of
from .stored import Run

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


@dataclass(frozen=True)
class Summary:
    """All figures and maps of the report.

    `maps`: the maps of each method, none where the run stores none and for texts. `correlations`: for every two methods
    the mean rank correlation of their maps, and over how many examples.
    """

    run: Run
    accuracy: tuple[Share, ...]
    spreads: Mapping[str, tuple[Spread, ...]]
    extremes: tuple[Extremes, ...]
    failing: tuple[Share, ...]
    maps: Mapping[str, ClassMaps]
    correlations: Sequence[Sequence[tuple[float, int]]]

    @property
    def clusters(self) -> Mapping[str, tuple[Cluster, ...]]:
        """The clusters of each method's maps, the most coherent first."""
        return {method: each.clusters for method, each in self.maps.items()}

    @staticmethod
    def of(run: Run, most: int = 4, classes: int = 24) -> Summary:
        """Summarise a run, with `most` examples at either end, and mean maps of the `classes` with the most maps.

        Raises LookupError where nothing is done yet.
        """
        rows = rows_of(run, _columns(run))
        explained = explained_classes(rows)
        labels = rows.groups("label")
        groups = labels if any(labels.names) else explained
        alike = run.settings["store"] != "scores" and not run.is_of_texts  # places mean the same in all maps
        return Summary(
            run,
            tuple(accuracies(rows, groups)),
            {name: tuple(_spreads(rows, name, groups, run.methods)) for name in (*run.checks, "probability")},
            tuple(_extremes(rows, run, most)),
            tuple(failing_maps(rows, run)),
            {method: maps_of(run, rows, method, explained, classes) for method in run.methods} if alike else {},
            mean_correlations(rows, run.methods) if AGREEMENT in rows else (),
        )


def _columns(run: Run) -> tuple[str, ...]:
    """Return the columns that a summary reads."""
    texts = ("method", "label", "predicted")
    numbers = ("id", "target", "prediction", "correct", "shard", "offset", *COLUMNS)
    return (*texts, *numbers, *check_columns(run), *agreement_columns(run.methods))


def check_columns(run: Run) -> tuple[str, ...]:
    """Return the columns of the checks: their figures, and whether they passed."""
    return tuple(name for check in run.checks for name in (check, f"{check} passed"))


def explained_classes(rows: Rows) -> Groups:
    """Name the class that each row explains; a class that was never predicted has only a number."""
    target, prediction = rows.numbers("target"), rows.numbers("prediction")
    known = np.flatnonzero(prediction.known)
    predictions, first = np.unique(prediction.values[known], return_index=True)
    names = dict(zip(predictions.tolist(), rows.texts("predicted", known[first]), strict=True))
    classes, codes = np.unique(target.values, return_inverse=True)
    found = [names.get(each) or f"class {each}" for each in classes.tolist()]
    return Groups.of(np.where(target.known, codes, len(found)), [*found, "the target"])


def accuracies(rows: Rows, groups: Groups) -> Iterator[Share]:
    """Yield the accuracy of all examples, then of each class."""
    correct = rows.numbers("correct")
    known = np.flatnonzero(correct.known)
    _, first = np.unique(rows.numbers("id").values[known], return_index=True)
    known = known[first]  # each example once: its rows are equal for all methods
    for name, part in (("all examples", known), *groups.parts(known)):
        yield Share(name, int(correct.values[part].sum()), len(part))


def _spreads(rows: Rows, column: str, groups: Groups, methods: Sequence[str]) -> Iterator[Spread]:
    figures, names = rows.numbers(column), rows.groups("method")
    for method in methods:
        for group, part in groups.parts(np.flatnonzero(names.are(method) & figures.known)):
            values = figures.values[part].astype(np.float64)
            yield Spread(method, group, len(part), tuple(np.quantile(values, _QUANTILES).tolist()))


def _extremes(rows: Rows, run: Run, most: int) -> Iterator[Extremes]:
    ids, names = rows.numbers("id").values, rows.groups("method")
    for method in run.methods:
        for column in (*COLUMNS, *run.checks, *([AGREEMENT] if AGREEMENT in rows else [])):
            figures = rows.numbers(column)
            here = np.flatnonzero(names.are(method) & figures.known)
            order = here[np.argsort(figures.values[here], kind="stable")]
            if len(order):
                small, large = order[:most], order[::-1][:most]
                pairs = [tuple((int(ids[i]), float(figures.values[i])) for i in part) for part in (small, large)]
                yield Extremes(method, column, *pairs)


def failing_maps(rows: Rows, run: Run) -> Iterator[Share]:
    """Yield for each method the share of maps that fail any hard test, then the share for each test."""
    results = {check: rows.numbers(f"{check} passed") for check in run.checks}
    for method in run.methods:
        here = np.flatnonzero(rows.groups("method").are(method))
        tested = {check: each for check, each in results.items() if each.known[here].any()}
        if not tested:
            continue
        failed = np.any([(each.known & ~each.values)[here] for each in tested.values()], axis=0)
        yield Share(f"{method}: any hard test", int(failed.sum()), len(failed))
        for check, each in tested.items():
            passed = each.at(here)
            yield Share(f"{method}: {check}", int((~passed).sum()), len(passed))


def mean_correlations(rows: Rows, methods: Sequence[str]) -> list[list[tuple[float, int]]]:
    """Return for every pair of methods the mean rank correlation over examples, and of how many; NaN for none."""
    return [[_mean(rows, a, with_method(b)) for b in methods] for a in methods]


def _mean(rows: Rows, method: str, column: str) -> tuple[float, int]:
    if column not in rows:
        return float("nan"), 0
    values = rows.numbers(column).at(np.flatnonzero(rows.groups("method").are(method)))
    return (float(values.mean()), len(values)) if len(values) else (float("nan"), 0)
