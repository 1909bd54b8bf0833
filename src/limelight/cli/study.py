"""The command `limelight study`: a published study, from its data to a report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ..studies.rock_paper_scissors import LEVELS, Epoch, Listeners, Study, run_study, write_study
from ..studies.rock_paper_scissors.page import as_plain
from .flags import Debug, Json
from .options import usage
from .printing import plain_table
from .terminal import boundary, console, say, visible, write_json
from .writing import DEFAULT_OUT

studies = typer.Typer(no_args_is_help=True, help="Published studies, from their data to a report.")


class Network(StrEnum):
    PUBLISHED = "published"
    SMALL = "small"


@studies.callback()
def _group() -> None:
    """Published studies, from their data to a report."""


@studies.command("rock-paper-scissors")
def rock_paper_scissors(
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The photographs: a folder with rock, paper and scissors inside.")
    ],
    model: Annotated[
        Network, typer.Option(help="The study's network, or a small one that is quick to train.")
    ] = Network.PUBLISHED,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Most epochs: 30 for the published network, 5 for the small one.")
    ] = None,
    shift: Annotated[
        list[float] | None, typer.Option(metavar="SHARE", help="Added to every channel, of full brightness.")
    ] = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="Held-out hands to explain.")] = None,
    rows: Annotated[int | None, typer.Option(min=4, help="Rows for a method that can choose.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, metavar="DIR", help="Where files go.")] = (
        DEFAULT_OUT / "rock-paper-scissors"
    ),
    as_json: Json = False,
    progress: Annotated[bool, typer.Option(help="Report progress on standard error.")] = True,
    debug: Debug = False,
) -> None:
    """Train on photographs of hands, explain held-out ones, brighten them, and see what the maps make of it.

    Stopped, it goes on from the last epoch. Checkpoints lie in DIR/MODEL.
    """
    levels = tuple(dict.fromkeys(shift or LEVELS))
    if not all(level > 0 for level in levels):
        raise usage("--shift", f"{', '.join(f'{level:g}' for level in levels)}; use shares above 0, such as 0.2")
    with boundary(debug):
        with _told(progress) as listeners:
            study = run_study(
                data,
                out,
                model=model.value,
                epochs=epochs,
                levels=levels,
                pictures=pictures,
                rows=rows,
                seed=seed,
                listeners=listeners,
            )
        files = write_study(study, out)
    if as_json:
        write_json(as_plain(study) | {"written": [str(path) for path in files]})
    else:
        _print(study, files)


@contextmanager
def _told(wanted: bool) -> Iterator[Listeners]:
    """A bar for the batches of an epoch where someone watches; a line an epoch and a stage in any case."""
    if not wanted:
        yield Listeners()
        return
    if not sys.stderr.isatty():
        yield Listeners(epoch=lambda each: say(_epoch_line(each)), stage=say)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task("training", total=None, loss=float("nan"))
        yield Listeners(
            lambda done, total, loss: bar.update(task, completed=done, total=total, loss=loss),
            lambda each: bar.console.print(_epoch_line(each), markup=False),
            lambda words: bar.update(task, description=words),
        )


def _epoch_line(each: Epoch) -> str:
    accuracy = "" if each.accuracy is None else f", validation accuracy {each.accuracy:.1%}"
    return f"epoch {each.epoch}: loss {each.loss:.4f} at {each.side} pixels{accuracy}, {each.seconds:.0f} s"


def _print(study: Study, files: list[Path]) -> None:
    out = console()
    for each in study.accuracies:
        out.print(Text(f"{each.part}: {each.share:.1%} of {int(each.counts.sum())} photographs named right"))
    out.print()
    table = plain_table("published", "here", "figures")
    for seen in study.observations:
        table.add_row(seen.claim, seen.verdict, seen.figures)
    out.print(table)
    if study.refused:
        out.print(Text(visible(f"not explained: {', '.join(study.refused)} (the reasons are in the report)")))
    out.print()
    out.print(Text(visible(str(files[0]))), soft_wrap=True)
