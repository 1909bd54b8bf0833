"""A frozen copy of the user's model to run in its place, so that nothing of the model is ever touched."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().clone()
    twin = copy.deepcopy(model, memo)
    twin.eval()
    return twin.requires_grad_(False)


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


def lay_out(copied: nn.Module, layout: torch.memory_format) -> None:
    """Lay out the convolution weights of a copied twin for rows in `layout` (in new storage, the user's stays)."""
    for module in copied.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data = module.weight.data.contiguous(memory_format=layout)
