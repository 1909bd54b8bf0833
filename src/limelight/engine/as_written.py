"""Running a model's code as it is written: compiled code eagerly, checkpointed parts once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..base.checkpoints import is_checkpointing, keeping_activations

_lock = threading.Lock()
_open = 0  # in all threads
_settings = ExitStack()


@contextmanager
def eagerly() -> Iterator[None]:
    """Run torch.compile's functions eagerly while this is open.

    Compiled code specialises on hooks, modes and shapes, so it would be compiled anew, and it hides operators from the
    rules. torch's stance is a setting of the process: the first of several threads sets it and the last one restores
    it. Compiled functions of other threads run eagerly for as long.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _open
    with _lock:
        if not _open and "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import would take seconds
            _settings.enter_context(torch.compiler.set_stance("force_eager"))
        _open += 1


def _leave() -> None:
    global _open
    with _lock:
        _open -= 1
        if not _open:
            _settings.close()


class KeepActivations(TorchFunctionMode):
    """A mode in which checkpointed parts keep their activations.

    Checkpointing runs a function again in the backward pass, where the hooks and rules of the forward pass are gone,
    so that it would compute something else there. Its own hooks on saved tensors are overruled operator by operator.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not is_checkpointing():
            return func(*args, **(kwargs or {}))
        with keeping_activations():
            return func(*args, **(kwargs or {}))
