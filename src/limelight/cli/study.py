"""The command `limelight study`: a published study, from its data to a report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..studies.letters_to_phonemes import run_study as run_letters, write_study as write_letters
from ..studies.letters_to_phonemes.page import as_plain as letters_as_plain, ranking
from ..studies.rock_paper_scissors import LEVELS, Epoch, Listeners, Study, run_study, write_study
from ..studies.rock_paper_scissors.page import as_plain
from .options import usage
from .printing import plain_table
from .question_options import Debug, Json, Out, Seed, ShowProgress
from .terminal import boundary, console, print_lines, progress_bar, say, write_json
from .writing import DEFAULT_OUT

studies = typer.Typer(no_args_is_help=True)


@studies.callback()
def _group() -> None:
    """Repeat a published study, from its data to a report."""


@studies.command("rock-paper-scissors")
def rock_paper_scissors(
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The photographs: a folder that contains rock, paper and scissors.")
    ],
    model: Annotated[
        Literal["published", "small"],
        typer.Option(help="The network to train: the study's, or a small one that trains quickly."),
    ] = "published",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Most epochs. Default: 30 for the published network, 5 for the small one.")
    ] = None,
    shift: Annotated[
        list[float] | None, typer.Option(metavar="SHARE", help="A brightness to add to every channel, from 0 to 1.")
    ] = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="The number of held-out pictures to explain.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=4, help="The model rows for each method with adjustable cost.")
    ] = None,
    seed: Seed = 0,
    out: Out = DEFAULT_OUT / "rock-paper-scissors",
    as_json: Json = False,
    progress: ShowProgress = True,
    debug: Debug = False,
) -> None:
    """Train on photographs of hands, explain held-out ones, brighten them, and compare the maps.

    A stopped run continues from the last epoch. Checkpoints are in DIR/MODEL.
    """
    levels = tuple(dict.fromkeys(shift or LEVELS))
    if not all(level > 0 for level in levels):
        raise usage("--shift", f"{', '.join(f'{level:g}' for level in levels)}; use shares above 0, such as 0.2")
    with boundary(debug):
        with _listeners(progress) as listeners:
            study = run_study(
                data,
                out,
                model=model,
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


@studies.command("letters-phonemes")
def letters_phonemes(
    seed: Seed = 0,
    out: Out = DEFAULT_OUT / "letters-phonemes",
    as_json: Json = False,
    progress: ShowProgress = True,
    debug: Debug = False,
) -> None:
    """Explain which letters the phonemes of 200 words come from, and compare with an alignment by hand.

    Needs the weights in the package g2p-en (pip install 'limelight[study]'). Takes some minutes.
    """
    with boundary(debug):
        with _words_done(progress) as on_word:
            study = run_letters(seed=seed, progress=on_word)
        files = write_letters(study, out)
    if as_json:
        write_json(letters_as_plain(study) | {"written": [str(path) for path in files]})
        return
    lines = ranking(study)
    table = plain_table(*lines[0])
    for line in lines:
        table.add_row(*map(str, line.values()))
    console().print(table)
    print_lines("", files[0])


@contextmanager
def _words_done(wanted: bool) -> Iterator[Callable[[int, int], None]]:
    """Report the words done: a bar on a terminal, else a line for each 50."""
    if not wanted:
        yield lambda done, total: None
    elif not sys.stderr.isatty():
        yield lambda done, total: say(f"{done} of {total} words explained") if done % 50 == 0 else None
    else:
        with progress_bar(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task("explaining words", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _listeners(wanted: bool) -> Iterator[Listeners]:
    """Report training progress: a line per epoch and stage, and on a terminal a bar for the batches of an epoch."""
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
    with progress_bar(*columns) as bar:
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
    for each in study.accuracies:
        print_lines(f"{each.part}: {each.share:.1%} of {int(each.counts.sum())} photographs classified correctly")
    print_lines("")
    table = plain_table("published", "shift", "hands", "here", "margin, 95%")
    for seen in study.observations:
        margin = f"{seen.margin:.3f} ({seen.low:.3f} to {seen.high:.3f})"
        table.add_row(seen.claim, f"+{seen.level:g}", str(seen.n), seen.verdict, margin)
    console().print(table)
    if study.refused:
        print_lines(f"not explained: {', '.join(study.refused)} (the reasons are in the report)")
    print_lines("", files[0])
