"""A frozen copy of the user's model to run in its place, so that nothing of the model is ever touched."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# What deepcopy raises for locks, file handles, generators, non-leaf tensors and the like.
_REFUSALS = (TypeError, RuntimeError, NotImplementedError, AttributeError, ValueError, copy.Error)


@dataclass(frozen=True)
class Twin:
    """`module` runs in place of the user's model; `copied` says whether it shares no module object with it."""

    module: nn.Module
    copied: bool
    notes: tuple[str, ...] = ()


@contextmanager
def twin_of(model: nn.Module) -> Iterator[Twin]:
    """Lend a frozen twin of `model` in eval mode.

    The twin has new module objects over the *same* parameter storage (no gradient wanted) and cloned
    buffers: hooks, modes and formats set on it reach nothing of the user's, so there is nothing to
    restore, whatever interrupts us. A model that refuses to be copied is run itself, under a lock,
    and put back as it was.
    """
    _refuse_uninitialised(model)
    notes = ("model was in training mode: explained in eval mode",) if _training(model) else ()
    try:
        twin = _copy(model)
    except _REFUSALS as error:
        reason = f"model could not be copied ({type(error).__name__}): ran it itself, one call at a time"
        with _borrowed(model):
            yield Twin(model, copied=False, notes=(*notes, reason))
    else:
        yield Twin(twin, copied=True, notes=notes)


def _training(model: nn.Module) -> bool:
    return any(module.training for module in model.modules() if next(module.children(), None) is None)


def _refuse_uninitialised(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"model: parameter {name!r} is not initialised yet; call the model once on an input first")


def _copy(model: nn.Module) -> nn.Module:
    memo: dict[int, object] = {}
    for module in reversed(list(model.modules())):  # children before their parents
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo:
                memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in memo:
                memo[id(buffer)] = buffer.detach().clone()
        plain = _plain_copy(module, memo)
        if plain is not None:
            memo[id(module)] = plain
        else:
            empty = (value for value in vars(module).values() if type(value) in _CONTAINERS and not value)
            memo.update((id(value), type(value)()) for value in empty)
    twin = copy.deepcopy(model, memo)
    if any(module.training for module in twin.modules()):
        twin.eval()
    return twin.requires_grad_(False)


_CONTAINERS = (dict, OrderedDict, set)


def _plain_copy(module: nn.Module, memo: Mapping[int, object]) -> nn.Module | None:
    """A copy of one of PyTorch's own modules by hand, which takes a tenth of deepcopy's time; else None.

    Only where every attribute is a constant, an empty container (no hooks) or what is known by now: parameters,
    buffers and children.
    """
    if not type(module).__module__.startswith("torch.nn.modules."):
        return None
    state: dict[str, Any] = {}
    for name, value in vars(module).items():
        if _is_constant(value):
            state[name] = value
        elif type(value) is list and _is_constant(tuple(value)):
            state[name] = list(value)
        elif type(value) in _CONTAINERS and not value:
            state[name] = type(value)()
        elif name in ("_parameters", "_buffers", "_modules"):
            if any(each is not None and id(each) not in memo for each in value.values()):
                return None
            state[name] = type(value)((key, each if each is None else memo[id(each)]) for key, each in value.items())
        else:
            return None
    plain = module.__class__.__new__(module.__class__)
    vars(plain).update(state)
    return plain


def _is_constant(value: object) -> bool:
    if type(value) is tuple:
        return all(map(_is_constant, value))
    return value is None or isinstance(value, int | float | str)


_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


@contextmanager
def _borrowed(model: nn.Module) -> Iterator[None]:
    """Run the model itself in eval mode, frozen; everything is put back, also after an interrupt."""
    with _locks_guard:
        lock = _locks.setdefault(model, threading.RLock())
    with lock:
        modes = [(module, module.training) for module in model.modules()]
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
