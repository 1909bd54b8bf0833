"""Feature axes: which axis of a tensor holds the rows and which the channels, followed through a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ..rules.names import BATCH_NORMS, CONVOLUTIONS, MATRIX_PRODUCTS, MAX_POOLS, words


class Axes(NamedTuple):
    """The axes of the rows and of the channels; both -1 where channels are spread over axes, as in attention heads."""

    rows: int
    channels: int


SPREAD = Axes(-1, -1)

CHANNELS_SECOND = (
    CONVOLUTIONS
    | BATCH_NORMS
    | MAX_POOLS
    | words("""
    group_norm instance_norm torch.instance_norm avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample pixel_shuffle
""")
)
_CHANNELS_LAST = words("linear layer_norm rms_norm multi_head_attention_forward lstm gru rnn_tanh rnn_relu embedding")
RESHAPES = words("view reshape flatten unflatten")
PERMUTATIONS = words("transpose swapaxes swapdims permute movedim moveaxis T mT")
_PRODUCTS = MATRIX_PRODUCTS | {"baddbmm", "scaled_dot_product_attention"}


class FeatureAxes:
    """The axes of one pass's tensors, as far as they are known; `features` `(channels, *space)` are the input's."""

    def __init__(self, features: Sequence[int]) -> None:
        self._features = tuple(features)
        self._axes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Axes | None:
        """Return the axes of a tensor; None where they are unknown."""
        found: Axes | None = self._axes.get(tensor)
        if found is None and tuple(tensor.shape[1:]) == self._features and tensor.ndim > 2:
            return Axes(0, 1)
        return found

    def set(self, tensor: Tensor, axes: Axes) -> None:
        """Say what the axes of a tensor are."""
        self._axes[tensor] = axes

    def follow(self, name: str, func: Callable[..., Any], output: Any, arguments: tuple[Any, Any]) -> None:
        """Take note of the axes of what an operator returned for its arguments."""
        made = [each for each in tree_leaves(output) if isinstance(each, Tensor) and each.ndim > 2]
        if not made:
            return
        given = [each for each in tree_leaves(arguments) if isinstance(each, Tensor)]
        known = [(each, axes) for each in given if (axes := self.of(each)) is not None]
        for place, tensor in enumerate(made):
            axes = self._after(name, func, tensor, known, arguments)
            if name in ("lstm", "gru", "multi_head_attention_forward") and place:
                axes = SPREAD  # the last state of each layer, attention weights
            if axes is not None:
                self._axes[tensor] = axes

    def _after(
        self,
        name: str,
        func: Callable[..., Any],
        output: Tensor,
        known: list[tuple[Tensor, Axes]],
        arguments: tuple[Any, Any],
    ) -> Axes | None:
        last, source = output.ndim - 1, next(iter(known), None)
        if name in CHANNELS_SECOND:
            return Axes(0, 1)
        if name in _CHANNELS_LAST:
            return self._last(name, output, source)
        if source is None:
            return None
        before, axes = source
        if name in _PRODUCTS and len(known) > 1:
            return SPREAD
        if name in PERMUTATIONS:
            rest, named = arguments[0][1:], {key: each for key, each in arguments[1].items() if each is not before}
            if axes == SPREAD:
                return axes
            order = moved(func, before, rest, named)
            return Axes(order.index(axes.rows), order.index(axes.channels))
        if name in RESHAPES:
            if before.ndim == output.ndim and before.shape == output.shape:
                return axes
            if axes == (0, 1) and output.shape[:2] == before.shape[:2]:
                return axes
            is_last = axes.channels == before.ndim - 1 and axes.rows == 0
            return Axes(0, last) if is_last and output.shape[-1] == before.shape[-1] else SPREAD
        alike = [own for each, own in known if each.ndim == output.ndim]
        if any(own != SPREAD for own in alike):
            return next(own for own in alike if own != SPREAD)
        return SPREAD if any(own == SPREAD for _, own in known) else None

    def _last(self, name: str, output: Tensor, source: tuple[Tensor, Axes] | None) -> Axes | None:
        last = output.ndim - 1
        if source is None or name == "embedding":
            return Axes(0, last)
        before, axes = source
        if axes == SPREAD:
            return Axes(0, last) if output.ndim == 3 else SPREAD
        return Axes(axes.rows, last) if axes.channels == before.ndim - 1 else SPREAD


def moved(func: Callable[..., Any], before: Tensor, rest: Sequence[Any], named: Any) -> list[int]:
    """Return the former place of each axis after a permutation, found from a tensor whose axes all differ in length."""
    lengths = list(range(2, 2 + before.ndim))
    return [lengths.index(each) for each in func(torch.empty(lengths, device="meta"), *rest, **named).shape]
