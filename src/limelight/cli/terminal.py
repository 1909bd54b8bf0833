"""Terminal output of the commands: safe text, consoles, JSON, progress, and one boundary for errors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from ..base.errors import EXPECTED, reason
from ..base.files import finite
from ..ctrl_c import INTERRUPTED

FAILED, FINISHED_WITH_FAILURES = 1, 3


def exit_code(failed: int, total: int) -> int:
    """Return 0 if nothing failed, FAILED if everything did, else FINISHED_WITH_FAILURES."""
    return 0 if not failed else FAILED if failed == total else FINISHED_WITH_FAILURES


def visible(text: object) -> str:
    """Escape control characters and lone surrogates, which a terminal would obey or fail to encode."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in str(text)
    )


def console(stream: TextIO | None = None) -> Console:
    """Return a console for a stream, by default standard output. Files and pipes get a width of 120 for tables."""
    stream = stream or sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 120
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def print_lines(*lines: object, style: str = "") -> None:
    """Print each line on standard output, escaped and unbroken."""
    for line in lines:
        console().print(visible(line), style=style, soft_wrap=True)


def say(text: object) -> None:
    """Print one line on standard error."""
    sys.stderr.write(f"limelight: {visible(text)}\n")
    sys.stderr.flush()


def write_json(document: Any) -> None:
    """Print one JSON document on standard output, with null for NaN and infinity."""
    sys.stdout.write(json.dumps(finite(document), indent=2, ensure_ascii=True, allow_nan=False) + "\n")


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Return a bar on standard error that disappears at its end."""
    return Progress(*columns, console=console(sys.stderr), transient=True)


@contextmanager
def progress_on(name: str, rows: int | None, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Give a callable that receives the rows of each finished pass; `rows` is the expected total, if known.

    Shows a bar on a terminal, and prints one line where standard error is a file.
    """
    if not wanted:
        yield _ignore
    elif not sys.stderr.isatty():
        say(f"explaining {name}" + (f", about {rows} model rows" if rows else ""))
        yield _ignore
    else:
        text = TextColumn("{task.description}", markup=False)
        with progress_bar(
            text, BarColumn(), MofNCompleteColumn(), TextColumn("model rows"), TimeElapsedColumn()
        ) as bar:
            task = bar.add_task(visible(name), total=rows)
            yield lambda finished: bar.advance(task, finished)


def _ignore(rows: int) -> None:
    pass


@contextmanager
def boundary(debug: bool) -> Iterator[None]:
    """Turn expected errors into one line and exit code 1, and Ctrl-C into exit code 130; `debug` keeps tracebacks."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.BadParameter, BrokenPipeError):
        raise
    except EXPECTED as error:
        if debug:
            raise
        say(reason(error))
        raise typer.Exit(FAILED) from None
