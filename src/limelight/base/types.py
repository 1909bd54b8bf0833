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
