"""The default device: limelight's own tensors don't depend on it, the user's do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

CPU = torch.device("cpu")
_users: ContextVar[torch.device | None] = ContextVar("users", default=None)


@contextmanager
def own_tensors() -> Iterator[None]:
    """Make tensors on the CPU where nothing else is said, whatever `torch.set_default_device` says."""
    default = torch.get_default_device()
    if default == CPU:
        yield
        return
    before = _users.set(default)
    try:
        with CPU:
            yield
    finally:
        _users.reset(before)


@contextmanager
def users_tensors() -> Iterator[None]:
    """Inside `own_tensors`, run the user's code under their own default device."""
    default = _users.get()
    if default is None:
        yield
    else:
        with default:
            yield
