"""Frames: tensors of a pass that have an axis of the input folded into their rows, as video models fold time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ..rules.names import ACTIVATIONS, DROPOUTS, SOFTMAXES, words
from .feature_axes import CHANNELS_SECOND, PERMUTATIONS, RESHAPES, moved


@dataclass(frozen=True)
class Frames:
    """How a tensor `(rows * count, ...)` is read, whose rows of an example are neighbours: as `(rows, ...)` with an
    axis of `count` frames at `place`."""

    count: int
    place: int = 1

    def unfolded(self, tensor: Tensor) -> Tensor:
        """View `(rows * count, ...)` as `(rows, ...)` with the frames at their place."""
        found: Tensor = tensor.unflatten(0, (-1, self.count)).movedim(1, self.place)
        return found

    def folded(self, tensor: Tensor) -> Tensor:
        """Return what `unfolded` was given."""
        return tensor.movedim(self.place, 1).flatten(0, 1)


class FoldedRows(Exception):
    """A layer returned several rows for each of the model's; its name is the argument. What they are is to be found."""


Axis = tuple[tuple[int, int], ...] | None
"""What an axis of a tensor holds: axes of the input with their lengths, the slowest first; None where unknown."""

_ELEMENTWISE = (
    ACTIVATIONS
    | DROPOUTS
    | SOFTMAXES
    | words("add sub rsub mul div rdiv neg where masked_fill maximum minimum clone contiguous detach alias lift_fresh")
    | words("to type type_as float double half bfloat16 cpu cuda requires_grad_ batch_norm torch.batch_norm")
)
_LAST = words("linear layer_norm rms_norm")
_REDUCTIONS = words("mean sum amax amin")
_RESHAPES = RESHAPES | words("squeeze unsqueeze")


class InputAxes:
    """The axes of the input `(rows, *features)` that the axes of one pass's tensors hold, as far as they are known."""

    def __init__(self, features: Sequence[int]) -> None:
        self._features = tuple(features)
        self._axes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def folded(self, tensor: Tensor) -> tuple[int, int] | None:
        """Return the spatial axis that lies in a tensor's rows, counted from 0, and its length; None where none does.

        The rows of an example are neighbours there, in the order of that axis.
        """
        axes = self._of(tensor)
        if not axes or axes[0] is None or [axis for axis, _ in axes[0]][:1] != [0] or len(axes[0]) != 2:
            return None
        axis, length = axes[0][1]
        return (axis - 2, length) if axis > 1 and length > 1 else None

    def follow(self, name: str, func: Callable[..., Any], output: Any, arguments: tuple[Any, Any]) -> None:
        """Take note of the axes of what an operator returned for its arguments."""
        made = [each for each in tree_leaves(output) if isinstance(each, Tensor) and each.ndim > 0]
        given = [each for each in tree_leaves(arguments) if isinstance(each, Tensor)]
        known = [(each, axes) for each in given if (axes := self._of(each)) is not None]
        if not known:
            return
        for tensor in made:
            self._axes[tensor] = _after(name, func, tensor, known, arguments)

    def _of(self, tensor: Tensor) -> tuple[Axis, ...] | None:
        found: tuple[Axis, ...] | None = self._axes.get(tensor)
        if found is None and tuple(tensor.shape[1:]) == self._features and tensor.ndim > 2:
            return tuple(((axis, length),) for axis, length in enumerate(tensor.shape))
        return found


def _after(
    name: str,
    func: Callable[..., Any],
    output: Tensor,
    known: Sequence[tuple[Tensor, tuple[Axis, ...]]],
    arguments: tuple[Any, Any],
) -> tuple[Axis, ...]:
    before, axes = known[0]
    unknown: tuple[Axis, ...] = (None,) * output.ndim
    rest, named = arguments[0][1:], {key: each for key, each in arguments[1].items() if each is not before}
    if name in PERMUTATIONS:
        return tuple(axes[place] for place in moved(func, before, rest, named))
    if name in _RESHAPES:
        return reshaped(tuple(before.shape), axes, tuple(output.shape))
    if name in CHANNELS_SECOND or name in _LAST:
        own = 1 if name in CHANNELS_SECOND else output.ndim - 1
        if output.ndim != before.ndim:
            return unknown
        same = [a == b and place != own for place, (a, b) in enumerate(zip(before.shape, output.shape, strict=True))]
        return tuple(axis if kept else None for axis, kept in zip(axes, same, strict=True))
    if name in _ELEMENTWISE:
        alike = [own for each, own in known if each.shape == output.shape]
        return tuple(_agreed([own[place] for own in alike]) for place in range(output.ndim))
    if output.ndim and _keeps_first(name, rest, arguments):
        firsts = [own[0] for each, own in known if each.ndim and len(each) == len(output)]
        return (_agreed(firsts), *unknown[1:])
    return unknown


def _agreed(axes: Sequence[Axis]) -> Axis:
    """Return what the operands that are known hold, if that is one thing."""
    found = {axis for axis in axes if axis is not None}
    return found.pop() if len(found) == 1 else None


def _keeps_first(name: str, rest: Sequence[Any], arguments: tuple[Any, Any]) -> bool:
    """Whether an operator leaves the first axis as it is: an index of the others, a reduction or a sequence of them."""
    if name == "getitem":
        index = rest[0] if rest else None
        return isinstance(index, tuple) and bool(index) and index[0] == slice(None)
    named = arguments[1]
    if name == "cat":
        return (rest[0] if rest else named.get("dim", named.get("axis", 0))) not in (0, None)
    if name not in _REDUCTIONS:
        return False
    dims = rest[0] if rest else named.get("dim", named.get("axis"))
    listed = [dims] if isinstance(dims, int) else dims
    ndim = arguments[0][0].ndim if arguments[0] else 0
    return isinstance(listed, list | tuple) and bool(listed) and all(each % max(ndim, 1) for each in listed)


def reshaped(before: Sequence[int], axes: Sequence[Axis], after: Sequence[int]) -> tuple[Axis, ...]:
    """Return the axes of a tensor of shape `before` after a reshape to `after`: merged, split again, or unknown."""
    found: list[Axis] = []
    start = 0
    while len(found) < len(after):
        end, first = start + 1, len(found)
        last = first + 1
        while math.prod(before[start:end]) != math.prod(after[first:last]):
            if math.prod(before[start:end]) < math.prod(after[first:last]) and end < len(before):
                end += 1
            elif last < len(after):
                last += 1
            else:
                return (*found, *(None,) * (len(after) - first))
        held = axes[start:end]
        whole = None if None in held else tuple(part for axis in held for part in axis or ())
        if last == first + 1:
            found.append(whole)
        elif whole is not None and [length for _, length in whole] == list(after[first:last]):
            found += [(part,) for part in whole]
        else:
            found += [None] * (last - first)
        start = end
    return tuple(found)
