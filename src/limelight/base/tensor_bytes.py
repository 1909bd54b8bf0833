"""The bytes of a tensor's values."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of_bytes(values: Tensor) -> Tensor:
    """Return the bytes of `values` `(..., k)` in order as uint8 `(..., bytes)` on the CPU."""
    rows = values.detach().cpu().contiguous()
    if rows.stride(-1) != 1:  # a single expanded number counts as contiguous, with a step of 0
        rows = rows.clone(memory_format=torch.contiguous_format)
    return rows.view(torch.uint8)
