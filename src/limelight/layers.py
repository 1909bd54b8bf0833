"""Layers: finding one by name or by shape, and reading its activation on the twin."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Modules = Mapping[str, nn.Module]  # by dotted name, as `dict(model.named_modules())`


@dataclass
class Trace:
    """What a traced forward pass saw: activation bytes, and the layers with a spatial map in order of use.

    `maps` holds (name, output shape without the batch axis); `last` is the last such output itself and
    `version` its count of in-place writes, which tells whether the model overwrote it afterwards.
    """

    bytes: int = 0
    maps: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    last: Tensor | None = None
    version: int = 0

    @property
    def intact(self) -> bool:
        """Whether `last` still holds what its layer returned."""
        return self.last is not None and self.last._version == self.version

    def choose(self) -> tuple[str, tuple[int, ...]]:
        """The last layer that returns a spatial map and runs once: its name and shape."""
        names = [name for name, _ in self.maps]
        for name, shape in reversed(self.maps):
            if names.count(name) == 1:
                return name, shape
        raise ValueError(
            "layer: no module of the model returns a spatial map of more than one position; "
            "pass layer= with a module's dotted name"
        )


@contextmanager
def traced(modules: Modules) -> Iterator[Trace]:
    """Watch a forward pass of the twin with these modules: every module's output shape, none of its values."""
    trace = Trace()
    handles = []
    for name, child in modules.items():
        if name and not isinstance(child, torch.jit.ScriptModule):  # TorchScript takes no hooks
            handles.append(child.register_forward_hook(_watch(trace, name, leaf=not child._modules)))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def _watch(trace: Trace, name: str, leaf: bool) -> Any:
    def hook(child: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if leaf:
            trace.bytes += output.numel() * output.element_size()
        if output.ndim < 3 or output[0, 0].numel() <= 1 or not output.is_floating_point():
            return
        entry = (name, tuple(output.shape[1:]))
        if output is trace.last:
            passed_on = any(output is arg for arg in args) and trace.intact
            if not passed_on:  # rewritten in place, or returned by an outer module, which then names the map
                trace.maps[-1], trace.version = entry, output._version
        elif "Pool" not in type(child).__name__:  # CAMs read the map before it is pooled
            trace.last, trace.version = output, output._version
            trace.maps.append(entry)

    return hook


def layer_name(model: nn.Module, layer: str | nn.Module) -> str:
    """The dotted name of a layer given by name or as the module itself. Raises ValueError with the nearest names."""
    names: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if name}
    if isinstance(layer, nn.Module):
        for name, module in names.items():
            if module is layer:
                return name
        raise ValueError(f"layer: this {type(layer).__name__} is not a module of the model")
    if str(layer) in names:
        return str(layer)
    near = difflib.get_close_matches(layer, names, n=4, cutoff=0.3) or list(names)[-4:]
    raise ValueError(f"layer: {layer!r} is not a module of the model; nearest: {', '.join(near) or 'it has none'}")


@contextmanager
def captured(modules: Modules, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the named modules in one forward pass of the twin.

    The model goes on with a copy of each output, so an in-place operation that follows cannot
    overwrite what was captured. Raises ValueError for a layer that runs more than once.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(child: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise ValueError(f"layer: {name!r} returns {type(output).__name__}, not a tensor; choose one inside it")
            if name in found:
                raise ValueError(
                    f"layer: {name!r} runs more than once in a forward pass; choose a module that runs once"
                )
            found[name] = output
            return output.clone()

        return hook

    handles = []
    try:
        for name in names:
            child = modules[name]
            if isinstance(child, torch.jit.ScriptModule):
                raise ValueError(f"layer: {name!r} is TorchScript, which cannot be looked into; pass the eager module")
            handles.append(child.register_forward_hook(keep(name)))
        yield found
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"layer: {', '.join(map(repr, missing))} did not run in the forward pass")
