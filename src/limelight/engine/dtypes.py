"""The dtypes that sums and maps are kept in."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype to sum in: float64, or float32 for half precision and where the device has no float64."""
    half = values.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half or values.device.type == "mps" else torch.float64


def result_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype of maps: float32 for half-precision models, the model's own dtype for all others."""
    return torch.float32 if values.dtype in (torch.float16, torch.bfloat16) else values.dtype
