"""Clusters of maps: what a class is recognised by, in groups, the most alike first. A shortcut is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .extras import need

SIDE = 16  # of the maps that are compared
MOST = 1000  # maps of a class that are compared: the work grows with their square
_MOST_CLUSTERS = 8
_NEIGHBOURS = 10
_FEWEST = 8  # maps, below which nothing is divided
_BRIDGE = 1e-6  # between any two maps: groups that share no neighbour are still one graph, as the method needs


@dataclass(frozen=True)
class Cluster:
    """Maps of one class that are alike.

    `ids`: its examples. `medoid`: the one most like all others. `coherence`: the mean correlation of its maps, pair
    by pair, 1 for equal maps. Objects move from picture to picture; a map that does not move is suspicious.
    """

    group: str
    ids: tuple[int, ...]
    medoid: int
    coherence: float


def features_of(heatmaps: Tensor) -> Tensor:
    """What is compared of maps `(n, H, W)`: relevance for the class, averaged down, `(n, SIDE * SIDE)`.

    Each less its mean and of length 1, so that products are correlations: else all maps with relevance everywhere
    would be alike.
    """
    pooled = F.adaptive_avg_pool2d(heatmaps.double().clamp(min=0)[:, None], SIDE).flatten(1)
    return F.normalize(pooled - pooled.mean(1, keepdim=True), dim=1)


def clusters_of(group: str, features: Tensor, ids: Sequence[int]) -> list[Cluster]:
    r"""Spectral clustering of features `(n, d)`, the most coherent cluster first. [lapuschkin2019]

    The graph joins each map to its nearest neighbours; the number of clusters is where the eigenvalues of its
    normalised Laplacian leave the widest gap, 8 at most. Needs scikit-learn (extra `run`).
    """
    parts = np.zeros(len(ids), dtype=np.int64) if len(ids) < _FEWEST else _divided(features.numpy())
    alike = features @ features.T
    found = []
    for part in np.unique(parts):
        members = torch.from_numpy(np.flatnonzero(parts == part))
        inside = alike[members][:, members]
        pairs = len(members) * (len(members) - 1)
        coherence = float((inside.sum() - inside.diagonal().sum()) / pairs) if pairs else 0.0
        medoid = int(members[inside.sum(1).argmax()])
        found.append(Cluster(group, tuple(ids[i] for i in members.tolist()), ids[medoid], coherence))
    return sorted(found, key=lambda cluster: -cluster.coherence)


def _divided(features: NDArray[np.float64]) -> NDArray[np.int64]:
    """The cluster of each row."""
    neighbours = need("sklearn.neighbors", "run", "the clusters of a report")
    spectral = need("sklearn.cluster", "run", "the clusters of a report")
    graph = neighbours.kneighbors_graph(features, min(_NEIGHBOURS, len(features) - 1), include_self=True)
    affinity = ((graph + graph.T) / 2).toarray() + _BRIDGE
    root = 1 / np.sqrt(affinity.sum(1))
    values = np.linalg.eigvalsh(np.eye(len(features)) - root[:, None] * affinity * root)
    most = min(_MOST_CLUSTERS, len(features) // 2)
    count = int(np.argmax(np.diff(values[1 : most + 1]))) + 2
    fitted = spectral.SpectralClustering(
        count, affinity="precomputed", assign_labels="cluster_qr", random_state=0
    ).fit_predict(affinity)
    return np.asarray(fitted, dtype=np.int64)
