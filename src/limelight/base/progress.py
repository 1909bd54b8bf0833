"""The option `progress=`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .types import Progress


@contextmanager
def reporting(progress: bool | Progress | None) -> Iterator[Progress | None]:
    """Give the callable that receives the rows of each finished pass.

    True counts model rows on standard error, a callable is used itself, False and None report nothing. Raises TypeError
    for other values.
    """
    if progress is not True:
        if progress and not callable(progress):
            raise TypeError(f"progress: {progress!r}; use True, False or a callable that takes a number of rows")
        yield progress or None
        return
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        sys.stderr.write(f"\rlimelight: {done} rows")
        sys.stderr.flush()

    try:
        yield count
    finally:
        if done:
            sys.stderr.write("\n")
