"""A 2-D convolution with frozen weights that are laid out for oneDNN once, forward and backward to its input.

torch lays the weights of a convolution out anew at every call, which costs as much as the convolution itself where
rows are few; and its backward pass to the input is slower than a forward one. Here both directions are forward
convolutions on weights that were laid out before. The two operators are private to torch, so `available` tries them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LAST = torch.channels_last
_KEPT = 6  # layouts of one convolution, for inputs of as many sizes
_FEW_CHANNELS = 4  # up to so many, the phases of a strided convolution are cheaper than its own backward pass
Pair = tuple[int, int]


@cache
def available() -> bool:
    """Whether torch has the two operators and they compute a convolution."""
    try:
        made = PackedConvolution(
            torch.arange(24.0).view(4, 3, 1, 2).cos(), torch.arange(4.0), (1, 1), (0, 1), (1, 1), 1
        )
        x = torch.arange(105.0).view(1, 3, 5, 7).sin()
        found = made.forward(x.contiguous(memory_format=LAST))
        return torch.allclose(found, made.plain(x), atol=1e-5)
    except (AttributeError, RuntimeError, TypeError):
        return False


@dataclass(eq=False)
class Layouts:
    """The weights as they were laid out: forward and backward, by the size of what is convolved with them and
    its padding.

    `transposed`: the backward weights before they are laid out, with the padding before the first row and column.
    """

    forward: dict[tuple[Pair, Pair], Tensor] = field(default_factory=dict)
    backward: dict[tuple[Pair, Pair], Tensor] = field(default_factory=dict)
    transposed: tuple[Tensor, Pair] | None = None

    @property
    def bytes(self) -> int:
        """The memory of the weights in these layouts; padding that oneDNN adds to them does not count."""
        held = [*self.forward.values(), *self.backward.values()]
        held += [self.transposed[0]] if self.transposed is not None else []
        return sum(each.numel() * each.element_size() for each in held)


@dataclass(frozen=True, eq=False)
class PackedConvolution:
    """A convolution of `weight` `(out, in / groups, kh, kw)` and `bias`, with zero padding; float32, on the CPU.

    Called with rows, it gives what `plain` gives, to rounding, and the gradient to the rows; in channels-last memory.
    Operands that the packed weights are not for (another dtype, autocast, tensor subclasses) go to `plain`.
    """

    weight: Tensor
    bias: Tensor | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    kept: Layouts = field(default_factory=Layouts)

    def __call__(self, x: Tensor) -> Tensor:
        if not _is_packable(x):
            return self.plain(x)
        x = x.contiguous(memory_format=LAST)
        if torch.is_grad_enabled() and x.requires_grad:
            out: Tensor = _Packed.apply(x, self)  # type: ignore[no-untyped-call]
            return out
        return self.forward(x)

    def plain(self, x: Tensor) -> Tensor:
        """Compute it by torch's own operator."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def forward(self, x: Tensor, padding: Pair | None = None) -> Tensor:
        """Compute the outputs of rows in channels-last memory, without a graph; `padding` in place of its own."""
        padding = self.padding if padding is None else padding
        return _convolve(x, self.weight, self.bias, padding, self.stride, self.dilation, self.groups, self.kept.forward)

    def conv2d(self, x: Tensor, *, padding: Pair = (0, 0), **own: Any) -> Tensor:
        """Compute `F.conv2d` with its own weight, bias and settings, which may be listed, but with this `padding`."""
        if not _is_packable(x) or torch.is_grad_enabled():
            return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return self.forward(x.contiguous(memory_format=LAST), padding)

    def backward(self, gradient: Tensor, size: Pair) -> Tensor:
        """Return the gradient at inputs of the spatial `size` from that at the outputs."""
        gradient = gradient.contiguous(memory_format=LAST)
        padding = self._flipped_padding()
        if self.stride == (1, 1) and min(padding) >= 0:
            if self.kept.transposed is None:
                self.kept.transposed = flipped(self.weight, self.groups), (0, 0)
            weight = self.kept.transposed[0]
            return _convolve(gradient, weight, None, padding, (1, 1), self.dilation, self.groups, self.kept.backward)
        if self._has_phases():
            return self._by_phases(gradient, size)
        rows = torch.empty((len(gradient), self.weight.shape[1] * self.groups, *size), memory_format=LAST)  # its shape
        if self.kept.transposed is None:
            self.kept.transposed = self.weight.contiguous(memory_format=LAST), (0, 0)
        settings = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups, (True, False, False))
        found: Tensor = torch.ops.aten.convolution_backward(gradient, rows, self.kept.transposed[0], None, *settings)[0]
        return found

    def _flipped_padding(self) -> Pair:
        kernel = self.weight.shape[2:]
        first, second = (d * (k - 1) - p for d, k, p in zip(self.dilation, kernel, self.padding, strict=True))
        return first, second

    def _has_phases(self) -> bool:
        kernel = tuple(self.weight.shape[2:])
        square = self.stride[0] == self.stride[1] and self.dilation == (1, 1) and self.groups == 1
        return square and (self.weight.shape[1] <= _FEW_CHANNELS or kernel == self.stride)

    def _by_phases(self, gradient: Tensor, size: Pair) -> Tensor:
        """Compute the inputs at each phase of the stride as channels of one convolution, and interleave them."""
        if self.kept.transposed is None:
            self.kept.transposed = phases(self.weight, self.stride[0], self.padding)
        weight, before = self.kept.transposed
        pads, cuts = [], []
        for axis in (0, 1):
            count = -(-size[axis] // self.stride[0])
            after = count + weight.shape[2 + axis] - 1 - before[axis] - gradient.shape[2 + axis]
            pad = max(before[axis], after, 0)  # oneDNN's own padding is symmetric: what it makes too much is cut off
            pads.append(pad)
            cuts.append(slice(pad - before[axis], pad - before[axis] + count))
        found = _convolve(gradient, weight, None, (pads[0], pads[1]), (1, 1), (1, 1), 1, self.kept.backward)
        return F.pixel_shuffle(found[:, :, cuts[0], cuts[1]], self.stride[0])[:, :, : size[0], : size[1]]


class _Packed(torch.autograd.Function):
    """The packed convolution of rows that carry a gradient."""

    is_linear = True  # for the audit of a pass by rules

    @staticmethod
    def forward(ctx: Any, x: Tensor, convolution: PackedConvolution) -> Tensor:
        ctx.convolution, ctx.size = convolution, (x.shape[2], x.shape[3])
        return convolution.forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.convolution.backward(gradient, ctx.size), None


def flipped(weight: Tensor, groups: int) -> Tensor:
    """Return the weights whose stride-1 convolution is the backward pass of that of `weight` to its input."""
    outputs, inputs, height, width = weight.shape
    split = weight.reshape(groups, outputs // groups, inputs, height, width).transpose(1, 2)
    return split.flip(3, 4).reshape(groups * inputs, outputs // groups, height, width)


def phases(weight: Tensor, stride: int, padding: Pair) -> tuple[Tensor, Pair]:
    r"""Return the weights of the backward pass to the input by phases, and the padding before its first row and column.

    $\partial_{x_{si + a}} = \sum_d w_{sd + a + p}\,\partial_{y_{i - d}}$, so that every phase $a < s$ of the input is a
    convolution of the outputs' gradient: `(in * stride^2, out, taps, taps)`, with the phases as `pixel_shuffle` orders
    them.
    """
    outputs, inputs = weight.shape[:2]
    taps, before = [], []
    for kernel, p in zip(weight.shape[2:], padding, strict=True):
        # Those d with 0 <= stride * d + a + p < kernel for some phase a, from the largest down.
        most, least = (kernel - 1 - p) // stride, -((p + stride - 1) // stride)
        d = torch.arange(most, least - 1, -1)
        tap = stride * d[None, :] + torch.arange(stride)[:, None] + p
        taps.append(torch.where((tap >= 0) & (tap < kernel), tap, kernel))  # one past the end: a zero
        before.append(most)
    padded = F.pad(weight, (0, 1, 0, 1))
    found = padded[:, :, taps[0]][..., taps[1]].permute(1, 2, 4, 0, 3, 5)  # in, phase, phase, out, taps, taps
    return found.reshape(inputs * stride**2, outputs, taps[0].shape[1], taps[1].shape[1]), (before[0], before[1])


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Pair,
    stride: Pair,
    dilation: Pair,
    groups: int,
    kept: dict[tuple[Pair, Pair], Tensor],
) -> Tensor:
    """Convolve rows with weights in the layout for their size, which is kept."""
    size = ((x.shape[2], x.shape[3]), padding)  # the layout does not depend on the number of rows
    packed = kept.get(size)
    if packed is None:
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, x.shape)
        for old in list(kept)[: len(kept) + 1 - _KEPT]:
            kept.pop(old, None)
        kept[size] = packed
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, packed, bias, padding, stride, dilation, groups, "none", [], ""
    )
    return out


def _is_packable(x: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.ndim == 4
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )
