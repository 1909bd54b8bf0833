"""Operator calls: what operators return in a forward pass, by name and number, outside torch's own layers."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..rules.names import METADATA, PLAIN, RULED, canonical

_UNCOUNTED = frozenset(("clone", "detach"))  # what capturing itself calls


def is_operator(name: str) -> bool:
    """Whether this is the canonical name of an operator whose calls can be read."""
    return name in RULED or (name in PLAIN - METADATA - _UNCOUNTED) or hasattr(torch, name)


def is_leaf(module: nn.Module) -> bool:
    """Whether this is a layer of torch's own, whose operators are not told apart from it."""
    return type(module).__module__.startswith("torch.nn.") and not module._modules


class OperatorCalls(TorchFunctionMode):
    """Counts the calls of each operator that return tensors, outside torch's own layers, and hands them on.

    Names are canonical: `+`, `torch.add`, `add_` and aten's are all "add". Where `inside` is not 0 a layer runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.inside = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name, in_place = canonical(func)
        if name in METADATA or not isinstance(output, Tensor | tuple | list):
            return output
        self.made(name, func, output, (args, kwargs or {}))
        if self.inside or name in _UNCOUNTED:
            return output
        self.counts[name] += 1
        return self.called(name, self.counts[name] - 1, output, in_place)

    def made(self, name: str, func: Callable[..., Any], output: Any, arguments: tuple[Any, Any]) -> None:
        """Take note of what any operator returned, also inside of torch's own layers."""

    @abstractmethod
    def called(self, name: str, run: int, output: Any, in_place: bool) -> Any:
        """Return what the model goes on with."""


class Capture(OperatorCalls):
    """Replaces the outputs of chosen calls by `keep(text, output)`; `wanted` are their names, such as "add#12"."""

    def __init__(self, wanted: Mapping[tuple[str, int], str], keep: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self.wanted, self.keep = wanted, keep

    def called(self, name: str, run: int, output: Any, in_place: bool) -> Any:
        text = self.wanted.get((name, run))
        if text is None or not isinstance(output, Tensor):
            return output
        if not in_place:
            return self.keep(text, output)
        return output.copy_(self.keep(text, output.clone()))  # other names of the same memory see it too


@contextmanager
def counting(mode: OperatorCalls, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Run a forward pass under `mode`, which is told when one of torch's own layers runs."""

    def enter(module: nn.Module, args: Any) -> None:
        mode.inside += 1

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        mode.inside -= 1

    with ExitStack() as stack:
        for module in modules.values():
            if is_leaf(module) and not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(mode)
        yield
