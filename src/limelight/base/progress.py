"""What `progress=` means, the same for everything that explains."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .types import Progress


@contextmanager
def reporting(progress: bool | Progress | None) -> Iterator[Progress | None]:
    """The callable that receives the rows of each finished pass.

    True counts model rows on standard error and ends the line with the block; a callable is used as it is; False and
    None report nothing. Raises TypeError for anything else.
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
