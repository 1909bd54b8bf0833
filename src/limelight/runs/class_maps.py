"""The maps of each class of a run: their clusters, and the mean maps of the classes that a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .clusters import MOST, SIDE, Cluster, clusters_of, features_of
from .columns import Groups, Places, Rows
from .stored import Run

MOST_OF_ALL = 100_000  # maps of all classes that are compared, 2 KiB each
FEWEST = 10  # maps of a class that are compared however many classes there are
_BLOCK = 16  # maps in memory at a time


@dataclass
class GroupMaps:
    """The maps of one class by one method: the sum of the maps, and that of the centred maps."""

    total: Tensor | float = 0.0
    centred: Tensor | float = 0.0
    count: int = 0

    def add(self, heatmaps: Tensor) -> None:
        size = heatmaps.abs().flatten(1).sum(1)[:, None, None].clamp(min=torch.finfo(torch.float64).tiny)
        scaled = heatmaps / size  # else a few strong maps would dominate the mean
        self.total = self.total + scaled.sum(0)
        self.centred = self.centred + torch.stack([_centred(each) for each in scaled]).sum(0)
        self.count += len(heatmaps)

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
class ClassMaps:
    """The maps of a method. `means`: of the classes with the most maps, in that order; `left_out`: the number of other
    classes. `clusters`: of all classes, the most coherent first, without clusters of a single map. `compared`: the most
    maps of a class that were clustered.
    """

    means: Mapping[str, GroupMaps]
    left_out: int
    clusters: tuple[Cluster, ...]
    compared: int


def maps_of(run: Run, rows: Rows, method: str, groups: Groups, shown: int) -> ClassMaps:
    """Read the first maps of each class: those to cluster, and those of the `shown` largest classes.

    `groups`: the class of each row. At most MOST_OF_ALL maps are clustered, shared between the classes.
    """
    here = np.flatnonzero(rows.groups("method").are(method) & rows.numbers("offset").known)
    parts = dict(groups.parts(here))
    room = min(MOST, max(FEWEST, MOST_OF_ALL // max(1, len(parts))))
    largest = sorted(parts, key=lambda name: (-len(parts[name]), name))[:shown]
    compared = {name: part[:room] for name, part in parts.items()}
    features, means = _read(run, rows, method, compared, {name: parts[name][:MOST] for name in largest})
    ids, start, clusters = rows.numbers("id").values, 0, list[Cluster]()
    for name, part in compared.items():
        clusters += clusters_of(name, features[start : start + len(part)], ids[part].tolist())
        start += len(part)
    several = sorted((each for each in clusters if len(each.ids) > 1), key=lambda each: -each.coherence)
    return ClassMaps(means, len(parts) - len(largest), tuple(several), room)


def _read(
    run: Run, rows: Rows, method: str, compared: Mapping[str, Places], shown: Mapping[str, Places]
) -> tuple[Tensor, dict[str, GroupMaps]]:
    """Return the features of the rows to compare, one class after another, and the means of the classes to show.

    A few maps are in memory at a time, and each is read once.
    """
    needed = np.unique(np.concatenate([np.zeros(0, np.int64), *compared.values(), *shown.values()]))
    slots, kinds = np.full(len(needed), -1), np.full(len(needed), -1)  # of a map's features, and of its class
    count = sum(map(len, compared.values()))
    slots[np.searchsorted(needed, np.concatenate([needed[:0], *compared.values()]))] = np.arange(count)
    for kind, part in enumerate(shown.values()):
        kinds[np.searchsorted(needed, part)] = kind
    features = torch.empty(count, SIDE**2, dtype=torch.float64)
    means = [GroupMaps() for _ in shown]
    shards, places = rows.numbers("shard").values[needed], rows.numbers("offset").values[needed]
    for shard in np.unique(shards).tolist():
        inside = np.flatnonzero(shards == shard)
        for block in np.split(inside, range(_BLOCK, len(inside), _BLOCK)):
            kept = run.shard_maps(shard, method, places[block].tolist()).double()
            heatmaps = kept.sum(1) if kept.ndim == 4 else kept
            chosen = slots[block] >= 0
            features[slots[block][chosen]] = features_of(heatmaps[chosen])
            for kind in set(kinds[block].tolist()) - {-1}:
                means[kind].add(heatmaps[kinds[block] == kind])
    return features, dict(zip(shown, means, strict=True))
