"""Scoring from inside the model: rows that are a layer's outputs instead of the model's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .layers import Modules, hooked


@dataclass(frozen=True, eq=False)
class LayerInput:
    """Run the whole model on each row's own `inputs` `(n, *features)`, with the output of `layer` replaced by the row.

    Paths around the layer (a skip connection) therefore keep their values at those inputs.
    """

    layer: str
    inputs: Tensor

    def at(self, places: Tensor) -> LayerInput:
        """The layer input for rows that belong to `inputs[places]`."""
        return LayerInput(self.layer, self.inputs[places])

    @contextmanager
    def replaced(self, modules: Modules, rows: Tensor) -> Iterator[None]:
        """Make the layer return a copy of `rows` `(n, *layer)` in one forward pass.

        Raises ValueError where the layer runs more than once, not at all, or returns another shape.
        """
        runs = 0

        def replace(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
            nonlocal runs
            runs += 1
            if not isinstance(output, Tensor) or output.shape != rows.shape:
                got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(f"layer: {self.layer!r} returned {got}; rows to replace it are {tuple(rows.shape)}")
            return rows.clone()  # an in-place operation may follow

        with hooked({self.layer: modules[self.layer]}, replace):
            yield
        if runs != 1:
            raise ValueError(
                f"layer: {self.layer!r} runs {runs} times in a forward pass; choose a module that runs once"
            )
