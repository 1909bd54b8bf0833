"""The command `limelight check`: a trust card for each picture and method."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.errors import EXPECTED, reason
from ..base.version import __version__
from ..checks import Check
from ..models.catalogue import DEFAULT_MODEL
from ..show.explained import Request
from .cards import CHECK_METHODS, cards_document, cards_text, check_picture, read_checks, write_cards
from .flags import Debug, Json, Weights
from .options import read_baseline, read_layer, read_methods, read_model, read_target, split_methods, usage
from .pictures import DEMO, Item, find_pictures
from .progress import progress_on
from .terminal import boundary, console, exit_code, say, write_json


def check_command(
    image: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help=f"Pictures, folders of pictures, or the word '{DEMO}'."),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="See 'limelight models'.")] = DEFAULT_MODEL,
    weights: Weights = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", metavar="NAME", help="As for 'limelight explain'.")
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            "--check", "-c", metavar="NAME", help="Such as 'deletion(steps=16)'; several with commas or by repeating."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="CLASS", help="Its number, or words of its label.")] = None,
    baseline: Annotated[str, typer.Option(metavar="WHAT", help="As for 'limelight explain'.")] = "black",
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="For methods that read one.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    rows_per_pass: Annotated[int | None, typer.Option(min=1, help="Rows the model runs on at once.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", file_okay=False, metavar="DIR", help="Also write each card here.")
    ] = None,
    as_json: Json = False,
    progress: Annotated[bool, typer.Option(help="Report progress on standard error.")] = True,
    debug: Debug = False,
) -> None:
    """Test maps and print a trust card for each: hard tests, evidence beside controls, cautions."""
    if not image:
        raise usage("IMAGE", f"give a picture or a folder of pictures, or '{DEMO}' for a cat")
    methods = read_methods(method) if method else CHECK_METHODS
    checks = read_checks(check or (), split_methods)
    meaning = read_baseline(baseline)
    with boundary(debug), contextlib.redirect_stdout(sys.stderr):
        loaded = read_model(model, weights)
        request = Request(
            model=loaded,
            methods=methods,
            target=None if target is None else read_target(target, loaded.labels),
            top=1,
            baseline=meaning,
            layer=None if layer is None else read_layer(layer, loaded),
            seed=seed,
            rows_per_pass=rows_per_pass,
        )
    with boundary(debug):
        code = _check_all(find_pictures(image), request, checks, out, as_json, progress, debug)
    raise typer.Exit(code)


def _check_all(
    items: list[Item],
    request: Request,
    checks: tuple[Check, ...],
    out: Path | None,
    as_json: bool,
    progress: bool,
    debug: bool,
) -> int:
    """Check every picture, whatever happens to the others; the exit code."""
    documents: list[dict[str, Any]] = []
    taken: set[str] = set()
    failed = 0
    for item in items:
        stem = item.stem(taken)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                with progress_on(item.name, None, progress) as report:
                    done, cards = check_picture(item.name, item.open(), request, checks, report)
                files = [] if out is None else write_cards(cards, stem, out)
        except EXPECTED as error:
            if debug:
                raise
            failed += 1
            line = reason(error, item.name)
            say(line)
            documents.append({"picture": item.name, "status": "failed", "error": line})
            continue
        if as_json:
            documents.append(cards_document(done, cards, files))
        else:
            console().print(cards_text(done, cards, files), soft_wrap=True)
    if as_json:
        write_json({"limelight": __version__, "model": request.model.name, "failed": failed, "pictures": documents})
    return exit_code(failed, len(items))
