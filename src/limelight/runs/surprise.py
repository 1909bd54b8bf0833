r"""How surprising the most compact group of maps of a class is, against maps shuffled between the classes.

For a class of $n$ maps and a size $m$, the compactness is
$T(m) = \max_i \frac{1}{m-1}\sum_{j \in N_{m-1}(i)} r_{ij}$: the mean correlation $r$ of a map with the $m - 1$ most
similar maps of its class, for the best such medoid $i$. Maps are compared place by place: moving objects correlate
little, what stays in its place correlates much.

The null: the labels are shuffled over the same maps. Nothing is trained or explained again. $T(m)$ is standardised by
the mean and the deviation of the shuffles, for each class and size; the largest value over sizes and classes is
compared with that of each shuffle. [westfall1993] So p is corrected for all sizes and classes. Where labels say nothing
of the maps, the rate of false alarms is at most the level, exactly. In real data they say something: classes differ in
the form of their maps and in where their objects lie. So a group found here is suspicious, and no more: `covering.py`
asks the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Similar = NDArray[np.float32]
Classes = NDArray[np.int64]
SHUFFLES = 999
FEWEST = 10  # maps of a class that is judged, and of all others
_SMALLEST = 5  # maps of a group: fewer are alike by chance
_SMALLEST_SHARE = 0.1  # of the class


@dataclass(frozen=True)
class Group:
    """The most surprising group of maps of a class.

    `name`: the class. `members`: the places of its maps among all, the medoid first. `compactness`: the mean
    correlation of the other members with the medoid; `expected`: that of the best group of this size in a shuffled
    class, the mean over shuffles. `p`: the share of shuffles in which the best group of any class surprises as much.
    """

    name: str
    members: tuple[int, ...]
    compactness: float
    expected: float
    p: float


def surprising_groups(
    features: Array,
    labels: Sequence[str],
    alpha: float = 0.05,
    seed: int = 0,
    shuffles: int = SHUFFLES,
) -> list[Group]:
    """Return the most surprising group of each class of FEWEST maps or more, the smallest p first.

    A class with a p of at most `alpha` is taken out, and the others are judged again among themselves: else its maps
    would be shuffled into the other classes.

    `features`: `(n, d)`, rows of length 1, so that products are correlations. `labels`: the class of each row.
    """
    similar, names = (features @ features.T).astype(np.float32), np.asarray(labels, dtype=np.str_)
    left, found, rest, reached = np.arange(len(names)), list[Group](), list[Group](), 0.0
    while True:
        groups = _judged(similar[np.ix_(left, left)], names[left], np.random.default_rng(seed), shuffles)
        groups = [
            replace(each, members=tuple(left[list(each.members)].tolist()), p=max(each.p, reached)) for each in groups
        ]
        if not groups:  # one class is left, and nothing to compare it with: its verdict among all of them stands
            return [*found, *rest]
        if groups[0].p > alpha:
            return [*found, *groups]
        first, *rest = groups
        found.append(first)
        reached = first.p
        left = left[names[left] != first.name]


def judged_classes(labels: Sequence[str]) -> list[str]:
    """Return the classes with FEWEST maps or more, where the other classes have as many together."""
    names, counts = np.unique(np.asarray(labels, dtype=np.str_), return_counts=True)
    enough = (counts >= FEWEST) & (counts.sum() - counts >= FEWEST)
    return [str(name) for name in names[enough]]


def _judged(similar: Similar, labels: NDArray[np.str_], random: np.random.Generator, shuffles: int) -> list[Group]:
    """Judge all classes at once."""
    names, classes = np.unique(labels, return_inverse=True)
    judged = np.flatnonzero(np.isin(names, judged_classes(labels.tolist()))).tolist()
    if not judged:
        return []
    observed = [_compactness(similar, classes, k) for k in judged]
    values = np.empty((shuffles + 1, sum(map(len, observed))))
    values[0] = np.concatenate(observed)
    for row in range(1, shuffles + 1):
        shuffled = random.permutation(classes)
        values[row] = np.concatenate([_compactness(similar, shuffled, k) for k in judged])
    mean, deviation = values.mean(0), values.std(0)
    deviation = np.where(deviation > 0, deviation, np.inf)  # equal in every shuffle: no surprise
    largest = ((values[1:] - mean) / deviation).max(1)
    surprise = (values[0] - mean) / deviation
    groups, start = [], 0
    for k, each in zip(judged, observed, strict=True):
        size = int(surprise[start : start + len(each)].argmax())
        p = float((1 + (largest >= surprise[start + size]).sum()) / (shuffles + 1))
        members = _members(similar, classes, k, size + _smallest(int((classes == k).sum())))
        groups.append(Group(str(names[k]), members, float(each[size]), float(mean[start + size]), p))
        start += len(each)
    return sorted(groups, key=lambda each: (each.p, each.expected - each.compactness))


def _smallest(count: int) -> int:
    """Return the size of the smallest group of a class that is looked at."""
    return max(_SMALLEST, math.ceil(_SMALLEST_SHARE * count))


def _means(similar: Similar) -> Similar:
    """Return the mean similarity of each row to its 1, 2, ... nearest others, `(n, n - 1)`."""
    ordered = -np.sort(-similar, axis=1)[:, 1:]  # the first is itself, or its equal
    means: Similar = (ordered.cumsum(1) / np.arange(1, ordered.shape[1] + 1)).astype(np.float32)
    return means


def _compactness(similar: Similar, classes: Classes, k: int) -> Array:
    """Return T(m) of a class for every size m, from the smallest group to the whole class."""
    inside = np.flatnonzero(classes == k)
    best: Array = _means(similar[np.ix_(inside, inside)]).max(0).astype(np.float64)
    return best[_smallest(len(inside)) - 2 :]


def _members(similar: Similar, classes: Classes, k: int, size: int) -> tuple[int, ...]:
    """Return the most compact group of a size, its medoid first."""
    inside = np.flatnonzero(classes == k)
    block = similar[np.ix_(inside, inside)]
    medoid = int(_means(block)[:, size - 2].argmax())
    block[medoid, medoid] = np.inf  # first also among equal maps
    nearest = np.argsort(-block[medoid], kind="stable")[:size]
    return tuple(inside[nearest].tolist())
