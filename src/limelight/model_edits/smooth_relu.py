"""Softplus in place of ReLU in a piecewise linear network, so that its maps can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..rules.opened import OPENED

RELUS = frozenset({"relu", "relu_"})
CLIPPED = {"relu6": (0.0, 6.0), "relu6_": (0.0, 6.0), "hardtanh": (-1.0, 1.0), "hardtanh_": (-1.0, 1.0)}
ATTENTION = frozenset({"multi_head_attention_forward", "scaled_dot_product_attention"})
LOW, HIGH = "min_val", "max_val"  # hardtanh's limits, which nn.ReLU6 passes by name


class Softened(TorchFunctionMode):
    r"""Replace relu(h) by $\log(1 + e^{\beta h}) / \beta$, and ReLU6 and hardtanh by differences of two of these.

    Attention runs as elementary operators. The mode sees operators, so neither the model nor anything global is
    changed. [dombrowski2019]
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self._beta = beta

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ATTENTION:
            with self:  # its elementary operators have second derivatives, which the fused ones lack
                return OPENED[name](*args, **(kwargs or {}))
        if name in RELUS:
            return self._above(args[0], 0.0)
        if name in CLIPPED:
            low, high = CLIPPED[name]
            given = dict(zip((LOW, HIGH), args[1:3], strict=False)) | (kwargs or {})
            low, high = given.get(LOW, low), given.get(HIGH, high)
            return self._above(args[0], low) - self._above(args[0], high) + low
        return func(*args, **(kwargs or {}))

    def _above(self, h: Tensor, limit: float) -> Tensor:
        return F.softplus(h - limit, beta=self._beta)
