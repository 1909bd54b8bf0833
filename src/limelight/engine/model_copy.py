"""A frozen copy of the user's model, run in place of the model, which is never changed."""

from __future__ import annotations

import copy
import copyreg
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .rebinding import rebind

# What deepcopy raises for locks, file handles, generators, non-leaf tensors and the like.
_REFUSALS = (TypeError, RuntimeError, NotImplementedError, AttributeError, ValueError, copy.Error)


@dataclass(frozen=True)
class ModelCopy:
    """`module` runs in place of the user's model; `notes` report what differs from it."""

    module: nn.Module
    notes: tuple[str, ...] = ()


@contextmanager
def frozen_copy(model: nn.Module) -> Iterator[ModelCopy]:
    """Yield a frozen copy of `model` in eval mode.

    The copy has new module objects over the *same* parameter storage (without gradients) and cloned buffers. Hooks,
    modes and formats set on it do not reach the user's model, so nothing has to be restored after an exception or
    interrupt. A model that cannot be copied is run itself, under a lock, and restored afterwards.
    """
    modules = list(model.modules())
    _refuse_uninitialised(modules)
    training = any(_trains(module) for module in modules if not module._modules)
    notes = ("model was in training mode: explained in eval mode",) if training else ()
    try:
        copied = _copy(model, modules)
    except _REFUSALS as error:
        reason = f"model could not be copied ({type(error).__name__}): ran it itself, one call at a time"
        with _borrowed(model):
            yield ModelCopy(model, (*notes, reason))
    else:
        yield ModelCopy(copied, notes)


@contextmanager
def editable_copy(model: object, black_box: str) -> Iterator[nn.Module]:
    """Yield a frozen copy whose layers and parameters may be replaced.

    Raises ValueError for a model that cannot be copied, and for a black box: "model: a black box" and `black_box`.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: a black box {black_box}")
    with frozen_copy(model) as copied:
        if copied.module is model:
            raise ValueError("model: it cannot be copied, and the user's own is never edited")
        yield copied.module


def _refuse_uninitialised(modules: list[nn.Module]) -> None:
    for module in modules:
        for name, parameter in (*module._parameters.items(), *module._buffers.items()):
            if isinstance(parameter, Tensor) and nn.parameter.is_lazy(parameter):
                raise ValueError(
                    f"model: parameter {name!r} of a {type(module).__name__} is not initialised yet; "
                    "call the model once on an input first"
                )


def _copy(model: nn.Module, modules: list[nn.Module]) -> nn.Module:
    memo: dict[int, object] = {}
    for module in reversed(modules):  # children before their parents
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo:
                # Tensors made in inference mode have no gradients anywhere, except their clones.
                plain = parameter.detach().clone() if parameter.is_inference() else parameter.detach()
                memo[id(parameter)] = nn.Parameter(plain, requires_grad=False)
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in memo:
                memo[id(buffer)] = buffer.detach().clone()
        module_copy = _plain_copy(module, memo)
        if module_copy is not None:
            memo[id(module)] = module_copy
        else:
            empty = (value for value in vars(module).values() if type(value) in _CONTAINERS and not value)
            memo.update((id(value), type(value)()) for value in empty)
    rebind([module for module in modules if id(module) not in memo], memo)
    copied = copy.deepcopy(model, memo)
    copies = list(copied.modules())
    if any(map(_trains, copies)):
        copied.eval()
    for module in copies:  # a class may define its own copy, whose parameters are new
        for parameter in module._parameters.values():
            if parameter is not None and parameter.requires_grad:
                parameter.requires_grad_(False)
    return copied


def _trains(module: nn.Module) -> bool:
    return getattr(module, "training", False)  # frozen TorchScript has no mode


_CONTAINERS = (dict, OrderedDict, set)
_CONSTANTS = frozenset((type(None), bool, int, float, str))


def _plain_copy(module: nn.Module, memo: Mapping[int, object]) -> nn.Module | None:
    """Copy a module attribute by attribute, in a tenth of deepcopy's time; None where deepcopy might do otherwise.

    Every attribute must be a constant, a list or set of constants, an empty container (no hooks), or parameters,
    buffers and children that `memo` holds already.
    """
    if not _copies_by_state(type(module)):
        return None
    state: dict[str, Any] = {}
    for name, value in vars(module).items():
        kind = type(value)
        if kind in _CONSTANTS or (kind is tuple and _all_constant(value)):
            state[name] = value
        elif kind in _CONTAINERS and not value:
            state[name] = kind()
        elif kind in (list, set) and _all_constant(value):
            state[name] = kind(value)
        elif name in ("_parameters", "_buffers", "_modules"):
            if any(each is not None and id(each) not in memo for each in value.values()):
                return None
            state[name] = type(value)((key, each if each is None else memo[id(each)]) for key, each in value.items())
        else:
            return None
    plain = module.__class__.__new__(module.__class__)
    vars(plain).update(state)
    return plain


def _copies_by_state(kind: type[nn.Module]) -> bool:
    """Whether deepcopy would only copy the attributes one by one."""
    return kind.__module__.startswith("torch.nn.modules.") or (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is nn.Module.__getstate__
        and kind.__setstate__ is nn.Module.__setstate__
        and kind.__new__ is object.__new__
        and kind not in copyreg.dispatch_table
        and not any("__slots__" in vars(base) for base in kind.__mro__)
    )


def _all_constant(values: Iterable[object]) -> bool:
    return all(type(value) in _CONSTANTS for value in values)


_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


@contextmanager
def _borrowed(model: nn.Module) -> Iterator[None]:
    """Put the model itself in eval mode, frozen, and restore it at the end, also after an interrupt."""
    with _locks_guard:
        lock = _locks.setdefault(model, threading.RLock())
    with lock:
        modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
        wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        buffers: list[tuple[Tensor, Tensor]] = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        try:
            for module, _ in modes:
                module.training = False
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)
            with torch.no_grad():
                for buffer, before in buffers:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)
