"""A module around a plain differentiable function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Differentiable(nn.Module):
    """Declare that `function` `(rows, ...) -> (rows, outputs)` is differentiable and keeps no state of its own.

    A bare callable counts as a black box, because nothing can be said about the mode, the parameters or the
    gradient of what it closes over.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, rows: Tensor) -> Any:
        return self.function(rows)
