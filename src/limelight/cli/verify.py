"""The command `limelight verify`: which files of a run, an audit or a saved map are as they were written."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated

import typer

from ..base.errors import DamagedFile
from ..runs.verifying import Verification, verify
from .question_options import Debug, Json
from .terminal import FAILED, FINISHED_WITH_FAILURES, boundary, print_lines, write_json

_CODES = {"whole": 0, "to be made again": FINISHED_WITH_FAILURES, "damaged": FAILED}
_MOST = 20  # shards or files that are named


def verify_command(
    path: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH", help="Folders or URLs of runs, audits, saved maps (.safetensors, .npz), folders of maps."
        ),
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare every file of a run, an audit or a saved map with its digest, and change nothing.

    Exit codes: 0 all whole, 3 something is to be made again, which the command that wrote it does, 1 something is
    damaged that nothing makes again, or cannot be read.
    """
    with boundary(debug):
        found = [verify(each) for each in path]
        if as_json:
            write_json({"paths": [each.to_dict() for each in found]})
        else:
            for each in found:
                _print(each)
    codes = {_CODES[each.outcome] for each in found}
    raise typer.Exit(FAILED if FAILED in codes else max(codes))


def _print(found: Verification) -> None:
    print_lines(f"{found.path}: {found.outcome}", f"  whole: {found.whole} files")
    for each in _named(found.unsealed):
        print_lines(f"  unsealed: {each} has no digest, since an older version wrote it")
    for name, several in (("damaged", found.damaged), ("lost", found.lost)):
        for each in _named([_line(each, found.path) for each in several]):
            print_lines(f"  {name}: {each}")
    if found.shards:
        shards = ", ".join(_named(list(map(str, found.shards))))
        print_lines(f"  to be made again: {found.examples} examples of {len(found.shards)} shards ({shards})")


def _line(error: DamagedFile, below: PurePath) -> str:
    inside = error.path.is_relative_to(below) and error.path != below
    return f"{error.path.relative_to(below) if inside else error.path}: {error.why}; {error.remedy}"


def _named(several: list[str] | tuple[str, ...]) -> list[str]:
    more = len(several) - _MOST
    return [*several[:_MOST], *([f"{more} more"] if more > 0 else [])]
