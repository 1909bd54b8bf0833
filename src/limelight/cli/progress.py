"""Progress on standard error: a bar where someone watches, one line a picture where it goes to a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .terminal import console, say, visible


@contextmanager
def progress_on(name: str, rows: int | None, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Gives a callable to be told the rows of each finished pass; `rows` is how many to expect, if that is known."""
    if not wanted:
        yield _ignore
    elif not sys.stderr.isatty():
        say(f"explaining {name}" + (f", about {rows} model rows" if rows else ""))
        yield _ignore
    else:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("model rows"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console(sys.stderr), transient=True) as bar:
            task = bar.add_task(visible(name), total=rows)
            yield lambda finished: bar.advance(task, finished)


def _ignore(rows: int) -> None:
    pass
