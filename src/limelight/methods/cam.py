"""Class activation maps: a layer's channels, weighted and summed over, at the input's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..score import Activation, Score
from ..streams import Streams
from .base import Estimate, Method, Needs


@dataclass(frozen=True)
class GradCAM(Method):
    r"""Channels of a layer weighted by their mean gradient.

    $$A = \mathrm{relu}\Big(\sum_k w_k A_k\Big), \quad
      w_k = \frac1{|P|}\sum_{p \in P} \frac{\partial f}{\partial A_{k,p}}$$

    over the layer's positions P, upsampled bilinearly to the input; the map before is `raw`. `relu=False` keeps what
    speaks against the target. Raises ValueError where the gradient at the layer is zero. [selvaraju2017]
    """

    relu: bool = True

    no_sum: ClassVar[str | None] = "a class activation map weighs positions of a layer, it does not divide up the score"

    @property
    def needs(self) -> Needs:
        return Needs(at_inputs=True, layer=True)

    def rows(self, features: torch.Size) -> int | None:
        return 1

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        layer = layer_maps(score, x)
        weights = layer.gradient.flatten(2).mean(2)
        maps = torch.einsum("nk,nk...->n...", weights, layer.values)
        return as_map(maps.relu() if self.relu else maps, x)


def layer_maps(score: Score, x: Tensor) -> Activation:
    """The layer's maps `(n, channels, *space)` and gradients; ValueError where there is no map or no gradient."""
    layer = score.activations(x)
    shape = tuple(layer.values.shape[1:])
    others = f"; layers with a map: {', '.join(score.layers_seen[-6:])}" if score.layers_seen else ""
    if len(shape) < 2:
        raise ValueError(f"layer: {score.layer!r} returns {shape} per example, not (channels, *positions){others}")
    dead = (layer.gradient.flatten(1) == 0).all(1)
    if bool(dead.any()):
        which = ", ".join(str(int(score.examples[i])) for i in dead.nonzero()[:, 0])
        raise ValueError(
            f"layer: the gradient of the score is zero all over {score.layer!r} for example {which}: the score "
            f"does not depend on it there; choose another{others}"
        )
    return layer


def as_map(maps: Tensor, x: Tensor) -> Estimate:
    """Maps `(n, *space)` of a layer, upsampled (linear, corners not aligned) to the input's spatial size."""
    raw, space = maps[:, None], x.shape[2:]
    if len(space) != maps.ndim - 1:
        raise ValueError(
            f"layer: its map has {maps.ndim - 1} spatial axes, the input {tuple(x.shape[1:])} has {len(space)}; "
            "choose a layer that keeps the picture's axes"
        )
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(space)]
    return Estimate(F.interpolate(raw, size=space, mode=mode, align_corners=False), raw=raw)
