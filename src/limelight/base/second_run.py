"""A second run of a pass, which asks whether the model draws at random: what watches the pass saw the first one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .contexts import setting

_counters: ContextVar[tuple[Counter[str], ...]] = ContextVar("counters of the calls of a pass", default=())
_is_second: ContextVar[bool] = ContextVar("a pass runs for the second time", default=False)


@contextmanager
def counted(calls: Counter[str]) -> Iterator[None]:
    """Have this counter of calls begin at nothing in a second run of the pass, and be as before after it.

    For what changes the k-th call of a layer, which has to change that of the second run too.
    """
    with setting(_counters, (*_counters.get(), calls)):
        yield


@contextmanager
def second_run() -> Iterator[None]:
    """Run the pass again while this is open."""
    before = [(calls, dict(calls)) for calls in _counters.get()]
    for calls, _ in before:
        calls.clear()
    try:
        with setting(_is_second, True):
            yield
    finally:
        for calls, counts in before:
            calls.clear()
            calls.update(counts)


def is_second_run() -> bool:
    """Whether a pass runs for the second time, so that nothing is recorded of it."""
    return _is_second.get()
