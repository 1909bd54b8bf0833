"""Errors that programs expect, and the one that a check raises where it has no answer."""

from __future__ import annotations

# What a user's files, options, model and machine can cause; anything else is a fault of limelight and keeps its
# traceback. RuntimeError is how torch reports shapes that don't fit and memory that isn't there.
EXPECTED = (ValueError, TypeError, OSError, ArithmeticError, MemoryError, RuntimeError, ImportError)


class NotApplicable(ValueError):
    """The check has nothing to say about this case; the message says why, and the value is NaN."""


def reason(error: BaseException, subject: str = "") -> str:
    """An expected error as one line, that begins with its subject."""
    start = f"{subject}: " if subject else ""
    line = " ".join(str(error).removeprefix(start).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        line = f"out of memory ({line}); try --rows-per-pass 1"
    return start + line
