"""Tracing: which layers of a model return a map, and which of them a class activation map should read."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from ..question.targets import output_tensor
from .layer_maps import Grid, grid_of
from .layers import Modules

TOKEN_MAPS = 3  # with a class token the last block's positions may not reach the score: as many maps are looked at


@dataclass(eq=False)
class Map:
    """A map that a searched pass returned: the modules that returned it, the innermost first.

    `output` is the tensor itself as long as it may be asked for, `version` its count of in-place writes, which tells
    whether the model overwrote it afterwards. `inner` maps are parts of a block that went on to return its own.
    """

    names: list[str]
    grid: Grid
    channels: int
    output: Tensor | None
    version: int
    inner: bool = False

    @property
    def intact(self) -> bool:
        """Whether `output` still holds what the layer returned."""
        return self.output is not None and self.output._version == self.version


@dataclass
class LayerSearch:
    """What a watched forward pass returned of inputs whose spatial size is `space`.

    `bytes` of activations; `maps` in order of use; `linear`, the last linear layer with its input and output.
    """

    space: tuple[int, ...]
    bytes: int = 0
    maps: list[Map] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    linear: tuple[nn.Linear, Tensor, Tensor] | None = None
    ranked: list[Map] = field(default_factory=list)

    def name(self, seen: Map) -> str | None:
        """The outermost module that returned the map and ran once."""
        return next((name for name in reversed(seen.names) if self.runs[name] == 1), None)

    def candidates(self) -> dict[str, Map]:
        """The maps that a layer's name leads to, in order of use, without those inside a block."""
        named = ((self.name(seen), seen) for seen in self.maps if not seen.inner)
        return {name: seen for name, seen in named if name}

    def rank(self, outputs: Any, scores: Tensor) -> dict[str, Tensor]:
        """Put the maps to choose from into `ranked`, the best first; returns their activations by name.

        The best is the last that the score depends on; not one that is the model's answer itself, as in a
        segmentation. Where a map has prefix tokens, the score may depend on those alone, so earlier maps follow.
        """
        reached = _reached(scores)
        usable = [
            seen
            for seen in self.candidates().values()
            if not _is_answer(seen, outputs) and (seen.output is None or reached(seen.output))
        ]
        if not usable:
            raise ValueError(
                "layer: no module of the model returns a spatial map of more than one position; "
                "pass layer= with a module's dotted name"
            )
        self.ranked = usable[: -1 - TOKEN_MAPS if usable[-1].grid.prefix else -2 : -1]
        asked = {str(self.name(seen)) for seen in self.ranked}
        return {name: output for name, output in self.held().items() if name in asked}

    def held(self) -> dict[str, Tensor]:
        """The activations of the candidates, by name, as far as a gradient can be had and nothing overwrote them."""
        return {
            name: seen.output
            for name, seen in self.candidates().items()
            if seen.output is not None and seen.intact and seen.output.requires_grad
        }

    def choose(self, gradients: Mapping[str, Tensor]) -> tuple[str, Map, list[str]]:
        """The best of `ranked` whose positions have a gradient, as far as `gradients` tell, and those passed over.

        Where none has one, the score is flat at x, and the earliest is the one that could have had.
        """

        def silent(seen: Map) -> bool:
            slope = gradients.get(str(self.name(seen)))
            return slope is not None and not bool(seen.grid.maps(slope).any())

        passed_over = list(takewhile(silent, self.ranked[:-1]))
        best = self.ranked[len(passed_over)]
        return str(self.name(best)), best, [str(self.name(seen)) for seen in passed_over]

    def grid(self, shape: tuple[int, ...]) -> Grid | None:
        """The grid in an output of this shape (without the rows)."""
        return grid_of(shape, self.space, [(seen.channels, seen.grid.space) for seen in self.maps])

    def see(self, name: str, child: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Take note of the output of the module of that name."""
        last = self.maps[-1] if self.maps else None
        if last is not None and last.output is not None:
            if output is last.output:
                if not last.intact:  # rewritten in place: from now on the map is this module's
                    last.names, last.version = [name], output._version
                elif not any(output is arg for arg in args):  # an outer module hands it on, which then names the map
                    last.names.append(name)
                return
            if output.untyped_storage().data_ptr() == last.output.untyped_storage().data_ptr():
                return  # the same numbers, seen in another shape
        if "Pool" in type(child).__name__:  # CAMs read the map before it is pooled
            return
        grid = self.grid(tuple(output.shape[1:]))
        if grid is None or grid.positions <= 1:
            return
        for seen in self.maps:
            if seen.names[0].startswith(f"{name}."):
                seen.inner, seen.output = True, None
        if last is not None and not torch.is_grad_enabled():
            last.output = None  # nobody can ask for its gradient
        self.maps.append(Map([name], grid, grid.maps(output).shape[1], output, output._version))

    def release(self) -> None:
        """Let go of all tensors."""
        for seen in self.maps:
            seen.output = None
        self.linear = None


def _is_answer(seen: Map, outputs: Any) -> bool:
    """Whether the map has the channels of spatial outputs: a segmentation's classes are no features."""
    try:
        answer = output_tensor(outputs)
    except TypeError:  # outputs of the model's own kind, which a target reads
        return False
    return answer.ndim == len(seen.grid.space) + 2 and answer.shape[1] == seen.channels


def _reached(scores: Tensor) -> Callable[[Tensor], bool]:
    """Tells whether scores were computed from a tensor; True of all where they carry no gradient to tell by."""
    if scores.grad_fn is None:
        return lambda tensor: True
    waiting, found = deque([scores.grad_fn]), {scores.grad_fn}

    def reached(tensor: Tensor) -> bool:
        while waiting and tensor.grad_fn not in found:
            for node, _ in waiting.popleft().next_functions:
                if node is not None and node not in found:
                    found.add(node)
                    waiting.append(node)
        return tensor.grad_fn in found

    return reached


@contextmanager
def search_layers(modules: Modules, space: tuple[int, ...]) -> Iterator[LayerSearch]:
    """Watch a forward pass of the twin with these modules on inputs of the spatial size `space`."""
    trace = LayerSearch(space)
    handles = []
    for name, child in modules.items():
        if name and not isinstance(child, torch.jit.ScriptModule):  # TorchScript takes no hooks
            handles.append(child.register_forward_hook(_watch(trace, name, leaf=not child._modules)))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def _watch(trace: LayerSearch, name: str, leaf: bool) -> Any:
    def hook(child: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        trace.runs[name] += 1
        if not isinstance(output, Tensor):
            return
        if leaf:
            trace.bytes += output.numel() * output.element_size()
        if isinstance(child, nn.Linear) and args and args[0].ndim == 2:
            trace.linear = child, args[0].detach(), output.detach()
        if output.ndim > 2 and output.is_floating_point():
            trace.see(name, child, args, output)

    return hook
