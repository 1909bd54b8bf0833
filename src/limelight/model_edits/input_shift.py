"""Copies of a model that undo a shift of the input in the first layer's bias."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base.types import Model
from ..engine.model_copy import editable_copy
from .rewrite import require_runs, run_with_hook

FIRST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Wrapped(nn.Module):
    """A layer with an operation before or after it. All other attributes are the layer's."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class Padded(Wrapped):
    """A convolution without its own padding, on inputs padded by `level` `(1, channels, ...)`, the shifted zero.

    `sides` are in the order of torch's pad.
    """

    level: Tensor

    def __init__(self, layer: nn.Module, level: Tensor, sides: list[int]) -> None:
        super().__init__(layer)
        self.sides = sides
        self.register_buffer("level", level, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = self.layer(F.pad(input - self.level, self.sides) + self.level)
        return found


class Subtracted(Wrapped):
    """The layer's output minus `offset`, which differs between positions, so that a bias cannot subtract it."""

    offset: Tensor

    def __init__(self, layer: nn.Module, offset: Tensor) -> None:
        super().__init__(layer)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = self.layer(*args, **kwargs)
        return out - self.offset


def _compensated(layer: Any, change: Tensor) -> nn.Module:
    """Return a replacement of `layer` (of the copy) that undoes the effect of `change` `(1, *features)` of its input.

    Changing the bias, after padding with the shifted zero, leaves methods the same operators as before. An effect that
    differs between positions is subtracted from the output instead.
    """
    replacement: nn.Module = layer
    padded, sides = change, _sides(layer)
    if any(sides):
        level = change.flatten(2).mean(2).view(*change.shape[:2], *[1] * (change.ndim - 2))
        if not _near(change, level):
            return Subtracted(layer, _effect(layer, change))
        layer.padding = (0,) * (len(sides) // 2)
        replacement, padded = Padded(layer, level, sides), level.expand_as(F.pad(change, sides))
    effect = _effect(layer, padded)
    channels = -1 if isinstance(layer, nn.Linear) else 1
    each = effect.movedim(channels, 0).flatten(1).mean(1)
    if not _near(effect.movedim(channels, -1), each):
        return Subtracted(layer, effect)
    layer.bias = nn.Parameter(-each if layer.bias is None else layer.bias - each, requires_grad=False)
    return replacement


def _effect(layer: nn.Module, change: Tensor) -> Tensor:
    """Compute the change of the layer's output under `change` of its input."""
    found: Tensor = layer(change) - layer(torch.zeros_like(change))
    return found


def _near(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-4 * float(a.abs().max())


def _sides(layer: Any) -> list[int]:
    """Return the zero padding of a convolution, in the order of torch's pad; empty for other layers and padding."""
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return []
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(side, side) for side in layer.padding]
    return [side for pair in reversed(pairs) for side in pair]


class InputSubtracted(nn.Module):
    """The model on inputs minus the shift, for models without a first layer that could undo it."""

    def __init__(self, module: nn.Module, shift: float) -> None:
        super().__init__()
        self.module, self.shift = module, shift

    def forward(self, x: Tensor, *others: Any, **named: Any) -> object:
        return self.module(x - self.shift, *others, **named)


@contextmanager
def compensated(model: Model, x: Tensor, shift: float) -> Iterator[tuple[nn.Module, str]]:
    """Yield a copy of `model` that returns for x + shift what the model returns for x, and a note on how it was made.

    The bias of the first linear layer or convolution that runs is changed, provided that the shift changes its input
    equally for every example, so that only additions and scalings precede it. Otherwise the shift is subtracted from
    the input. Raises ValueError for a black box or a model that cannot be copied; NotApplicable where the copy does not
    run.
    """
    with editable_copy(model, "has no first layer") as copied:
        found = _first_change(copied, x, shift)
        if found is None:
            yield InputSubtracted(copied, shift), "no first layer can undo the shift: it was subtracted from the input"
            return
        name, change = found
        parent, _, leaf = name.rpartition(".")
        with torch.no_grad():
            replacement = _compensated(copied.get_submodule(name), change)
        setattr(copied.get_submodule(parent), leaf, replacement)
        require_runs(copied, x + shift, f"another bias in {name}")
        yield copied, f"the bias of layer {name} undoes the shift"


def _first_change(module: nn.Module, x: Tensor, shift: float) -> tuple[str, Tensor] | None:
    """Find the first layer to run and the change of its input `(1, *features)`; None where that depends on x."""
    nothing = torch.zeros_like(x[:1])
    rows = torch.cat([nothing, nothing + shift, x[:1], x[:1] + shift])
    seen: list[tuple[str, Tensor]] = []

    def note(name: str, layer: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.append((name, next(iter((*args, *named.values()))).detach().clone()))

    run_with_hook(module, rows, [name for name, child in module.named_modules() if name and type(child) in FIRST], note)
    if not seen or len(seen[0][1]) != len(rows):
        return None
    name, reached = seen[0]
    change, at_x = reached[1:2] - reached[:1], reached[3:] - reached[2:3]
    # Up to rounding, the change must be the same at every example.
    constant = float((at_x - change).abs().max()) <= 1e-4 * float(change.abs().max())
    return (name, change) if constant else None
