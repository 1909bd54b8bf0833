"""Affine operators, y = W x + b, in one form: forward with any weights, and transposed."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Call, active, by_channel
from .names import CONVOLUTIONS
from .packed import Conv2d

Map = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
Transpose = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Affine:
    """An operator that is linear in `x` and in `weight`, both of which may be replaced.

    `forward(x, weight, bias)` evaluates it, `transpose(weight, v)` is $W^\\top v$ with the shape of `x`.
    `channel` is the axis of the weight that runs over the outputs, or None where there is no such axis;
    `groups` splits that axis for grouped transposed convolutions. `name` is unique among the operators of one pass.
    `axes` counts the last axes of the outputs that belong to one row: 1 for dense layers, channels and positions for
    convolutions, None where it is not known.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    forward: Map
    transpose: Transpose
    channel: int | None = 0
    groups: int = 1
    name: str = ""
    axes: int | None = None

    def scale(self, z: Tensor) -> Tensor:
        """Return the mean |z| over the outputs of each row, shaped to broadcast; |z| itself where axes is None."""
        return z.abs() if self.axes is None else z.abs().mean([*range(-self.axes, 0)], keepdim=True)

    def spread(self, bias: Tensor) -> Tensor:
        """Return a bias of this operator in the shape that broadcasts over its outputs."""
        return by_channel(bias, (self.axes or 1) - 1)

    def scaled(self, scale: Tensor, shift: Tensor) -> "Affine":
        """Return the same operator followed by `scale * y + shift` per output channel (a folded batch norm)."""
        assert self.channel is not None
        w = self.weight
        if self.groups > 1:  # (in, out / groups, ...): the outputs of group g belong to the g-th block of inputs
            blocks = w.view(self.groups, -1, *w.shape[1:])
            factor = scale.view(self.groups, 1, -1, *[1] * (w.ndim - 2))
            weight = (blocks * factor).view_as(w)
        else:
            shape = [1] * w.ndim
            shape[self.channel] = -1
            weight = w * scale.view(shape)
        return replace(self, weight=weight, bias=shift if self.bias is None else self.bias * scale + shift)


def affine(call: Call) -> Affine:
    """View a call of kind `"affine"` as an Affine of its one varying operand."""
    if call.name == "linear":
        x, weight = call.operands
        x, weight = x.detach().to(weight.dtype), weight.detach()
        return Affine(x, weight, _detached(call.bias), F.linear, lambda weight, v: v.matmul(weight), axes=1)
    if call.name in CONVOLUTIONS:
        return _convolution(call)
    # A product of an activation with a constant: the constant is the weight.
    operands = call.operands
    index = 1 if len(operands) == 2 and active(operands[1]) else 0
    x = operands[index].detach()
    weight = operands[1 - index].detach() if len(operands) == 2 else x.new_ones(())

    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if len(operands) == 1:
            out: Tensor = call.run(x) * weight
        else:
            out = call.run(weight, x) if index else call.run(x, weight)
        return out if bias is None else out + bias

    last = weight.ndim - 1 if index == 0 and call.name in ("matmul", "mm") and weight.ndim == 2 else None
    axes = None if last is None else 1
    return Affine(x, weight, None, product, _general_transpose(product, x), channel=last, axes=axes)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _general_transpose(forward: Map, x: Tensor) -> Transpose:
    """Return the transpose of `forward`, by autograd, for inputs of the shape of `x`."""

    def transpose(weight: Tensor, v: Tensor) -> Tensor:
        with torch.enable_grad():
            z = torch.zeros_like(x).requires_grad_()
            (out,) = torch.autograd.grad(forward(z, weight, None), z, v)
        return out

    return transpose


def _convolution(call: Call) -> Affine:
    given = call.bound()
    weight = call.args[1].detach()
    x = call.args[0].detach().to(weight.dtype)
    spatial = weight.ndim - 2
    transposed = bool(given.get("transposed", call.name.startswith("conv_transpose")))
    groups = int(given.get("groups", 1))

    def per_axis(key: str, default: int) -> list[int]:
        value = given.get(key, default)
        values = [int(value)] * spatial if isinstance(value, int) else [int(v) for v in value]
        return values * spatial if len(values) == 1 else values

    stride, dilation, output_padding = per_axis("stride", 1), per_axis("dilation", 1), per_axis("output_padding", 0)
    if isinstance(given.get("padding"), str) or x.ndim == spatial + 1:  # "same", or a picture without a batch axis
        extra = {k: v for k, v in call.kwargs.items() if k != "bias"}

        def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            out: Tensor = call.func(x, weight, bias, *call.args[3:], **extra)
            return out

        transpose = _general_transpose(forward, x)
    else:
        padding = per_axis("padding", 0)

        own = call.func if isinstance(call.func, Conv2d) else None

        def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if own is not None and own.has(weight, bias):
                return own.convolution(x)
            return torch.convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)

        def transpose(weight: Tensor, v: Tensor) -> Tensor:
            found = None if own is None else own.transpose(weight, v, (x.shape[2], x.shape[3]))
            if found is not None:
                return found
            settings = (stride, padding, dilation, transposed, output_padding, groups)
            out: Tensor = torch.ops.aten.convolution_backward(v, x, weight, None, *settings, [True, False, False])[0]
            return out

    channel, blocks = int(transposed), groups if transposed else 1
    return Affine(x, weight, _detached(call.bias), forward, transpose, channel, blocks, axes=spatial + 1)
