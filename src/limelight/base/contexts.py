"""Settings of the code that runs inside a block, for each thread by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Give the variable this value while this is open."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
