"""The same function of a shifted input: the first layer's bias takes the shift back, on a copy of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine.model_copy import frozen_copy
from ..engine.runner import Model
from .rewrite import require_runs

FIRST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Wrapped(nn.Module):
    """A layer with something done before or after it. What else is read of it is the layer's."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class Padded(Wrapped):
    """A convolution without padding of its own, on inputs padded by `level` `(1, channels, ...)`: what zero has become.

    `sides` are as torch's pad takes them.
    """

    level: Tensor

    def __init__(self, layer: nn.Module, level: Tensor, sides: list[int]) -> None:
        super().__init__(layer)
        self.sides = sides
        self.register_buffer("level", level, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = self.layer(F.pad(input - self.level, self.sides) + self.level)
        return found


class TakenBack(Wrapped):
    """The layer less `missing`, which differs from position to position, so that no bias could take it."""

    missing: Tensor

    def __init__(self, layer: nn.Module, missing: Tensor) -> None:
        super().__init__(layer)
        self.register_buffer("missing", missing, persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = self.layer(*args, **kwargs)
        return out - self.missing


def _compensated(layer: Any, change: Tensor) -> nn.Module:
    """What to put in the place of `layer`, which is our own copy's: it takes back what `change` `(1, *features)` of its
    input does.

    By its bias, after padding with what has become of zero, so that methods meet the operators they did before. Where
    the change differs from position to position no bias can.
    """
    replacement: nn.Module = layer
    asked, sides = change, _sides(layer)
    if any(sides):
        level = change.flatten(2).mean(2).view(*change.shape[:2], *[1] * (change.ndim - 2))
        if not _near(change, level):
            return TakenBack(layer, _missing(layer, change))
        layer.padding = (0,) * (len(sides) // 2)
        replacement, asked = Padded(layer, level, sides), level.expand_as(F.pad(change, sides))
    missing = _missing(layer, asked)
    channels = -1 if isinstance(layer, nn.Linear) else 1
    each = missing.movedim(channels, 0).flatten(1).mean(1)
    if not _near(missing.movedim(channels, -1), each):
        return TakenBack(layer, missing)
    layer.bias = nn.Parameter(-each if layer.bias is None else layer.bias - each, requires_grad=False)
    return replacement


def _missing(layer: nn.Module, change: Tensor) -> Tensor:
    found: Tensor = layer(change) - layer(torch.zeros_like(change))
    return found


def _near(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-4 * float(a.abs().max())


def _sides(layer: Any) -> list[int]:
    """How a convolution pads with zeros, as torch's pad takes it; empty for other layers and other padding."""
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return []
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(side, side) for side in layer.padding]
    return [side for pair in reversed(pairs) for side in pair]


class TakenOff(nn.Module):
    """The model on inputs less the shift, for models without a first layer that could take it."""

    def __init__(self, module: nn.Module, shift: float) -> None:
        super().__init__()
        self.module, self.shift = module, shift

    def forward(self, x: Tensor) -> object:
        return self.module(x - self.shift)


@dataclass(frozen=True)
class Shifted:
    """A model of shifted inputs and how it was made."""

    module: nn.Module
    note: str


@contextmanager
def compensated(model: Model, x: Tensor, shift: float) -> Iterator[Shifted]:
    """A copy of `model` that gives for x + shift what the model gives for x.

    The first linear layer or convolution that runs gets the bias, provided that what the shift does to its input is
    the same for every example, so that only additions and scalings lie before it. Else the shift is taken off the
    input. Raises ValueError for a black box or a model that cannot be copied: nothing of the user's is edited;
    NotApplicable where the copy does not run.
    """
    if not isinstance(model, nn.Module):
        raise ValueError("model: a black box has no first layer")
    with frozen_copy(model) as twin:
        if twin.module is model:
            raise ValueError("model: it cannot be copied, and the user's own is never edited")
        name, change = _reached(twin.module, x, shift)
        if name is None or change is None:
            yield Shifted(TakenOff(twin.module, shift), "no first layer takes the shift: it was taken off the input")
            return
        parent, _, leaf = name.rpartition(".")
        layer = twin.module.get_submodule(name)
        with torch.no_grad():
            replacement = _compensated(layer, change)
        setattr(twin.module.get_submodule(parent), leaf, replacement)
        require_runs(twin.module, x + shift, f"another bias in {name}")
        yield Shifted(twin.module, f"the bias of layer {name} takes the shift back")


def _reached(module: nn.Module, x: Tensor, shift: float) -> tuple[str | None, Tensor | None]:
    """The first layer to run and what the shift does to its input `(1, *features)`; None where it is no constant."""
    nothing = torch.zeros_like(x[:1])
    rows = torch.cat([nothing, nothing + shift, x[:1], x[:1] + shift])
    seen: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
        return lambda layer, args, named: seen.append((name, next(iter((*args, *named.values()))).detach().clone()))

    handles = [
        child.register_forward_pre_hook(note(name), with_kwargs=True)
        for name, child in module.named_modules()
        if name and type(child) in FIRST
    ]
    try:
        with torch.no_grad():
            module(rows)
    finally:
        for handle in handles:
            handle.remove()
    if not seen or len(seen[0][1]) != len(rows):
        return None, None
    name, reached = seen[0]
    change, at_x = reached[1:2] - reached[:1], reached[3:] - reached[2:3]
    # Rounding apart, the change has to follow from the shift alone, whatever the example.
    constant = float((at_x - change).abs().max()) <= 1e-4 * float(change.abs().max())
    return (name, change) if constant else (None, None)
