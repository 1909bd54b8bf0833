"""Watching a forward pass: hooks and a mode that tell a layer search of what modules and operators return."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..base.second_run import is_second_run
from ..rules.names import words
from .feature_axes import FeatureAxes
from .frames import InputAxes
from .layer_search import LayerSearch, Watched
from .layers import Linear, Modules, hooked
from .operator_calls import OperatorCalls, counting
from .programs import without_layers

_JOINS = words("cat hstack vstack column_stack pad constant_pad_nd setitem slice_scatter")


class _Trace(OperatorCalls):
    """Tells a search of operators' outputs and of the axes of all tensors."""

    def __init__(self, search: LayerSearch, axes: FeatureAxes, input_axes: InputAxes) -> None:
        super().__init__()
        self.search, self.axes, self.input_axes = search, axes, input_axes

    def made(self, name: str, func: Any, output: Any, arguments: tuple[Any, Any]) -> None:
        if is_second_run():
            return
        with torch._C.DisableTorchFunction():
            self.axes.follow(name, func, output, arguments)
            self.input_axes.follow(name, func, output, arguments)
            self.search.made(name)
            if name in _JOINS and isinstance(output, Tensor):
                self.search.joined.update(output.shape)
            if name == "linear":
                self._read_linear(output, arguments)

    def called(self, name: str, run: int, output: Any, in_place: bool) -> Any:
        if not is_second_run():
            with torch._C.DisableTorchFunction():
                self.search.called(name, run, output, in_place)
        return output

    def _read_linear(self, output: Any, arguments: tuple[Any, Any]) -> None:
        tensors = [each for each in (*arguments[0], *arguments[1].values()) if isinstance(each, Tensor)]
        if isinstance(output, Tensor) and output.ndim == 2 and not self.inside:
            bias = tensors[2] if len(tensors) > 2 else None
            self.search.found_linear("", Linear(tensors[1], bias), tensors[0], output)


@contextmanager
def search_layers(
    modules: Modules, features: tuple[int, ...], watched: Watched | None = None, unwatched: Collection[str] = ()
) -> Iterator[LayerSearch]:
    """Watch a forward pass of the copy with these modules on inputs `(rows, *features)`.

    With `watched` only the layers that an earlier search chose: hooks on all, and following operators, cost as much as
    a small network's pass. The modules named `unwatched` return what a later one does.
    """
    search = LayerSearch(features, unreadable=without_layers(modules), watching=watched)
    if watched is not None:
        modules = {name: modules[name] for name in watched.names}
    modules = {name: module for name, module in modules.items() if name not in unwatched}

    def watch(name: str, child: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if is_second_run():
            return
        with torch._C.DisableTorchFunction():
            if isinstance(output, Tensor) and not child._modules:
                search.bytes += output.numel() * output.element_size()
            if isinstance(child, nn.Linear) and args and args[0].ndim == 2 and isinstance(output, Tensor):
                search.found_linear(name, Linear(child.weight, child.bias), args[0], output)
            search.see(name, child, args, output)

    with ExitStack() as stack:
        stack.enter_context(hooked(modules, watch))
        if watched is None:
            search.axes, search.input_axes = FeatureAxes(features), InputAxes(features)
            trace = _Trace(search, search.axes, search.input_axes)
            stack.enter_context(entering(modules, search.enter))
            stack.enter_context(counting(trace, modules))
        yield search


@contextmanager
def entering(modules: Modules, enter: Callable[[str], None]) -> Iterator[None]:
    """Call `enter(name)` before each submodule runs; TorchScript accepts no hooks."""

    def hook(name: str, module: nn.Module, args: Any) -> None:
        if not is_second_run():
            enter(name)

    with ExitStack() as stack:
        for name, module in modules.items():
            if name and not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_pre_hook(partial(hook, name), prepend=True).remove)
        yield
