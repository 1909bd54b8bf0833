"""Class activation maps: a layer's channels, weighted by a gradient and summed over, at the input's size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.score import Activation, Score, result_dtype, sum_dtype
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class ActivationMap(Method):
    r"""Base of the class activation maps: one map `(n, *space)` of a layer, upsampled to the input, bilinearly and
    with corners not aligned. The map before upsampling is `raw`.

    `relu=False` keeps negative evidence. The maps of several layers are each divided by their largest absolute value,
    since layers differ in scale, and averaged; there is no `raw` then.
    """

    by_part: ClassVar[bool] = True
    relu: bool = True

    no_sum: ClassVar[str | None] = "a class activation map weighs positions of a layer, it does not divide up the score"

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        return self.placed([self.map(layer, score, x, rng) for layer in self.read(score, x)], x)

    def placed(self, maps: Sequence[Tensor], x: Tensor, errors: Sequence[Tensor] = ()) -> Estimate:
        """Bring the layers' maps `(n, *space)` to the input's size, and their standard errors where they have any.

        An upsampled error is a bound: neighbouring positions, and layers, are taken to err alike.
        """
        rectified = [each.relu() if self.relu else each for each in maps]
        raws = [each.to(result_dtype(x))[:, None] for each in rectified]
        spread = [upsampled(raw, x) for raw in raws]
        scales = _scales(spread) if len(raws) > 1 else [torch.ones_like(x[:1, :1])]
        spread_errors = [upsampled(each.to(result_dtype(x))[:, None], x) for each in errors]
        stderr = _averaged(spread_errors, scales) if errors else None
        return Estimate(_averaged(spread, scales), stderr, raws[0] if len(raws) == 1 else None)

    @abstractmethod
    def read(self, score: Score, x: Tensor) -> Sequence[Activation]:
        """Return the layers at x."""

    @abstractmethod
    def map(self, layer: Activation, score: Score, x: Tensor, rng: Streams) -> Tensor:
        """Compute the layer's map `(n, *space)`, before the ReLU."""


def weighted(weights: Tensor, activation: Tensor) -> Tensor:
    r"""Return $\sum_k w_k A_k$ for weights `(n, channels)` and activations `(n, channels, *space)`."""
    return torch.einsum("nk,nk...->n...", weights, activation)


def upsampled(maps: Tensor, x: Tensor) -> Tensor:
    """Resize maps `(n, channels, *space)` to the input's spatial size."""
    return F.interpolate(maps, size=x.shape[2:], mode=MODES[x.ndim - 2], align_corners=False)


def _scales(values: Sequence[Tensor]) -> list[Tensor]:
    """Return the largest absolute value of each example in each layer's map; 1 for an empty map."""
    largest = [each.abs().amax(tuple(range(1, each.ndim)), keepdim=True) for each in values]
    return [most.where(most > 0, 1) for most in largest]


def _averaged(values: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:
    return torch.stack([each / scale for each, scale in zip(values, scales, strict=True)]).mean(0)


@dataclass(frozen=True)
class GradientMap(ActivationMap):
    """Base of the maps that read the gradient at the layer. Raises ValueError where that is zero everywhere."""

    needs: ClassVar[Needs] = Needs(at_inputs=True, layer=True)
    fixed_rows: ClassVar[int | None] = 1

    def read(self, score: Score, x: Tensor) -> Sequence[Activation]:
        layers = score.activations(x)
        require_gradient([layers], score, x)
        return layers

    def map(self, layer: Activation, score: Score, x: Tensor, rng: Streams) -> Tensor:
        return self.combined(layer.values, _slope(layer))

    @abstractmethod
    def combined(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Combine a layer's activation and gradient, both `(n, channels, *space)`, to the map `(n, *space)`."""


def require_gradient(scores: Sequence[Sequence[Activation]], score: Score, x: Tensor) -> None:
    """Raise ValueError for a layer where all of several scores have no gradient; `scores` are the layers under each."""
    for runs in zip(*scores, strict=True):
        dead = torch.stack([(_slope(layer).flatten(1) == 0).all(1) for layer in runs]).all(0).nonzero()[:, 0]
        if len(dead):
            better = ", ".join(score.select(dead).layers_with_gradient(x[dead])[-6:])
            flat = "no other layer has one, the score is flat at this input: choose another target"
            raise ValueError(
                f"layer: the gradient of the score is zero all over {runs[0].name!r} for example "
                f"{', '.join(map(str, score.examples[dead].tolist()))}: the score does not depend on it there; "
                + (f"layers with a gradient: {better}" if better else flat)
            )


def _slope(layer: Activation) -> Tensor:
    assert layer.gradient is not None
    return layer.gradient


@dataclass(frozen=True)
class GradCAM(GradientMap):
    r"""Channels of a layer weighted by their mean gradient.

    $$A = \mathrm{relu}\Big(\sum_k w_k A_k\Big), \quad
      w_k = \frac1{|P|}\sum_{p \in P} \frac{\partial f}{\partial A_{k,p}}$$

    over the layer's positions P. Raises ValueError where the gradient at the layer is zero. [selvaraju2017]

    >>> a = ll.explain(model, x, ll.GradCAM(), target=2)
    >>> a.values.shape, a.layer
    (torch.Size([2, 1, 16, 16]), '3')
    """

    def combined(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return weighted(gradient.flatten(2).mean(2), activation)


@dataclass(frozen=True)
class HiResCAM(GradientMap):
    r"""Gradient times activation, position by position, summed over channels.

    $$A_p = \mathrm{relu}\Big(\sum_k g_{k,p} A_{k,p}\Big)$$

    Where the model is linear after the layer, the map without ReLU sums to the score less its bias. [draelos2020]

    >>> ll.explain(model, x, ll.HiResCAM(), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    def combined(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return (gradient * activation).sum(1)


@dataclass(frozen=True)
class LayerCAM(GradientMap):
    r"""Activations weighted position by position by their positive gradient, also for early layers.

    $$A_p = \mathrm{relu}\Big(\sum_k \mathrm{relu}(g_{k,p}) A_{k,p}\Big)$$

    [jiang2021]

    >>> ll.explain(model, x, ll.LayerCAM(), target=2, layer="1").values.shape
    torch.Size([2, 1, 16, 16])
    """

    def combined(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return (gradient.relu() * activation).sum(1)


@dataclass(frozen=True)
class XGradCAM(GradientMap):
    r"""Channels weighted by their gradient, averaged over positions in proportion to the activation.

    $$w_k = \frac{\sum_p g_{k,p} A_{k,p}}{\sum_p A_{k,p}}$$

    and 0 where a channel's activations sum to 0 within rounding, as they do after instance norm. [fu2020]

    >>> ll.explain(model, x, ll.XGradCAM(), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    def combined(self, activation: Tensor, gradient: Tensor) -> Tensor:
        wide = activation.to(sum_dtype(activation)).flatten(2)
        total, size = wide.sum(2), wide.abs().sum(2)
        none = total.abs() <= torch.finfo(activation.dtype).eps ** (2 / 3) * size  # the rest is rounding
        weights = (gradient.flatten(2) * wide).sum(2) / total.masked_fill(none, 1)
        return weighted(weights.masked_fill(none, 0).to(activation.dtype), activation)


@dataclass(frozen=True)
class GradCAMPlusPlus(GradientMap):
    r"""Positive gradients, weighted so that each position where a channel is active counts equally.

    $$w_k = \sum_p \mathrm{relu}(g_{k,p}) \frac{g_{k,p}^2}{2 g_{k,p}^2 + g_{k,p}^3 \sum_q A_{k,q}}$$

    without terms of a zero denominator. [chattopadhay2018]

    >>> ll.explain(model, x, ll.GradCAMPlusPlus(), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    def combined(self, activation: Tensor, gradient: Tensor) -> Tensor:
        slope, total = gradient.flatten(2), activation.flatten(2).sum(2, keepdim=True)
        below = 2 + slope * total  # the fraction by g^2, which float32 would round to 0 for small gradients
        terms = slope.relu() / below.where(below != 0, 1)
        return weighted(terms.where((below != 0) & (slope != 0), 0).sum(2), activation)
