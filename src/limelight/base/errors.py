"""The expected errors, and the error of a check without a result."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

# Errors from a user's files, options, model and machine. Any other error is a bug of limelight and keeps its traceback.
# torch raises RuntimeError for wrong shapes and missing memory.
EXPECTED = (ValueError, TypeError, OSError, ArithmeticError, MemoryError, RuntimeError, ImportError)


class NotApplicable(ValueError):
    """A check does not apply to this case; the message says why, and the value is NaN."""


class DamagedFile(ValueError):
    """A file is not as it was written. `path`: the file; `why`: what is wrong; `remedy`: what would make it whole."""

    def __init__(self, path: str | os.PathLike[str], why: str, remedy: str = "") -> None:
        super().__init__(path, why, remedy)
        self.path: PurePath = path if isinstance(path, PurePath) else Path(path)
        self.why, self.remedy = why, remedy

    def __str__(self) -> str:
        return f"path: {str(self.path)!r} is damaged ({self.why})" + (f"; {self.remedy}" if self.remedy else "")


class NoGradient(ValueError):
    """The score does not depend on the inputs by differentiable operations."""


NO_GRADIENT = (
    "model: the score carries no gradient back to the inputs (detach, no_grad, NumPy, rounding or quantised layers "
    "inside?)"
)


def reason(error: BaseException, subject: str = "") -> str:
    """Return an expected error as one line that begins with its subject."""
    start = f"{subject}: " if subject else ""
    line = " ".join(str(error).removeprefix(start).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        line = f"out of memory ({line}); try --rows-per-pass 1"
    return start + line
