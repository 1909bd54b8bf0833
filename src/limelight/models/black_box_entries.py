"""Outputs of black boxes that are mappings, such as a detector's: their arrays as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def holds_entries(outputs: Any) -> bool:
    """Return whether a black box returned a mapping that holds arrays, or a list or tuple of one for each row."""
    several = outputs if isinstance(outputs, list | tuple) else [outputs]
    return bool(several) and all(
        isinstance(each, Mapping) and any(isinstance(value, Tensor | np.ndarray) for value in each.values())
        for each in several
    )


def entries_as_tensors(outputs: Any, rows: Tensor) -> Any:
    """Return the outputs with their arrays and tensors as tensors like `rows`, without a graph; integers stay integers.

    What is no array of numbers, such as a list of names, is returned as it is.
    """
    if isinstance(outputs, Mapping):
        return {name: entries_as_tensors(each, rows) for name, each in outputs.items()}
    if isinstance(outputs, list | tuple):
        return [entries_as_tensors(each, rows) for each in outputs]
    if isinstance(outputs, Tensor):
        found = outputs.detach()
    elif isinstance(outputs, np.ndarray | np.generic) and outputs.dtype.kind in "fiub":
        found = torch.from_numpy(np.array(outputs))  # a copy: the function may reuse its memory
    else:
        return outputs
    return found.to(rows.device, rows.dtype if found.is_floating_point() else None)
