"""The commands `limelight run` and `limelight report`: data sets, from a folder to a bucket."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from ..base.version import __version__
from ..models.catalogue import DEFAULT_MODEL, ModelError
from ..models.text_models import MINILM, load_text_model
from ..question.question import CheckOptions
from ..question.registries import as_target
from ..runs import Run, Status, open_run, read_status, run, write_report
from ..runs.job import LABEL, Store
from ..runs.running import Engine
from .model_options import import_from_here
from .options import folder_or_url, read_checks, read_mask, read_methods, read_view, usage
from .printing import plain_table
from .question_options import (
    Checks,
    Debug,
    Elsewhere,
    Limit,
    Mask,
    QuestionOptions,
    Verify,
    ViewText,
    Workers,
    methods_option,
    takes_question_options,
)
from .terminal import (
    FAILED,
    FINISHED_WITH_FAILURES,
    boundary,
    console,
    exit_code,
    print_lines,
    progress_bar,
    say,
    visible,
    write_json,
)

_LINES_EVERY = 10.0  # seconds between progress lines in a file: a run may take days


@takes_question_options
def run_command(
    data: Annotated[str | None, typer.Argument(metavar="WHAT", help="The data set, as --images.")] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="The data set: a folder (subfolders are labels), a .csv or .parquet with columns path and label, "
            "a webdataset .tar, or a URL of one of these.",
        ),
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Explain the texts of this column of a .csv, .parquet or .jsonl, which may have columns id and label. "
            "The model is then one of texts; default: minilm.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            callback=folder_or_url,
            metavar="DIR",
            help="The folder of the run, or a URL (s3://bucket/run).",
        ),
    ] = None,
    method: Annotated[list[str] | None, methods_option()] = None,
    check: Checks = None,
    mask: Mask = None,
    store: Annotated[Store, typer.Option(help="The part of the maps to store.")] = "values",
    engine: Annotated[Engine, typer.Option(help="The engine that runs the workers.")] = "local",
    workers: Workers = None,
    threads: Annotated[int, typer.Option(min=1, help="The number of threads of each worker.")] = 1,
    shard_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of examples in one output file; default: 8 in each of the first 16, later up to 128.",
        ),
    ] = None,
    group: Annotated[int, typer.Option(min=1, help="The number of pictures in one call of a method.")] = 16,
    limit: Limit = None,
    elsewhere: Elsewhere = False,
    verify: Verify = False,
    status: Annotated[
        str | None,
        typer.Option(
            callback=folder_or_url,
            metavar="DIR",
            help="Only print the progress of the run in this folder or at this URL.",
        ),
    ] = None,
    *,
    common: QuestionOptions,
) -> None:
    """Explain and test the pictures of a data set or the texts of a table. The same command continues a stopped run."""
    if status is not None:
        with boundary(common.debug):
            found_status = read_status(status)
            _print_status(found_status, common.as_json)
        if found_status.damaged:
            raise typer.Exit(FINISHED_WITH_FAILURES)
        return
    if data is not None and images is not None:
        raise usage("--images", f"{images!r} and {data!r}; name one data set")
    images = images or data
    if images is None or output is None:
        raise usage("--images" if images is None else "--output", "is required, or --status DIR")
    if not method:
        raise usage("--method", "give at least one, such as integrated-gradients")
    methods, checks = read_methods(method), read_checks(check or ())
    common.require_one_baseline()
    options: CheckOptions = {**common.without_model, "mask": None}
    model = common.model
    with boundary(common.debug), contextlib.redirect_stdout(sys.stderr):
        by_label = common.target in (None, LABEL)
        if text_column is not None:
            model, options = _of_texts(common, mask)
        elif not by_label or (common.layer, common.draws_of, mask) != (None, None, None):
            loaded = common.load()
            read = (replace(common, target=None) if by_label else common).read(loaded)
            region = read_mask(mask, loaded)
            own = None if region is None else region[0]
            options = {**read, "target": common.target if by_label else read["target"], "mask": own}
            del loaded
        else:
            options["target"] = common.target
            import_from_here(common.model)
        with show_progress(common.progress) as listener:
            found = run(
                images,
                model,
                methods,
                checks,
                output=output,
                text_column=text_column,
                weights=common.weights,
                store=store,
                engine=engine,
                workers=workers,
                threads=threads,
                device=common.device,
                declared=common.declared,
                shard_size=shard_size,
                group=group,
                limit=limit,
                white=common.white,
                elsewhere=elsewhere,
                verify=verify,
                on_status=listener,
                **options,
            )
    _print_run(found, common.as_json)
    counts = found.counts
    raise typer.Exit(FAILED if counts.pending else exit_code(counts.failed, counts.failed + counts.ok))


def _of_texts(common: QuestionOptions, mask: Path | None) -> tuple[str, CheckOptions]:
    """Return the model of texts and the options of a run over texts. Raises usage errors for those of pictures."""
    common.require_none_of_pictures("white", "draws_of")
    if mask is not None:
        raise usage("--mask", "is for pictures; leave it out with --text-column")
    model = MINILM if common.model == DEFAULT_MODEL else common.model
    import_from_here(model)
    options: CheckOptions = {**common.without_model, "target": common.target, "mask": None}
    if common.baseline is None:  # the model's own is no picture's
        del options["baseline"]
    if common.layer is not None:
        options["layer"] = common.layer
    if common.target not in (None, LABEL):
        try:
            options["target"] = as_target(common.target, 1, load_text_model(model, device=common.device).labels)
        except ModelError as error:
            raise usage("--model", error) from error
    return model, options


def _print_status(status: Status, as_json: bool) -> None:
    if as_json:
        write_json({"limelight": __version__, **status.to_dict()})
        return
    print_lines(status.line(), *(f"  {failure}" for failure in status.failures))
    if status.damaged:
        say("the same command makes the damaged records' shards again")


def _print_run(found: Run, as_json: bool) -> None:
    status = found.status
    if as_json:
        write_json({"limelight": __version__, "output": str(found.out), **status.to_dict()})
        return
    counts = status.counts
    table = plain_table("examples", "number", numbers=("number",))
    for name in ("ok", "failed", "skipped"):
        table.add_row(name, str(getattr(counts, name)))
    table.add_row("in the manifest", str(counts.total))
    console().print(table)
    for failure in status.failures:
        say(failure)
    print_lines("", f"limelight report {shlex.quote(str(found.out))}")


@contextlib.contextmanager
def show_progress(wanted: bool) -> Iterator[Callable[[Status], None] | None]:
    """Report a run's progress: a bar on a terminal; where standard error is a file a line as the run starts, one after
    the first evaluations, and then one now and then."""
    if not wanted:
        yield None
    elif not sys.stderr.isatty():
        last, rows = -_LINES_EVERY, 0

        def tell(status: Status) -> None:
            nonlocal last, rows
            is_first = status.rows and not rows
            if is_first or status.state != "running" or time.monotonic() - last >= _LINES_EVERY:
                last, rows = time.monotonic(), status.rows
                say(status.line())

        yield tell
    else:
        columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with progress_bar(*columns) as bar:
            task = bar.add_task("starting", total=None)

            def show(status: Status) -> None:
                total = 1 if status.rows or status.state != "running" else None  # it pulses until the first evaluations
                bar.update(task, total=total, completed=status.share, description=visible(status.line()))

            yield show


def report_command(
    output: Annotated[
        str,
        typer.Argument(
            callback=folder_or_url, metavar="DIR", help="The folder of a run, or its URL (s3://bucket/run)."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", dir_okay=False, metavar="FILE", help="The page. Default: DIR/report.html."),
    ] = None,
    view: ViewText = None,
    debug: Debug = False,
) -> None:
    """Write one page about a run: accuracy, checks, the best and worst examples, mean maps, and clusters of maps."""
    drawn = read_view(view)
    with boundary(debug):
        try:
            written = write_report(open_run(output), out, drawn)
        except LookupError as error:
            raise ValueError(str(error)) from error  # the run has no finished example yet
    print_lines(written)
