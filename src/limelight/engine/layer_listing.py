"""The layers of a model that methods can read, with the shapes of their outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.catalogue import ImageModel
from ..question.targets import Logit
from .input_pass import input_pass
from .layer_search import search_layers
from .runner import Runner


@dataclass(frozen=True)
class Candidate:
    """A layer that returns a spatial map.

    `shape` has channels first and tokens as their grid, `grid` says how the output is read; `activation` and `gradient`
    are the L2 norms of the map and of the top class's gradient there.
    """

    name: str
    shape: tuple[int, ...]
    grid: str
    activation: float
    gradient: float


def layers_of(model: ImageModel, pixels: Tensor) -> tuple[list[Candidate], str, str]:
    """The layers that run once and return a spatial map, in order of use; the one that `explain()` chooses, and why.

    Layers inside a block that returns a map itself are left out. Raises ValueError where the model returns no classes.
    """
    options: dict[str, Any] = {"gradient": False, "layers": (), "read_layer": True, "layer_gradient": True}
    with Runner(model, pixels, None, None) as runner:
        at_input = input_pass(runner, pixels, Logit(), measure=False, **options)
        with search_layers(runner.modules, tuple(pixels.shape[2:])) as search, torch.no_grad():
            runner.call(pixels)
        grids = {name: each.grid for name, each in search.candidates().items()}
        example = torch.zeros(1, dtype=torch.long, device=pixels.device)
        found = runner.once(pixels, example, at_input.target, layers=tuple(grids), layer_gradients=True)
    candidates = []
    for name, grid in grids.items():
        maps, slopes = grid.maps(found.activations[name]), grid.maps(found.layer_gradients[name])
        norms = float(maps.norm()), float(slopes.norm())
        candidates.append(Candidate(name, tuple(maps.shape[1:]), str(grid), *norms))
    return candidates, str(at_input.layer), at_input.notes[0]
