"""A module around a plain differentiable function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Differentiable(nn.Module):
    """Declare that `function` `(rows, ...) -> (rows, outputs)` is differentiable and has no state.

    A bare callable counts as a black box, because the mode, parameters and gradients of the objects it refers to are
    unknown.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, rows: Tensor) -> Any:
        return self.function(rows)
