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
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..base.version import __version__
from ..question.question import CheckOptions
from ..runs import Run, Status, open_run, read_status, run, write_report
from ..runs.job import LABEL, STORES
from ..runs.running import ENGINES
from .flags import Debug
from .options import read_checks, read_methods, usage
from .printing import plain_table
from .question_options import MaskOption, QuestionOptions, asks, read_mask
from .terminal import FAILED, boundary, console, exit_code, say, visible, write_json

_LINES_EVERY = 10.0  # seconds between two lines of progress in a file: a run may take days


@asks
def run_command(
    images: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="A folder (subfolders are labels), a .csv or .parquet with columns path and label, a webdataset .tar; "
            "or a URL of one.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", file_okay=False, metavar="DIR", help="Where it goes, and goes on from."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", metavar="NAME", help="As for 'limelight explain'.")
    ] = None,
    check: Annotated[
        list[str] | None, typer.Option("--check", "-c", metavar="NAME", help="As for 'limelight check'.")
    ] = None,
    mask: MaskOption = None,
    store: Annotated[str, typer.Option(metavar="WHAT", help=f"Of the maps: {', '.join(STORES)}.")] = STORES[0],
    engine: Annotated[str, typer.Option(metavar="NAME", help=f"{' or '.join(ENGINES)}.")] = ENGINES[0],
    workers: Annotated[
        int | None, typer.Option(min=0, help="Default: one for each core, or on a GPU one; 0 is this process.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each worker.")] = 1,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda.")] = "cpu",
    shard_size: Annotated[int, typer.Option(min=1, help="Examples that are written at once.")] = 128,
    group: Annotated[int, typer.Option(min=1, help="Pictures that are explained at once.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Explain only the first so many.")] = None,
    status: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Say how far the run in this folder is, and do nothing else.")
    ] = None,
    *,
    asked: QuestionOptions,
) -> None:
    """Explain and test all pictures of a data set; the same command again goes on where it stopped."""
    if status is not None:
        with boundary(asked.debug):
            _print_status(read_status(status), asked.as_json)
        return
    if images is None or output is None:
        raise usage("--images" if images is None else "--output", "is needed, or --status DIR")
    if not method:
        raise usage("--method", "name at least one, such as integrated-gradients")
    if store not in STORES:
        raise usage("--store", f"{store!r}; use {', '.join(STORES)}")
    if engine not in ENGINES:
        raise usage("--engine", f"{engine!r}; use {' or '.join(ENGINES)}")
    methods, checks = read_methods(method), read_checks(check or ())
    asked.require_one_baseline()
    options: CheckOptions = {"baseline": asked.baselines[0], "seed": asked.seed, "rows_per_pass": asked.rows_per_pass}
    with boundary(asked.debug), contextlib.redirect_stdout(sys.stderr):
        needs_model = (asked.layer, asked.draws_of, mask) != (None, None, None)
        if needs_model or asked.target not in (None, LABEL):
            loaded = asked.load()
            by_label = asked.target in (None, LABEL)
            read = (replace(asked, target=None) if by_label else asked).read(loaded)
            region = read_mask(mask, loaded)
            own = None if region is None else region[0]
            options = {**read, "target": asked.target if by_label else read["target"], "mask": own}
            del loaded
        else:
            options["target"] = asked.target
            if ":" in asked.model and "" not in sys.path:
                sys.path.insert(0, "")  # your own model, found in the folder where you stand
        with _progress(asked.progress) as listener:
            found = run(
                images,
                asked.model,
                methods,
                checks,
                output=output,
                weights=asked.weights,
                store=store,
                engine=engine,
                workers=workers,
                threads=threads,
                device=device,
                shard_size=shard_size,
                group=group,
                limit=limit,
                on_status=listener,
                **options,
            )
    _print_run(found, asked.as_json)
    counts = found.counts
    raise typer.Exit(FAILED if counts.pending else exit_code(counts.failed, counts.failed + counts.ok))


def _print_status(status: Status, as_json: bool) -> None:
    if as_json:
        write_json({"limelight": __version__, **status.to_dict()})
        return
    out = console()
    out.print(Text(visible(status.line())), soft_wrap=True)
    for failure in status.failures:
        out.print(Text(visible(f"  {failure}")), soft_wrap=True)


def _print_run(found: Run, as_json: bool) -> None:
    status = found.status
    if as_json:
        write_json({"limelight": __version__, "output": str(found.out), **status.to_dict()})
        return
    out = console()
    counts = status.counts
    table = plain_table("examples", "number", numbers=("number",))
    for name in ("ok", "failed", "skipped"):
        table.add_row(name, str(getattr(counts, name)))
    table.add_row("in the manifest", str(counts.total))
    out.print(table)
    for failure in status.failures:
        say(failure)
    out.print(Text(f"\nlimelight report {visible(shlex.quote(str(found.out)))}"), soft_wrap=True)


@contextlib.contextmanager
def _progress(wanted: bool) -> Iterator[Callable[[Status], None] | None]:
    """A bar where someone watches, a line now and then where standard error goes to a file."""
    if not wanted:
        yield None
    elif not sys.stderr.isatty():
        last = -_LINES_EVERY

        def tell(status: Status) -> None:
            nonlocal last
            if status.state != "running" or time.monotonic() - last >= _LINES_EVERY:
                last = time.monotonic()
                say(status.line())

        yield tell
    else:
        columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=console(sys.stderr), transient=True) as bar:
            task = bar.add_task("starting", total=None)

            def show(status: Status) -> None:
                counts = status.counts
                total = counts.total - counts.skipped
                bar.update(task, total=total, completed=counts.ok + counts.failed, description=visible(status.line()))

            yield show


def report_command(
    output: Annotated[Path, typer.Argument(file_okay=False, metavar="DIR", help="The folder of a run.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", dir_okay=False, metavar="FILE", help="Default: DIR/report.html.")
    ] = None,
    debug: Debug = False,
) -> None:
    """One page over a run: accuracy, checks, the best and worst examples, mean maps, and clusters of maps."""
    with boundary(debug):
        try:
            written = write_report(open_run(output), out)
        except LookupError as error:
            raise ValueError(str(error)) from error  # nothing is done yet: no fault of ours
    console().print(Text(visible(written)), soft_wrap=True)
