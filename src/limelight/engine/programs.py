"""Exported and scripted programs: how many rows they take, and why their layers cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


@dataclass(frozen=True)
class RowsTaken:
    """The least and the most rows that a pass may hold, and the `notes` on it; `most` None is no limit."""

    least: int = 1
    most: int | None = None
    notes: tuple[str, ...] = ()

    def padded(self, rows: Tensor) -> Tensor:
        """Return the rows, filled up with copies of the last one to the least number."""
        missing = self.least - len(rows)
        return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])

    def passes(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield all rows of the batches in passes of a number that is taken, none of them twice.

        Raises ValueError where the last rows are too few for a pass.
        """
        if self.least == 1 and self.most is None:
            yield from batches
            return
        most = self.most or self.least
        held: list[Tensor] = []
        for row in (row for batch in batches for row in batch):
            held.append(row)
            if len(held) == most:
                yield torch.stack(held)
                held = []
        if held and len(held) < self.least:
            raise ValueError(f"batches: the model takes {self.least} rows a pass, and the last {len(held)} make none")
        if held:
            yield torch.stack(held)

    def cut(self, outputs: Any, rows: int) -> Any:
        """Return the outputs for the first `rows` rows of a padded pass."""
        run_on = max(rows, self.least)

        def own(each: Any) -> Any:
            return each[:rows] if isinstance(each, Tensor) and each.ndim and len(each) == run_on else each

        return outputs if run_on == rows else tree_map(own, outputs)


def rows_taken(modules: Mapping[str, nn.Module]) -> RowsTaken:
    """Return the rows that the model takes in a pass.

    An exported program takes a fixed number of rows, or a range of them. Dynamically quantised layers scale
    activations by their range in the whole pass, so that rows would depend on each other: they get one at a time.
    """
    if any(_quantises(module) for module in modules.values()):
        return RowsTaken(most=1, notes=("dynamically quantised layers scale by the range of a pass: one row a pass",))
    for module in modules.values():
        graph = _graph(module)
        for node in graph.nodes if isinstance(graph, torch.fx.Graph) else ():
            example = node.meta.get("val") if node.op == "placeholder" else None
            if isinstance(example, Tensor) and example.ndim:
                return _range(example.shape[0])
    return RowsTaken()


def _quantises(module: nn.Module) -> bool:
    return any("nn.quantized.dynamic" in kind.__module__ for kind in type(module).__mro__)


def _range(size: int | torch.SymInt) -> RowsTaken:
    if isinstance(size, int):
        note = f"the exported program takes {size} rows a pass: a pass of fewer is filled up with copies"
        return RowsTaken(size, size, (note,) if size > 1 else ())
    bounds = size.node.shape_env.bound_sympy(size.node.expr)
    least, most = int(bounds.lower), bounds.upper
    # A lower bound of 2 is torch's assumption about any symbolic size, which no guard of the program checks.
    return RowsTaken(least if least > 2 else 1, int(most) if most.is_finite and most.is_Integer else None)


def without_layers(modules: Mapping[str, nn.Module]) -> str:
    """Return why layers of the model cannot be read, as the end of an error message, or "" where they can."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules.values()):
        return "layers in TorchScript cannot be read; pass the module that it was made from"
    if any(map(_is_flat, modules.values())):
        return (
            "an exported program runs its operators without modules, so that no layer can be read; pass the module "
            "that it was exported from, or torch.export.unflatten(program)"
        )
    return ""


def without_biases(modules: Mapping[str, nn.Module]) -> str:
    """Return why the kinds of the model's layers, and so their biases, are unknown, or ""."""
    if any(isinstance(_graph(module), torch.fx.Graph) and not _calls_modules(module) for module in modules.values()):
        return "an exported program does not tell the kinds of its layers; pass the module that it was exported from"
    return without_layers(modules)


def _graph(module: nn.Module) -> object:
    return vars(module).get("_graph", vars(module).get("graph"))


def _calls_modules(module: nn.Module) -> bool:
    graph = _graph(module)
    assert isinstance(graph, torch.fx.Graph)
    return any(node.op == "call_module" for node in graph.nodes)


def _is_flat(module: nn.Module) -> bool:
    """Whether this is a graph of operators whose modules hold parameters and are never called."""
    return isinstance(module, torch.fx.GraphModule) and bool(module._modules) and not _runs_a_layer(module)


def _runs_a_layer(module: torch.fx.GraphModule) -> bool:
    """Whether the graph calls a module other than the guards of an exported program."""
    called = {node.target for node in module.graph.nodes if node.op == "call_module"}
    return bool(called - {"_guards_fn"})
