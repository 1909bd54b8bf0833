"""The same function of a shifted input: the first layer's bias takes the shift back, on a copy of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..passes import Model
from ..twin import twin_of
from .rewrites import require_runs

FIRST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Compensated(nn.Module):
    """The layer with another bias: `missing`, what the shift adds to its output, is taken off at every position.

    At borders that is what padding with the shift instead of zero does. What else is read of it is the layer's.
    """

    missing: Tensor

    def __init__(self, layer: nn.Module, missing: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("missing", missing, persistent=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = self.layer(*args, **kwargs)
        return out - self.missing


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
    with twin_of(model) as twin:
        if twin.module is model:
            raise ValueError("model: it cannot be copied, and the user's own is never edited")
        name, change = _reached(twin.module, x, shift)
        if name is None or change is None:
            yield Shifted(TakenOff(twin.module, shift), "no first layer takes the shift: it was taken off the input")
            return
        parent, _, leaf = name.rpartition(".")
        layer = twin.module.get_submodule(name)
        with torch.no_grad():
            missing = layer(change) - layer(torch.zeros_like(change))
        place = twin.module.get_submodule(parent)
        setattr(place, leaf, Compensated(layer, missing))
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
