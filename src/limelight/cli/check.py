"""The command `limelight check`: a trust card for each picture and method."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from ..base.errors import EXPECTED, reason
from ..base.version import __version__
from ..checks import Check
from ..evaluation.check import CARD
from ..show.explained import Request
from .cards import CHECK_METHODS, cards_document, cards_text, check_picture, write_cards
from .flags import Images
from .options import read_checks, read_methods, usage
from .pictures import DEMO, Item, find_pictures
from .progress import progress_on
from .question_options import MaskOption, QuestionOptions, asks, read_mask
from .terminal import boundary, console, exit_code, say, write_json


@asks
def check_command(
    image: Images = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", metavar="NAME", help="As for 'limelight explain'.")
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            "--check", "-c", metavar="NAME", help="Such as 'deletion(steps=16)'; several with commas or by repeating."
        ),
    ] = None,
    mask: MaskOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", file_okay=False, metavar="DIR", help="Also write each card here.")
    ] = None,
    *,
    asked: QuestionOptions,
) -> None:
    """Test maps and print a trust card for each: hard tests, evidence beside controls, cautions."""
    if not image:
        raise usage("IMAGE", f"give a picture or a folder of pictures, or '{DEMO}' for a cat")
    methods = read_methods(method) if method else CHECK_METHODS
    checks = read_checks(check) if check else CARD
    with boundary(asked.debug), contextlib.redirect_stdout(sys.stderr):
        asked.require_one_baseline()
        loaded = asked.load()
        request = Request(loaded, methods, asked.read(loaded))
        region = read_mask(mask, loaded)
    with boundary(asked.debug):
        code = _check_all(find_pictures(image), request, checks, region, out, asked)
    raise typer.Exit(code)


def _check_all(
    items: list[Item],
    request: Request,
    checks: tuple[Check, ...],
    mask: Tensor | None,
    out: Path | None,
    asked: QuestionOptions,
) -> int:
    """Check every picture, whatever happens to the others; the exit code."""
    documents: list[dict[str, Any]] = []
    taken: set[str] = set()
    failed = 0
    for item in items:
        stem = item.stem(taken)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                with progress_on(item.name, None, asked.progress) as report:
                    done, cards = check_picture(item.name, item.open(), request, checks, mask, report)
                files = [] if out is None else write_cards(cards, stem, out)
        except EXPECTED as error:
            if asked.debug:
                raise
            failed += 1
            line = reason(error, item.name)
            say(line)
            documents.append({"picture": item.name, "status": "failed", "error": line})
            continue
        if asked.as_json:
            documents.append(cards_document(done, cards, files))
        else:
            console().print(cards_text(done, cards, files), soft_wrap=True)
    if asked.as_json:
        write_json({"limelight": __version__, "model": request.model.name, "failed": failed, "pictures": documents})
    return exit_code(failed, len(items))
