"""Which of the maps of a pass a class activation map may read: no branch, no class scores, no model's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from ..question.targets import output_tensor
from .flow import Flow
from .layer_maps import Grid
from .occurrences import Path


@dataclass(eq=False)
class Call:
    """A call of the module `name`: the number of maps seen `before` it, and whether it `returned` one."""

    name: str
    before: int
    returned: bool = False


@dataclass(frozen=True)
class Returned:
    """That a module returned a map at its `run`, as the element at `path` of its output."""

    name: str
    run: int
    path: Path
    is_block: bool


@dataclass(eq=False)
class LayerMap:
    """A map in a watched pass: `returned` by modules, the innermost first, or by an `operator` alone.

    `output` is the tensor itself as long as it may be needed, `version` its count of in-place writes at that time, by
    which a later overwrite is found, `node` what computed it, and `rows` the length of its first axis. `inside` are the
    calls of modules that it was made in. `inner` maps are parts of a block that returned a map itself, or branches. One
    that is `as_input` is the input in another scale, as a normalisation makes it: no layer's map.
    """

    returned: list[Returned]
    operator: str
    grid: Grid
    channels: int
    output: Tensor | None
    version: int
    node: Node | None
    rows: int
    inside: tuple[Call, ...]
    inner: bool = False
    as_input: bool = False

    @property
    def intact(self) -> bool:
        """Whether `output` still holds what the layer returned."""
        return self.output is not None and self.output._version == self.version

    @property
    def is_projection(self) -> bool:
        """Whether one layer of torch's own made these tokens."""
        is_leaf_output = bool(self.returned) and not any(each.is_block for each in self.returned)
        return is_leaf_output and self.grid.order != "channels first"

    def lies_on(self, flow: Flow | None) -> bool:
        """Whether the scores were computed from the map; True where that is unknown."""
        return flow is None or flow.passes(self.node)


def merges(maps: Sequence[LayerMap], flow: Flow) -> list[LayerMap]:
    """Return the maps of operators that gather an earlier one of their size and what goes around that.

    Where a module hands on what was gathered, its map counts in place of those of operators that follow.
    """
    ends = []
    for place, seen in enumerate(maps):
        later = range(place + 1, len(maps)) if seen.lies_on(flow) else range(0)
        gatherers = [other for other in later if flow.gathers(maps[other].node, seen.node)]
        ends.append((gatherers, next((other for other in gatherers if maps[other].returned), len(maps))))
    found = {
        other
        for seen, (gatherers, end) in zip(maps, ends, strict=True)
        for other in gatherers
        if other < end and not maps[other].returned and maps[other].grid.space == seen.grid.space
    }
    return [maps[other] for other in sorted(found)]


def branches(maps: Sequence[LayerMap], usable: Sequence[LayerMap], flow: Flow) -> list[LayerMap]:
    """Return those of the `usable` maps that are no stage of the model, but a part of one.

    The score is reached around a branch, and a later map of the same code gathers both. A part of a module that takes a
    map and returns none, such as attention that pools, is none either where the score is reached around it, or where it
    is only a projection of tokens.
    """
    carriers = [seen for seen in usable if flow.carries_all(seen.node)]
    places = {id(seen): place for place, seen in enumerate(maps)}
    first = min((places[id(seen)] for seen in carriers), default=len(maps))
    found = []
    for seen in usable:
        is_carrier = any(seen is each for each in carriers)
        in_a_reader = any(not call.returned and first < call.before for call in seen.inside)
        if in_a_reader and (not is_carrier or seen.is_projection):
            found.append(seen)
        elif not is_carrier:
            later = (each for each in maps[places[id(seen)] + 1 :] if flow.gathers(each.node, seen.node))
            gatherer = next(later, None)
            if gatherer is not None and _is_of_one_block(seen, gatherer):
                found.append(seen)
    return found


def _is_of_one_block(seen: LayerMap, gatherer: LayerMap) -> bool:
    """Whether no other stage of the model gathers the map, as where several streams run side by side."""
    shared = [mine for mine, own in zip(seen.inside, gatherer.inside, strict=False) if mine is own]
    return len(shared) == len(gatherer.inside) or bool(shared and shared[-1].returned)


def _vectors(outputs: Any) -> Tensor | None:
    """Return the outputs `(rows, classes)` of a model; None for others."""
    try:
        tensor = output_tensor(outputs)
    except TypeError:  # outputs of another type, which only the target can read
        return None
    return tensor if tensor.ndim == 2 else None


def class_scores_among(outputs: Any, usable: list[LayerMap]) -> list[LayerMap]:
    """Return the tokens whose channels are the model's classes, where others have other channels."""
    vectors = _vectors(outputs)
    if vectors is None or len({seen.channels for seen in usable}) < 2:
        return []
    return [seen for seen in usable if seen.channels == vectors.shape[1] and seen.grid.order != "channels first"]


def is_output(seen: LayerMap, outputs: Any) -> bool:
    """Whether the map has the channels of spatial outputs: a segmentation's classes are no features."""
    try:
        tensor = output_tensor(outputs)
    except TypeError:  # outputs of another type, which only the target can read
        return False
    if seen.grid.order != "channels first" and seen.output is not None and tensor.shape == seen.output.shape:
        return True
    return tensor.ndim == len(seen.grid.space) + 2 and tensor.shape[1] == seen.channels


def reads_some(seen: LayerMap, outputs: Any, flow: Flow | None) -> bool:
    """Whether the score may be computed from some of the tokens alone."""
    if seen.grid.prefix:
        return True
    vectors = _vectors(outputs)
    node = None if vectors is None else vectors.grad_fn
    return flow is not None and seen.node is not None and flow.selects(seen.node, node)
