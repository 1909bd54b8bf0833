"""The command `limelight audit`: does a model need one place, whatever the pictures of a class show?"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..runs import Audit, Verdict, audit
from ..runs.auditing import CHECKS, METHODS
from ..runs.bundle import BUNDLE
from ..runs.job import LABEL
from ..runs.ledger import file_sha256
from ..runs.verdicts import ALPHA
from .model_options import import_from_here
from .options import read_checks, read_methods
from .printing import number, plain_table
from .question_options import (
    Checks,
    Elsewhere,
    Limit,
    QuestionOptions,
    Verify,
    Workers,
    methods_option,
    takes_question_options,
)
from .run import show_progress
from .terminal import FINISHED_WITH_FAILURES, boundary, console, print_lines, say, visible, write_json

FOUND, NO_VERDICT = 4, 5
_MOST = 20  # verdicts in the table


@takes_question_options
def audit_command(
    images: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="A folder of class folders, or a .csv or .parquet with columns path and label."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, metavar="DIR", help="The folder of the audit.")
    ],
    method: Annotated[list[str] | None, methods_option()] = None,
    check: Checks = None,
    alpha: Annotated[float, typer.Option(help="The rate of false alarms of the whole audit.")] = ALPHA,
    workers: Workers = None,
    elsewhere: Elsewhere = False,
    verify: Verify = False,
    limit: Limit = None,
    *,
    common: QuestionOptions,
) -> None:
    """Find shortcuts: classes whose maps stay in one place that the model needs, with a stated rate of false alarms.

    The same command continues a stopped audit. Exit codes: 0 nothing found, 4 found, 5 no class could be judged, 3
    nothing found and some pictures failed.
    """
    methods = read_methods(method or METHODS)
    checks = read_checks(check or CHECKS)
    common.require_one_baseline()
    settings: dict[str, Any] = {**common.without_model}
    with boundary(common.debug), contextlib.redirect_stdout(sys.stderr):
        by_label = common.target in (None, LABEL)
        if not by_label or (common.layer, common.draws_of) != (None, None):
            settings = {**(replace(common, target=None) if by_label else common).read(common.load())}
        else:
            import_from_here(common.model)
        if by_label:
            settings["target"] = LABEL
        with show_progress(common.progress) as listener:
            done = audit(
                images,
                common.model,
                methods,
                checks,
                output=output,
                alpha=alpha,
                weights=common.weights,
                device=common.device,
                declared=common.declared,
                workers=workers,
                limit=limit,
                white=common.white,
                elsewhere=elsewhere,
                verify=verify,
                on_status=listener,
                on_place=say if common.progress else None,
                **settings,
            )
    if common.as_json:
        bundle = {"path": str(done.run.out / BUNDLE), "sha256": file_sha256(done.run.out / BUNDLE)}
        write_json(done.to_dict() | {"output": str(done.run.out), "bundle": bundle})
    else:
        _print(done)
    raise typer.Exit(_exit_code(done))


def _exit_code(done: Audit) -> int:
    if done.outcome == "clear":
        return FINISHED_WITH_FAILURES if done.run.counts.failed else 0
    return FOUND if done.outcome == "found" else NO_VERDICT


def _print(done: Audit) -> None:
    print_lines(done.sentence, style="bold")
    print_lines(*(f"note: {each}" for each in done.notes if done.verdicts), "")
    for share in done.accuracy[:1]:
        print_lines(f"accuracy: {share.share:.1%} of {share.total} pictures")
    print_lines(*(f"{share.name}: {share.count} of {share.total} maps fail" for share in done.failing), "")
    numbers = ("p maps", "correlation", "shuffled", "maps")
    counted = ("p cover", "changed", "elsewhere", "others")
    table = plain_table("class", "method", "verdict", *numbers, "place", *counted, numbers=(*numbers, *counted))
    for each in done.verdicts[:_MOST]:
        table.add_row(
            visible(each.label),
            visible(each.method),
            each.outcome,
            number(each.p, ".3g"),
            number(each.compactness, ".2f"),
            number(each.expected, ".2f"),
            f"{len(each.ids)}/{each.compared}",
            each.words,
            *_counted(each),
        )
    if done.verdicts:
        console().print(table)
    print_lines("", *(each.sentence for each in done.found), done.run.out / "audit.html")


def _counted(verdict: Verdict) -> tuple[str, ...]:
    cover = verdict.cover
    if cover is None:
        return ("", "", "", "")
    return (
        number(cover.p, ".3g"),
        *(f"{each:.0%}" for each in (cover.changed.share, cover.elsewhere, cover.others.share)),
    )
