"""Layer, group, instance and RMS normalisation in one form: rows of M numbers, each divided by its own scale."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .call import Call


@dataclass(frozen=True, eq=False)
class Normalised:
    r"""$y = w\,x_c / \sigma + b$, $x_c = x - \bar x$ (or $x$ for RMS), $\sigma = \sqrt{\overline{x_c^2} + \epsilon}$.

    `rows(t)` brings a tensor shaped like the input to (..., M); `weight` broadcasts to the input's shape.
    """

    weight: Tensor | None
    epsilon: float
    centred: bool
    rows: Callable[[Tensor], Tensor]

    def centre(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(-1, keepdim=True) if self.centred else rows

    def scale(self, centred: Tensor) -> Tensor:
        return (centred.square().mean(-1, keepdim=True) + self.epsilon).sqrt()


def normalised(call: Call) -> Normalised | None:
    """View a normalisation's call; None where it uses running statistics, which makes it affine."""
    given: dict[str, Any] = call.bound()
    x: Tensor = given["input"]
    weight: Tensor | None = given.get("weight")
    epsilon = given.get("eps")
    if call.name in ("layer_norm", "rms_norm"):
        axes = len(given["normalized_shape"])
        epsilon = (1e-5 if call.name == "layer_norm" else torch.finfo(x.dtype).eps) if epsilon is None else epsilon
        return Normalised(weight, epsilon, call.name == "layer_norm", lambda t: t.flatten(-axes))
    if call.name != "group_norm" and not given.get("use_input_stats", True):
        return None
    groups = given["num_groups"] if call.name == "group_norm" else x.shape[1]
    if weight is not None:
        weight = weight.view(-1, *[1] * (x.ndim - 2))
    return Normalised(weight, 1e-5 if epsilon is None else epsilon, True, lambda t: t.reshape(t.shape[0], groups, -1))
