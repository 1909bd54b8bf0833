"""Devices by name, and the default one: limelight's own tensors don't depend on it, the user's do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

CPU = torch.device("cpu")
_users: ContextVar[torch.device | None] = ContextVar("users", default=None)


AUTO = "auto"


def as_device(name: str | torch.device) -> torch.device:
    """Return the device of that name, "auto" being the GPU where there is one. Raises ValueError for one not here."""
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"  # not Apple's, which has no float64
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:  # a build without CUDA asserts
        first = str(error).partition("\n")[0]
        raise ValueError(f"device: {str(name)!r} cannot be used here ({first}); use 'cpu' or 'auto'") from error
    return device


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
