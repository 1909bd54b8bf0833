"""Clusters of the maps of a class, the most coherent first: a shortcut that the model learned is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .tables import need

SIDE = 16  # pixels, of the averaged maps that are compared
MOST = 1000  # maps of a class that are compared: time and memory grow with the square of this number
_MOST_CLUSTERS = 8
_NEIGHBOURS = 10
_FEWEST = 8  # maps; fewer make a single cluster
_BRIDGE = 1e-6  # affinity between any two maps: the method needs a connected graph


@dataclass(frozen=True)
class Cluster:
    """A cluster of similar maps of one class.

    `ids`: its examples. `medoid`: the example with the largest total correlation to the others. `coherence`: the mean
    correlation over pairs of maps, 1 for equal maps. Objects move from picture to picture; a map that does not move is
    suspicious.
    """

    group: str
    ids: tuple[int, ...]
    medoid: int
    coherence: float


def features_of(heatmaps: Tensor) -> Tensor:
    """Reduce maps `(n, H, W)` to features `(n, SIDE * SIDE)`: the positive relevance, averaged down to SIDE x SIDE.

    Each row has mean 0 and length 1, so that products are correlations; otherwise all maps with relevance everywhere
    would be similar.
    """
    pooled = F.adaptive_avg_pool2d(heatmaps.double().clamp(min=0)[:, None], SIDE).flatten(1)
    return F.normalize(pooled - pooled.mean(1, keepdim=True), dim=1)


def clusters_of(group: str, features: Tensor, ids: Sequence[int]) -> list[Cluster]:
    """Cluster features `(n, d)` spectrally, the most coherent cluster first. [lapuschkin2019]

    The graph joins each map to its nearest neighbours; the widest gap between the eigenvalues of its normalised
    Laplacian gives the number of clusters, 8 at most. Needs scikit-learn (extra `report`).
    """
    parts = np.zeros(len(ids), dtype=np.int64) if len(ids) < _FEWEST else _divided(features.numpy())
    correlations = features @ features.T
    found = []
    for part in np.unique(parts):
        members = torch.from_numpy(np.flatnonzero(parts == part))
        inside = correlations[members][:, members]
        pairs = len(members) * (len(members) - 1)
        coherence = float((inside.sum() - inside.diagonal().sum()) / pairs) if pairs else 0.0
        medoid = int(members[inside.sum(1).argmax()])
        found.append(Cluster(group, tuple(ids[i] for i in members.tolist()), ids[medoid], coherence))
    return sorted(found, key=lambda cluster: -cluster.coherence)


def _divided(features: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the cluster of each row."""
    neighbours = need("sklearn.neighbors", "report", "the clusters of a report")
    spectral = need("sklearn.cluster", "report", "the clusters of a report")
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
