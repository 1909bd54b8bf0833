"""Tensors that a user gives: their values as plain tensors, or a sentence that says why they have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.devices import CPU


def as_tensor(values: Any) -> Tensor:
    """Return a tensor as it is, and other values as a tensor on the CPU; arrays are copied."""
    if isinstance(values, np.ndarray):
        return torch.from_numpy(np.array(values))  # a copy: arrays may be read-only, or change later
    return values if isinstance(values, Tensor) else torch.as_tensor(values, device=CPU)


class ByValue:
    """Base of frozen dataclasses with tensors, which are equal where their fields hold the same values."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        mine, theirs = vars(self), vars(other)
        return mine.keys() == theirs.keys() and all(_equal(value, theirs[name]) for name, value in mine.items())

    def __hash__(self) -> int:
        return hash((type(self), *(tuple(each.shape) for each in vars(self).values() if isinstance(each, Tensor))))


def _equal(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return isinstance(a, Tensor) is isinstance(b, Tensor) and bool(a == b)
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.cpu(), b.cpu())


def plain(given: Tensor, name: str) -> Tensor:
    """Return the tensor without its graph and its subclass, with its values as they are in memory.

    Raises TypeError or ValueError that begins with `name` for tensors that hold no value at each place.
    """
    kind = type(given).__name__
    if given.is_nested:
        raise TypeError(f"{name}: a nested tensor; give examples of one shape, such as {name}.to_padded_tensor(0.0)")
    if given.layout != torch.strided:
        raise TypeError(f"{name}: {given.layout}; attribution needs a dense tensor, use {name}.to_dense()")
    if given.is_quantized:
        raise TypeError(f"{name}: {given.dtype}; attribution needs floating point, use {name}.dequantize()")
    if given.is_meta:
        raise ValueError(f"{name}: on the device 'meta', whose tensors hold no values; give a tensor with values")
    if type(given).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(f"{name}: {kind}, a tensor that runs operators in its own way; use a plain torch.Tensor")
    with torch._C.DisableTorchFunctionSubclass():
        own = given.detach().as_subclass(Tensor).resolve_neg()
    return own.clone() if own.is_inference() else own
