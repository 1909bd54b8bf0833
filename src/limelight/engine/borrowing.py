"""Running the user's own model where it has no copy: alone, in eval mode, and restored afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from ..base.functions import held, is_gone
from .copying import hidden_modules, trains
from .rebinding import is_object

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


@contextmanager
def borrowed(model: nn.Module, written: Iterable[str] = (), others: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Put the model itself in eval mode, frozen, and restore it at the end, also after an interrupt.

    Restored are the modules' attributes, the contents of their containers and objects, buffers, and the parameters
    named in `written`, which the model's forward is known to write. The same goes for `others`, which it runs without
    holding them. One thread at a time runs the model.
    """
    with _locks_guard:
        lock = _locks.setdefault(model, threading.RLock())
    with lock:
        whole = nn.ModuleList([model, *others, *hidden_modules(model.modules()).values()])
        modules = [each for each in whole.modules() if each is not whole]
        contents = [(each, _shallow(each)) for module in modules for each in _containers(vars(module), set())]
        wanted = [(parameter, parameter.requires_grad) for parameter in whole.parameters()]
        tensors = [*whole.buffers(), *(model.get_parameter(name) for name in written)]
        values = [(each, each.detach().clone()) for each in tensors]
        counted = tuple(each for each in (*whole.parameters(), *whole.buffers()) if not each.is_inference())
        with _unsafe_preserve_version_counter(counted):
            try:
                for module in modules:
                    if trains(module):
                        module.training = False
                for parameter, _ in wanted:
                    parameter.requires_grad_(False)
                yield
            finally:
                for container, before in contents:
                    _refill(container, before)
                for parameter, flag in wanted:
                    parameter.requires_grad_(flag)
                restore(values)


def restore(values: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Write the values from before into each tensor that differs."""
    with torch.no_grad():
        for tensor, before in values:
            if not torch.equal(tensor, before):
                tensor.copy_(before)


def _containers(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the dictionaries, lists and sets that a value holds, itself and its objects' attributes included."""
    if id(value) in seen or is_gone(value) or isinstance(value, nn.Module | Tensor):
        return
    seen.add(id(value))
    if isinstance(value, dict | list | set):
        yield value
    if isinstance(value, dict | list | set | tuple):
        for each in held(value).values():
            yield from _containers(each, seen)
    elif is_object(value):
        yield from _containers(vars(value), seen)


def _shallow(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else type(container)(container)


def _refill(container: Any, before: Any) -> None:
    if isinstance(container, dict):
        if list(container) != list(before) or any(container[key] is not each for key, each in before.items()):
            container.clear()
            container.update(before)
    elif isinstance(container, list):
        container[:] = before
    elif container != before:
        container.clear()
        container.update(before)
