"""Running a model's code as it is written: compiled code eagerly, checkpointed parts once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils import checkpoint


class _Thread(threading.local):
    """How many calls of `as_written` are open in this thread."""

    depth = 0


_here = _Thread()
_lock = threading.Lock()
_open = 0  # in all threads
_settings = ExitStack()


@contextmanager
def as_written() -> Iterator[None]:
    """Run torch.compile's functions eagerly and checkpointed functions once while this is open.

    Compiled code specialises on hooks, modes and shapes, so it would be compiled anew, and it hides operators from the
    rules. Checkpointing runs a function again in the backward pass, where hooks and rules are gone, or forbids
    gradients at chosen tensors. Both are settings of the process, since a model reaches them by whatever name it
    imported: the first of several threads sets them and the last one restores them. Checkpoints that other threads
    make meanwhile are left alone; their compiled functions run eagerly for as long.
    """
    _enter()
    _here.depth += 1
    try:
        yield
    finally:
        _here.depth -= 1
        _leave()


def _enter() -> None:
    global _open
    with _lock:
        if not _open:
            _set()
        _open += 1


def _leave() -> None:
    global _open
    with _lock:
        _open -= 1
        if not _open:
            _settings.close()


def _set() -> None:
    if "torch._dynamo" in sys.modules:  # else nothing can be compiled, and the import would take seconds
        _settings.enter_context(torch.compiler.set_stance("force_eager"))
    _put("CheckpointFunction", _Checkpoint)
    _put("_checkpoint_without_reentrant_generator", _around_checkpoint)


def _put(name: str, ours: Any) -> None:
    _settings.callback(setattr, checkpoint, name, vars(checkpoint)[name])
    setattr(checkpoint, name, ours)


_reentrant = checkpoint.CheckpointFunction
_not_reentrant: Callable[..., Iterator[None]] = checkpoint._checkpoint_without_reentrant_generator


class _Checkpoint:
    """In place of torch's function with a derivative that runs its argument again."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *arguments: Any) -> Any:
        if _here.depth:
            return function(*arguments)
        return _reentrant.apply(function, preserve_rng_state, *arguments)


def _around_checkpoint(*arguments: Any, **named: Any) -> Iterator[None]:
    """In place of what torch does before and after it runs a checkpointed function."""
    if _here.depth:
        yield
    else:
        yield from _not_reentrant(*arguments, **named)
