"""The arguments that a model gets beside its rows: those of the examples that run now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from ..base.contexts import setting
from ..question.given import Given

_now: ContextVar[tuple[Given, Tensor] | None] = ContextVar("arguments of the rows that run now", default=None)

_at_a_layer: ContextVar[bool] = ContextVar("a method runs on a layer's units", default=False)


@contextmanager
def carrying(given: Given | None, examples: Tensor) -> Iterator[None]:
    """Have every call of the model while this is open get what belongs to these examples `(rows,)`.

    A call with more rows than examples, as one that fills up a pass, repeats the last example.
    """
    with setting(_now, (given, examples)) if given else nullcontext():
        yield


def arguments(rows: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and named arguments of a call of the model with these rows: they alone, or more."""
    now = _now.get()
    if now is None:
        return (rows,), {}
    given, examples = now
    missing = len(rows) - len(examples)
    index = examples[: len(rows)] if missing <= 0 else torch.cat([examples, examples[-1:].expand(missing)])
    return given.arguments(rows, index)


def is_alone() -> bool:
    """Whether the model gets nothing but its rows."""
    return _now.get() is None


def at_a_layer() -> AbstractContextManager[None]:
    """Have `ranges_of_parts` take what methods run on while this is open for a layer's units, which are of no part."""
    return setting(_at_a_layer, True)


def ranges_of_parts(x: Tensor) -> Tensor | None:
    """Return for every feature of x the range of its part, `(batch, features)`; None where x is no several parts."""
    now = _now.get()
    if _at_a_layer.get() or now is None or now[0].parts is None or len(now[0].parts.held) < 2:
        return None
    found: Tensor = now[0].parts.ranges(x)
    return found
