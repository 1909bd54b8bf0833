"""Networks set by hand whose true attribution is known exactly.

Each problem is chosen so that completeness, dummy and symmetry alone fix the answer: the features that differ from the
baseline are terms of a sum, or a single feature, or symmetric. Every method with these axioms must find the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Formula(nn.Module):
    """A function `(rows, features) -> (rows, 1)` as a module; its weights are numbers in the formula."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)[:, None]


@dataclass(frozen=True, eq=False)
class HandSet:
    """A model `(rows, features) -> (rows, 1)` in float64, an input, a baseline and the true attribution.

    `why`: which axioms fix it.
    """

    name: str
    model: nn.Module
    x: Tensor
    baseline: Tensor
    truth: Tensor
    why: str


def _row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def _linear() -> HandSet:
    layer = nn.Linear(4, 1).double()
    with torch.no_grad():
        layer.weight.copy_(_row(2.0, -1.0, 0.5, 0.0))
        layer.bias.fill_(3.0)
    return HandSet(
        "linear",
        layer,
        _row(1, 2, 4, 5),
        _row(0, 1, 0, 0),
        _row(2, -1, 2, 0),
        "2x1 - x2 + x3/2 + 3: the change of each term",
    )


HANDSET: tuple[HandSet, ...] = (
    _linear(),
    HandSet(
        "minimum",
        Formula(lambda x: torch.minimum(x[:, 0], x[:, 1]) + 2 * x[:, 2]),
        _row(3, 5, 1),
        _row(0, 5, 0),
        _row(3, 0, 2),
        "min(x1, x2) with x2 = b2 above x1 on the whole path is x1",
    ),
    HandSet(
        "maximum",
        Formula(lambda x: torch.maximum(x[:, 0], x[:, 1]) - x[:, 2]),
        _row(3, -1, 2),
        _row(0, -1, 0),
        _row(3, 0, -2),
        "max(x1, x2) with x2 = b2 below x1 on the whole path is x1",
    ),
    HandSet(
        "gated",
        Formula(lambda x: torch.relu(x[:, 0] - 10) + torch.relu(x[:, 1] + 1)),
        _row(4, 3),
        _row(0, 0),
        _row(0, 3),
        "relu(x1 - 10) stays at 0, relu(x2 + 1) stays linear",
    ),
    HandSet(
        "saturated",
        Formula(lambda x: 1 - torch.relu(1 - x[:, 0]) + 0 * x[:, 1]),
        _row(2, 7),
        _row(0, 0),
        _row(1, 0),
        "1 - relu(1 - x1) rises from 0 to 1 with x1 alone, although its gradient at 2 is 0",
    ),
    HandSet(
        "interacting",
        Formula(lambda x: x[:, 0] * x[:, 1] + x[:, 2]),
        _row(2, 2, 1),
        _row(0, 0, 0),
        _row(2, 2, 1),
        "x1 x2 at equal values: both halves of the product are the same",
    ),
)
"""The hand-set problems: linear, minimum, maximum, gated, saturated, interacting."""
