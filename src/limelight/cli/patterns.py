"""`limelight patterns`: estimate a model's patterns from pictures, for PatternNet and PatternAttribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..methods.backward import estimate_patterns
from ..models.catalogue import ImageModel
from ..rules import Patterns
from .pictures import Item

BATCH = 8


def patterns_of(model: ImageModel, items: Sequence[Item], report: Callable[[int], None]) -> Patterns:
    """Patterns from all the pictures, a batch at a time.

    Raises ImageError for a picture that can't be read: patterns of fewer pictures than were asked for could not be
    told from the right ones.
    """

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            yield torch.cat([model.preprocess(item.open()) for item in part])
            report(len(part))

    return estimate_patterns(model, batches())
