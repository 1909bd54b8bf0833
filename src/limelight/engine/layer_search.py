"""Layer search: which layers of a model return a map, and which of them a class activation map should read."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from ..question.targets import output_tensor
from .graph import operators
from .layer_maps import Grid, Known, grid_of
from .layers import Modules, hooked
from .programs import without_layers

TOKEN_MAPS = 3  # maps compared with a class token, where the last block's positions may not reach the score


@dataclass(eq=False)
class LayerMap:
    """A map in a watched pass, with the `names` of the modules that returned it, the innermost first.

    `output` is the tensor itself as long as it may be needed, `version` its count of in-place writes at that time, by
    which a later overwrite is found, and `rows` the length of its first axis. `inner` maps are parts of a block that
    returned a map itself.
    """

    names: list[str]
    grid: Grid
    channels: int
    output: Tensor | None
    version: int
    rows: int
    inner: bool = False

    @property
    def intact(self) -> bool:
        """Whether `output` still holds what the layer returned."""
        return self.output is not None and self.output._version == self.version


@dataclass(frozen=True)
class Watched:
    """What a search found worth watching in the next pass of the same model on inputs of the same shape.

    `names`: the modules that return the chosen map, and the last linear layer. `known`: the maps before it. `operators`
    that led to the scores: with others the model took another path. `bytes`: the activations' memory for a row.
    """

    names: frozenset[str]
    known: tuple[Known, ...]
    operators: Counter[str]
    bytes: int


@dataclass
class LayerSearch:
    """The findings of a watched forward pass on inputs of the spatial size `space`.

    `bytes` counts the activations' memory; `maps` are in order of use, `ranked` those to choose from, the best first;
    `runs` counts each module's calls; `linear` is the last linear layer with its input and output. `unreadable` says
    why the model's layers cannot be read, if so.
    """

    space: tuple[int, ...]
    bytes: int = 0
    maps: list[LayerMap] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    linear: tuple[nn.Linear, Tensor, Tensor] | None = None
    unreadable: str = ""
    ranked: list[LayerMap] = field(default_factory=list)
    _operators: Counter[str] = field(default_factory=Counter)
    _outer: list[LayerMap] = field(default_factory=list)  # of the maps, those that are part of no other so far
    _known: list[Known] = field(default_factory=list)
    _linear: str = ""  # the name of `linear`

    def name(self, seen: LayerMap) -> str | None:
        """Return the outermost module that returned the map and ran once."""
        return next((name for name in reversed(seen.names) if self.runs[name] == 1), None)

    def candidates(self) -> dict[str, LayerMap]:
        """Return the maps by the names of their layers, in order of use, without those inside a block."""
        named = ((self.name(seen), seen) for seen in self.maps if not seen.inner)
        return {name: seen for name, seen in named if name}

    def rank(self, outputs: Any, scores: Tensor, rows: int) -> dict[str, Tensor]:
        """Set `ranked` to the maps to choose from in a pass of `rows` rows, the best first; return their activations.

        The best is the last that the score depends on, except the model's own output, as in a segmentation. Where a
        map has prefix tokens, the score may depend on those alone, so earlier maps follow.
        """
        reaches = _reaches(scores)
        usable = [
            seen
            for seen in self.candidates().values()
            if seen.rows == rows and not _is_output(seen, outputs) and (seen.output is None or reaches(seen.output))
        ]
        if not usable:
            none = (
                "no module of the model returns a spatial map of more than one position for each row; "
                "pass layer= with a module's dotted name"
            )
            raise ValueError(f"layer: {self.unreadable or none}")
        self.ranked = usable[: -1 - TOKEN_MAPS if usable[-1].grid.prefix else -2 : -1]
        names = {str(self.name(seen)) for seen in self.ranked}
        return {name: output for name, output in self.held().items() if name in names}

    def held(self) -> dict[str, Tensor]:
        """Return the candidates' activations by name, where they have a gradient and were not overwritten."""
        return {
            name: seen.output
            for name, seen in self.candidates().items()
            if seen.output is not None and seen.intact and seen.output.requires_grad
        }

    def choose(self, gradients: Mapping[str, Tensor]) -> tuple[str, LayerMap, list[str]]:
        """Return the best of `ranked` with a gradient at its positions, by name and map, and the names passed over.

        A map without an entry in `gradients` counts as having one. Where none has one, the score is constant near x,
        and the earliest map is chosen.
        """

        def is_flat(seen: LayerMap) -> bool:
            slope = gradients.get(str(self.name(seen)))
            return slope is not None and not bool(seen.grid.maps(slope).any())

        passed_over = list(takewhile(is_flat, self.ranked[:-1]))
        best = self.ranked[len(passed_over)]
        return str(self.name(best)), best, [str(self.name(seen)) for seen in passed_over]

    def grid(self, shape: tuple[int, ...]) -> Grid | None:
        """Return the grid in an output of this shape (without the rows)."""
        return grid_of(shape, self.space, self._known)

    def led_by(self, scores: Tensor) -> None:
        """Remember the operators that led to the scores."""
        self._operators = operators(scores)

    def is_like(self, watched: Watched) -> bool:
        """Whether the scores were computed by the operators of the pass that was searched."""
        return self._operators == watched.operators

    def watched(self, rows: int) -> Watched | None:
        """Return what a later search can do with after this one over `rows` rows; None where it needs it all."""
        if len(self.ranked) != 1:
            return None
        (seen,) = self.ranked
        before = next(place for place, each in enumerate(self.maps) if each is seen)
        return self._watched(seen.names, self._known[:before], rows)

    def watched_for(self, names: Iterable[str], rows: int, activations: Mapping[str, Tensor]) -> Watched | None:
        """Return what a later search for these named layers can do with; None where one returned no map."""
        maps = all(self.grid(tuple(activations[name].shape[1:])) for name in names)
        return self._watched(names, self._known, rows) if maps else None

    def _watched(self, names: Iterable[str], known: Iterable[Known], rows: int) -> Watched:
        return Watched(frozenset((*names, self._linear)) - {""}, tuple(known), self._operators, self.bytes // rows)

    def see(self, name: str, child: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Record the output of the module of that name."""
        last = self.maps[-1] if self.maps else None
        if last is not None and last.output is not None:
            if output is last.output:
                if not last.intact:  # rewritten in place: from now on the map is this module's
                    last.names, last.version = [name], output._version
                elif not any(output is arg for arg in args):  # an outer module returns the same map, and names it
                    last.names.append(name)
                return
            if output.untyped_storage().data_ptr() == last.output.untyped_storage().data_ptr():
                return  # a view of the same numbers
        if "Pool" in type(child).__name__:  # CAMs read the map before it is pooled
            return
        grid = self.grid(tuple(output.shape[1:]))
        if grid is None or grid.positions <= 1:
            return
        inside = f"{name}."
        for seen in self._outer:
            if seen.names[0].startswith(inside):
                seen.inner, seen.output = True, None
        self._outer = [seen for seen in self._outer if not seen.inner]
        if last is not None and not torch.is_grad_enabled():
            last.output = None  # without grad mode its gradient cannot be requested
        seen = LayerMap([name], grid, grid.maps(output).shape[1], output, output._version, len(output))
        self.maps.append(seen)
        self._outer.append(seen)
        self._known.append((seen.channels, grid.space))

    def release(self) -> None:
        """Release all tensors."""
        for seen in self.maps:
            seen.output = None
        self.linear = None


def _is_output(seen: LayerMap, outputs: Any) -> bool:
    """Whether the map has the channels of spatial outputs: a segmentation's classes are no features."""
    try:
        tensor = output_tensor(outputs)
    except TypeError:  # outputs of another type, which only the target can read
        return False
    return tensor.ndim == len(seen.grid.space) + 2 and tensor.shape[1] == seen.channels


def _reaches(scores: Tensor) -> Callable[[Tensor], bool]:
    """Return a test of whether scores were computed from a tensor; always True where scores have no graph."""
    if scores.grad_fn is None:
        return lambda tensor: True
    waiting, found = deque([scores.grad_fn]), {scores.grad_fn}

    def reaches(tensor: Tensor) -> bool:
        while waiting and tensor.grad_fn not in found:
            for node, _ in waiting.popleft().next_functions:
                if node is not None and node not in found:
                    found.add(node)
                    waiting.append(node)
        return tensor.grad_fn in found

    return reaches


@contextmanager
def search_layers(
    modules: Modules, space: tuple[int, ...], watched: Watched | None = None, unwatched: Collection[str] = ()
) -> Iterator[LayerSearch]:
    """Watch a forward pass of the copy with these modules on inputs of the spatial size `space`.

    With `watched` only the layers that an earlier search chose: hooks on all cost as much as a small network's pass.
    The modules named `unwatched` return what a later one does.
    """
    search = LayerSearch(space, unreadable=without_layers(modules))
    if watched is not None:
        modules = {name: modules[name] for name in watched.names}
        search._known += watched.known
    modules = {name: module for name, module in modules.items() if name not in unwatched}

    def watch(name: str, child: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        search.runs[name] += 1
        if not isinstance(output, Tensor):
            return
        if not child._modules:
            search.bytes += output.numel() * output.element_size()
        if isinstance(child, nn.Linear) and args and args[0].ndim == 2:
            search.linear, search._linear = (child, args[0].detach(), output.detach()), name
        if output.ndim > 2 and output.is_floating_point():
            search.see(name, child, args, output)

    with hooked(modules, watch):
        yield search
