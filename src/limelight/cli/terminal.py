"""What the commands share: text made safe for a terminal, the two consoles, JSON, and one boundary for errors."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, TextIO

import typer
from rich.console import Console

from ..base.errors import EXPECTED, reason
from ..base.files import finite

FAILED, FINISHED_WITH_FAILURES, INTERRUPTED = 1, 3, 130


def exit_code(failed: int, total: int) -> int:
    """0 where all went well, FAILED where nothing did, else FINISHED_WITH_FAILURES."""
    return 0 if not failed else FAILED if failed == total else FINISHED_WITH_FAILURES


def visible(text: object) -> str:
    """The text with nothing a terminal would obey or could not encode: control characters, lone surrogates."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in str(text)
    )


def console(stream: TextIO | None = None) -> Console:
    """For a stream, by default standard output. A file or a pipe has no width: tables get room there."""
    stream = stream or sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 120
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def say(text: object) -> None:
    """One line on standard error."""
    sys.stderr.write(f"limelight: {visible(text)}\n")
    sys.stderr.flush()


def write_json(document: Any) -> None:
    """One JSON document on standard output; NaN and infinity, which JSON does not have, as null."""
    sys.stdout.write(json.dumps(finite(document), indent=2, ensure_ascii=True, allow_nan=False) + "\n")


class JsonPictures:
    """A document on standard output whose `pictures` wait in a file, so that memory does not grow with their number."""

    def __init__(self, lines: IO[str] | None) -> None:
        self._lines = lines

    def add(self, document: Any) -> None:
        if self._lines is not None:
            self._lines.write(json.dumps(finite(document), ensure_ascii=True, allow_nan=False) + "\n")

    def finish(self, head: Mapping[str, Any]) -> None:
        """Write the document: the names of `head`, then `pictures`, a line each."""
        if self._lines is None:
            return
        self._lines.seek(0)
        sys.stdout.write(json.dumps(finite(head), ensure_ascii=True, allow_nan=False)[:-1] + ', "pictures": [')
        for place, line in enumerate(self._lines):
            sys.stdout.write((",\n" if place else "\n") + line.rstrip("\n"))
        sys.stdout.write("\n]}\n")


@contextmanager
def json_pictures(wanted: bool) -> Iterator[JsonPictures]:
    """Collects documents if `wanted`, else forgets them."""
    if not wanted:
        yield JsonPictures(None)
        return
    with tempfile.TemporaryFile("w+", encoding="ascii") as lines:
        yield JsonPictures(lines)


@contextmanager
def boundary(debug: bool) -> Iterator[None]:
    """Expected errors become one line and exit code 1, Ctrl-C becomes exit code 130; with `debug` the traceback."""
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
