"""The operators on a base and a patch. An operator that is not listed here gets whole rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from ...rules.names import ACTIVATIONS, words
from ...rules.packed import of_weight
from .boxes import Boxes
from .patched import OPERATORS, Patched, found, joined

Func = Callable[..., Tensor]
Pair = int | Sequence[int]

POINTWISE = (ACTIVATIONS - words("prelu rrelu")) | words("add sub mul div rsub pow neg maximum minimum")


def operator(*names: str) -> Callable[[Callable[..., Tensor | None]], Callable[..., Tensor | None]]:
    """Add a function with the operator's own signature to the table; other arguments get whole rows."""

    def enter(handler: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
        signature = inspect.signature(handler)

        def run(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
            try:
                bound = signature.bind(func, *args, **kwargs)
            except TypeError:
                return None
            x, operands = bound.args[1], list(found((args, kwargs)))
            only_operand = len(operands) == 1 and operands[0] is x and operands[0].rows is None
            return handler(*bound.args, **bound.kwargs) if only_operand else None

        OPERATORS.update(dict.fromkeys(names, run))
        return handler

    return enter


# Position by position --------------------------------------------------------------------------------


def pointwise(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Apply to one or more patched tensors, with numbers or tensors that have a value per channel."""
    operands = list(found((args, kwargs)))
    tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    others = [each for each in tensors if not isinstance(each, Patched)]
    if not all(map(_same_everywhere, others)) or not _alike(operands):
        return None
    boxes, grown = _aligned(operands)
    bases = {id(each): each.base for each in operands}
    patches = {id(each): patch for each, patch in zip(operands, grown, strict=True)}
    picture = operands[0].picture
    base = picture.run(func, *_with(bases, args), **_with(bases, kwargs))
    return joined(base, func(*_with(patches, args), **_with(patches, kwargs)), boxes, picture)


OPERATORS.update(dict.fromkeys(POINTWISE, pointwise))


def _same_everywhere(constant: Tensor) -> bool:
    """Whether it broadcasts along rows and positions."""
    shape = (1,) * (4 - constant.ndim) + tuple(constant.shape)
    return len(shape) == 4 and shape[0] == shape[2] == shape[3] == 1


def _alike(operands: list[Patched]) -> bool:
    """Whether these are maps of one picture and one size whose whole rows have not been made."""
    first = operands[0]
    return all(
        each.picture is first.picture
        and each.shape[2:] == first.shape[2:]
        and each.rows is None
        and len(each) == len(first)
        for each in operands
    )


def _aligned(operands: list[Patched]) -> tuple[Boxes, list[Tensor]]:
    """Return boxes that contain every operand's box, and each operand's values in them."""
    boxes = operands[0].boxes
    for each in operands[1:]:
        if not boxes.same(each.boxes):
            boxes = boxes.union(each.boxes, (each.shape[2], each.shape[3]))
    grown = [
        each.patch if boxes.same(each.boxes) else boxes.window(each.base, each.boxes, each.patch) for each in operands
    ]
    return boxes, grown


def _with(values: dict[int, Tensor], arguments: Any) -> Any:
    """Return the arguments with each patched tensor replaced by its entry in `values`."""
    return tree_map(lambda each: values.get(id(each), each), arguments)


@operator("batch_norm", "torch.batch_norm")
def batch_norm(func: Func, x: Patched, *arguments: Any, **named: Any) -> Tensor | None:
    """Apply batch norm with running statistics; with the batch's, rows would depend on each other."""
    training = named.get("training", arguments[4] if len(arguments) > 4 else False)
    return None if training else elementwise(func, x, *arguments, **named)


@operator("prelu", "clone", "to", "float", "double", "half", "bfloat16")
def elementwise(func: Func, x: Patched, *arguments: Any, **named: Any) -> Tensor:
    """Apply to one patched tensor alone; return x itself where a cast has nothing to convert, as torch does."""
    base = x.picture.run(func, x.base, *arguments, **named)
    return x if base is x.base else joined(base, func(x.patch, *arguments, **named), x.boxes, x.picture)


@operator("dropout", "dropout2d", "alpha_dropout", "feature_alpha_dropout")
def dropout(func: Func, x: Patched, p: float = 0.5, training: bool = True) -> Tensor | None:
    return None if training else x


@operator("detach")
def detach(func: Func, x: Patched) -> Tensor:
    return x  # shares its memory with x, so it is x


@operator("requires_grad_")
def requires_grad(func: Func, x: Patched, requires_grad: bool = True) -> Tensor | None:
    return None if requires_grad else x


# Over channels and space -----------------------------------------------------------------------------


def cat(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Concatenate patched tensors along the channels."""
    tensors, dim = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if dim not in (1, -3) or not all(isinstance(each, Patched) for each in tensors) or not _alike(list(tensors)):
        return None
    boxes, patches = _aligned(tensors)
    picture = tensors[0].picture
    return joined(picture.run(func, [each.base for each in tensors], 1), func(patches, 1), boxes, picture)


OPERATORS["cat"] = cat


@operator("pad", "constant_pad_nd")
def pad(
    func: Func, x: Patched, pad: Sequence[int], mode: Any = "constant", value: float | None = None
) -> Tensor | None:
    """Pad outwards by a constant: the boxes move along."""
    if (isinstance(mode, str) and mode != "constant") or len(pad) > 4 or min(pad) < 0:
        return None
    left, _, top, _ = (*pad, 0, 0)[:4]
    base = x.picture.run(func, x.base, pad, mode, *([] if value is None else [value]))
    return joined(base, x.patch, x.boxes.shifted(top, left), x.picture)


@operator("conv2d")
def conv2d(
    func: Func,
    x: Patched,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    kernel = _reach(weight.shape[2:], dilation)
    before = _pair(0 if isinstance(padding, str) else padding)
    if padding == "same":
        before = (kernel[0] - 1) // 2, (kernel[1] - 1) // 2
    step, spread = list(_pair(stride)), list(_pair(dilation))  # operators of exported programs take lists alone
    settings = {"weight": weight, "bias": bias, "stride": step, "dilation": spread, "groups": groups}
    packed = of_weight(weight)
    if packed is not None and not isinstance(padding, str):
        func, padding = packed.conv2d, _pair(padding)
    return _sliding(func, x, settings, padding, kernel, _pair(stride), before, 0.0)


@operator("max_pool2d")
def max_pool2d(
    func: Func,
    x: Patched,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    if return_indices:
        return None
    stride = stride or kernel_size
    sizes = {"kernel_size": list(_pair(kernel_size)), "stride": list(_pair(stride))}
    settings = {**sizes, "dilation": list(_pair(dilation))}
    kernel = _reach(_pair(kernel_size), dilation)
    return _sliding(func, x, settings, padding, kernel, _pair(stride), _pair(padding), -torch.inf, ceil_mode=ceil_mode)


@operator("avg_pool2d")
def avg_pool2d(
    func: Func,
    x: Patched,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor | None:
    """Average over windows that all have the same number of positions: padding counted, no partial windows."""
    if ceil_mode or (any(_pair(padding)) and not count_include_pad):
        return None
    stride = stride or kernel_size
    sizes = {"kernel_size": list(_pair(kernel_size)), "stride": list(_pair(stride))}
    settings = {**sizes, "divisor_override": divisor_override}
    return _sliding(func, x, settings, padding, _pair(kernel_size), _pair(stride), _pair(padding), 0.0)


def _sliding(
    func: Func,
    x: Patched,
    settings: dict[str, Any],
    padding: Pair | str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    before: tuple[int, int],
    value: float,
    **of_whole: Any,
) -> Tensor:
    """Apply a sliding operator to what the outputs that the boxes reach read, padded beforehand with `value`.

    `kernel`, `stride` and the padding `before` the first position are per axis; `of_whole` is for whole maps only.
    """
    padding = padding if isinstance(padding, str) else list(_pair(padding))
    base = x.picture.run(func, x.base, **settings, padding=padding, **of_whole)
    if kernel == stride == (1, 1) and before == (0, 0):
        return joined(base, func(x.patch, **settings), x.boxes, x.picture)
    spans = (x.boxes.y, x.boxes.x)
    reached = Boxes(*(spans[a].reached(kernel[a], stride[a], before[a], base.shape[2 + a]) for a in (0, 1)))
    after = [
        max(0, (base.shape[2 + axis] - 1) * stride[axis] + kernel[axis] - before[axis] - x.base.shape[2 + axis])
        for axis in (0, 1)
    ]
    padded = x.base
    if any((*before, *after)):
        sides = [before[1], after[1], before[0], after[0]]
        padded = x.picture.run(F.pad, x.base, sides, "constant", value)
    needed = Boxes(reached.y.needed(kernel[0], stride[0]), reached.x.needed(kernel[1], stride[1]))
    window = needed.window(padded, x.boxes.shifted(*before), x.patch)
    return joined(base, func(window, **settings), reached, x.picture)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _reach(kernel: Sequence[int], dilation: Pair) -> tuple[int, int]:
    """Return the number of positions that a dilated kernel spans on each axis."""
    spread = _pair(dilation)
    return spread[0] * (kernel[0] - 1) + 1, spread[1] * (kernel[-1] - 1) + 1
