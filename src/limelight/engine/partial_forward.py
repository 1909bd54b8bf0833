"""Running only the part of a model after a layer: the modules before it return recorded outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..base.second_run import is_second_run
from ..question.targets import Target
from .layers import Layer, LayerInput, Modules, hooked
from .runner import Runner


@dataclass
class ForwardRecord:
    """The outputs of `layer` and of the outermost modules that finished before it.

    A module's output is used only where that equals running it: it ran once, returned one tensor with an entry for
    each row, and nothing wrote into that tensor afterwards.
    """

    layer: str
    _returned: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    _runs: Counter[str] = field(default_factory=Counter)

    @property
    def is_whole(self) -> bool:
        """Whether the layer is the only output of a module that ran once."""
        return self.layer in self._returned and self._runs[self.layer] == 1

    def outputs(self, rows: int) -> dict[str, Tensor]:
        """Return the outputs for so many rows that can replace running their modules, by name."""
        return {
            name: output
            for name, (output, version) in self._returned.items()
            if self._runs[name] == 1 and output.ndim and len(output) == rows and output._version == version
        }

    def add(self, name: str, child: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Record the output of the module of that name, in place of those inside it."""
        if is_second_run():
            return
        self._runs[name] += 1
        if self.layer in self._returned:
            return
        self._returned = {inner: kept for inner, kept in self._returned.items() if not inner.startswith(f"{name}.")}
        if isinstance(output, Tensor):
            self._returned[name] = output, output._version


@contextmanager
def recorded(modules: Modules, layer: str) -> Iterator[ForwardRecord]:
    """Record, in one forward pass, the outputs of the modules before `layer`; TorchScript is run again later."""
    record = ForwardRecord(layer)
    with hooked(modules, record.add):
        yield record


@contextmanager
def replayed(modules: Modules, outputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Make these modules return `outputs` without running while this is open."""
    original = {name: vars(modules[name]).get("forward") for name in outputs}
    try:
        for name, output in outputs.items():
            modules[name].forward = _returning(output)
        yield
    finally:
        for name, before in original.items():
            vars(modules[name]).pop("forward", None)
            if before is not None:
                modules[name].forward = before


def scores_without(runner: Runner, target: Target, examples: Tensor, rows: Tensor, layer: Layer) -> Tensor:
    """Return the scores `(channels, n)` of `rows` with one channel of the layer's map at a time set to zero.

    The modules before the layer run once; each channel counts as a forward row of each of `rows`.
    """
    budget = runner.budget
    frames = layer.grid.frames if layer.grid is not None else None

    def run(part: Tensor, owners: Tensor) -> Tensor:
        with recorded(runner.modules, layer.name) as front:
            output = runner.once(part, owners, target, layers=(layer.name,), merged=False).activations[layer.name]
        before = front.outputs(len(output))
        channels = layer.maps(output).shape[1]
        found = []
        for pairs in torch.arange(channels * len(part), device=part.device).split(budget):
            channel, place = pairs // len(part), pairs % len(part)
            changed = output[place].clone()
            layer.maps(changed)[torch.arange(len(pairs), device=part.device), channel] = 0
            if front.is_whole:
                own = frames.folded(changed) if frames is not None else changed
                memory = {name: returned[place] for name, returned in before.items()} | {layer.name: own}
                with replayed(runner.modules, memory):
                    found.append(runner.once(part[place], owners[place], target, merged=False).scores)
            else:
                inside = LayerInput(layer.name, part[place])
                found.append(runner.once(changed, owners[place], target, inside=inside, merged=False).scores)
        return torch.cat(found).view(channels, len(part))

    return torch.cat(list(runner.safely(rows, examples, run)), dim=1)


def _returning(output: Tensor) -> Callable[..., Tensor]:
    return lambda *args, **named: output
