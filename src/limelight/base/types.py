"""Type aliases that all packages use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

Model = nn.Module | Callable[[Tensor], Any]
Progress = Callable[[int], None]
"""Called with the number of rows of each finished pass."""
OneLayer = str | int | nn.Module
Arithmetic = Literal["plain", "packed", "two-precision"]
"""How the model's rows are to be computed; see the option `arithmetic`."""
RowArithmetic = Literal["plain", "packed", "two-precision", "compiled"]
"""How a map's rows were computed; "compiled" is an option of `prepare`."""
LayerLike = OneLayer | Sequence[OneLayer]
Outputs = Literal["logits", "probabilities", "sigmoids", "score", "labels", "embeddings", "regions", "detections"]
"""What the outputs `(rows, outputs)` of a model are.

logits: scores that softmax makes probabilities of. probabilities: those themselves, also rounded, or the best few of
them. sigmoids: a probability for each label by itself. score: one number that is no probability, as in a regression.
labels: names of classes as numbers, which have no score. embeddings, regions, detections: what `Similarity`, `Region`
and `Box` read.
"""
