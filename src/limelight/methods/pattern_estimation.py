"""Estimating a model's patterns from data, for PatternNet and PatternAttribution."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from .. import rules
from ..engine.model_copy import frozen_copy
from ..rules import Patterns
from ..rules.patterns import Estimator


def estimate_patterns(model: nn.Module, batches: Iterable[Tensor], estimator: Estimator = "two-component") -> Patterns:
    """Stream over batches `(rows, *features)` and estimate the signal's direction at every affine operator.

    Memory does not grow with the data, and the model is left as it was. `Patterns.save(path)` and
    `Patterns.load(path, model)` keep them with the model's fingerprint. Raises ValueError without any batch.
    [kindermans2018]
    """
    with frozen_copy(model) as twin:
        return rules.estimate_patterns(twin.module, batches, model, estimator)
