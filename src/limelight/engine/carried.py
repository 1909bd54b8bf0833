"""The arguments that a model gets beside its rows: those of the examples that run now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from ..question.given import Given

_now: ContextVar[tuple[Given, Tensor] | None] = ContextVar("arguments of the rows that run now", default=None)


@contextmanager
def carrying(given: Given | None, examples: Tensor) -> Iterator[None]:
    """Have every call of the model while this is open get what belongs to these examples `(rows,)`.

    A call with more rows than examples, as one that fills up a pass, repeats the last example.
    """
    if not given:
        yield
        return
    token = _now.set((given, examples))
    try:
        yield
    finally:
        _now.reset(token)


def arguments(rows: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and named arguments for a call with so many rows; none where nothing is carried."""
    now = _now.get()
    if now is None:
        return (), {}
    given, examples = now
    missing = rows - len(examples)
    index = examples[:rows] if missing <= 0 else torch.cat([examples, examples[-1:].expand(missing)])
    return given.rows(index)
