"""Tensors that a user gives: their values as plain tensors, or a sentence that says why they have none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..base.devices import CPU
from .tensor_files import read_tensor


def as_tensor(values: Any) -> Tensor:
    """Return a tensor as it is, the tensor in a file that is given by name, other values as a tensor on the CPU."""
    if isinstance(values, str):
        return read_tensor(values)
    return values if isinstance(values, Tensor) else torch.as_tensor(values, device=CPU)


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
