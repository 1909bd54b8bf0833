"""The output of `limelight explain`: a heading, a table, notes and paths, or the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ..base.attribution import describe_rows, describe_target
from ..evaluation.agreement import Agreement
from ..evaluation.compare_baselines import BaselineStudy
from ..evaluation.findings import Finding, Findings
from ..show.explained import (
    Explained,
    Explanation,
    Ranked,
    classes_shown,
    relative_stderr,
    share_of_change,
    steadiness,
)
from .terminal import console, print_lines, visible


def plain_table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """Return a table without a frame; columns in `numbers` are aligned right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        right = name in numbers
        table.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table


def print_explained(done: Explained, files: Sequence[Sequence[Path]]) -> None:
    for explanation, written in zip(done.explanations, files, strict=True):
        print_lines(f"{done.name}: {explanation.target.described()}", style="bold")
        if done.ranking:
            print_lines(f"top 5: {classes_shown(done.ranking)}")
        cautions = done.picture.cautions
        print_lines("; ".join((done.what_was_seen(), *(each for each in done.picture.notes if each not in cautions))))
        print_lines(*(f"CAUTION (picture): {each}" for each in cautions), "")
        print_maps(explanation)
        print_lines("", *_shown(written), "")


def print_maps(explanation: Explanation) -> None:
    """Print the maps of one class: their figures, tests, agreement and notes."""
    out = console()
    out.print(_table(explanation))
    print_lines("")
    tests = _quick_table(explanation.tests)
    if tests:
        out.print(tests)
        if any(each.left_out for found in explanation.tests.values() for each in found):
            print_lines("tests that exceed --check-rows are left out; 'limelight check' runs every test")
        print_lines("")
    if agreement := explanation.agreement:
        out.print(_agreement_table(agreement))
        print_lines("", agreement.sentence(), "")
    for name, study in explanation.studies.items():
        out.print(_study_table(name, study))
        print_lines("")
    for methods, note in explanation.notes():
        word = "CAUTION" if note in explanation.cautions() else "note"
        print_lines(f"{word} ({methods}): {note}")


def _table(explanation: Explanation) -> Table:
    numbers = ("f(x)", "delta", "of f(x)-f(b)", "rows fwd+bwd", "seconds", "std. error", "two runs")
    table = plain_table("method", *numbers, numbers=numbers)
    for name, attribution in explanation.panel.items():
        table.add_row(
            visible(name),
            f"{float(attribution.score[0]):.4g}",
            number(float(attribution.delta[0]), ".2g"),
            number(share_of_change(attribution), ".1%"),
            describe_rows(attribution),
            f"{attribution.seconds:.1f}",
            number(relative_stderr(attribution), ".0%"),
            number(steadiness(attribution), ".2f"),
        )
    panel = explanation.panel
    rows = f"{panel.forward_rows}+{panel.backward_rows}"
    table.add_section()
    table.add_row("together, sharing passes", "", "", "", rows, f"{explanation.seconds:.1f}", "", "")
    return table


def _agreement_table(agreement: Agreement) -> Table:
    """Return the rank correlations between the maps as drawn."""
    return _correlation_table("rank correlation", agreement.names, agreement.correlations[0].tolist())


def _study_table(name: str, study: BaselineStudy) -> Table:
    """Return the rank correlations between a method's maps from different baselines."""
    return _correlation_table(f"{visible(name)}: rank correlation", tuple(study), study.correlations[0].tolist())


def _correlation_table(title: str, names: Sequence[str], rows: Sequence[Sequence[float]]) -> Table:
    labels = [visible(name) for name in names]
    table = plain_table(title, *labels, numbers=labels)
    for label, row in zip(labels, rows, strict=True):
        table.add_row(label, *(number(each, ".2f") for each in row))
    return table


def _quick_table(tests: Mapping[str, Findings]) -> Table | None:
    """Return the quick tests of a panel, one row per map; None if none was run."""
    first = next(iter(tests.values()), None)
    if not first:
        return None
    names = [each.name for each in first]
    table = plain_table("quick tests", *names, numbers=names)
    for name, findings in tests.items():
        table.add_row(visible(name), *map(_tested, findings))
    return table


def _tested(finding: Finding) -> str:
    if math.isnan(finding.mean):
        return "left out" if finding.left_out else "-"
    return f"{finding.mean:.3g}" + ("" if finding.passed is None else f" {finding.verdict}")


def number(value: float, form: str) -> str:
    """Format a number; NaN is a dash."""
    return "-" if math.isnan(value) else format(value, form)


def _shown(files: Sequence[Path]) -> list[str]:
    """Return a line for each file; a map and its provenance share a line, as only their suffixes differ."""
    maps = {path.with_suffix("") for path in files if path.suffix == ".safetensors"}
    lines = [str(path) for path in files if path.with_suffix("") not in maps]
    return lines + [f"{path}.safetensors .json" for path in sorted(maps)]


def explained_document(done: Explained, files: Sequence[Sequence[Path]]) -> dict[str, Any]:
    """Return the result of a picture as JSON values."""
    return {
        "picture": done.name,
        "status": "done",
        "size": list(done.geometry.original),
        "resized": list(done.geometry.resized),
        "crop": list(done.geometry.crop),
        "picture_notes": list(done.picture.notes),
        "top": [_class_document(each) for each in done.ranking[:5]],
        "explanations": [
            _explanation_document(each, written) for each, written in zip(done.explanations, files, strict=True)
        ],
    }


def _class_document(ranked: Ranked) -> dict[str, Any]:
    return {"class": ranked.index, "label": ranked.label, "output": ranked.output, "probability": ranked.probability}


def _explanation_document(explanation: Explanation, files: Sequence[Path]) -> dict[str, Any]:
    panel = explanation.panel
    first = panel[0]
    agreement = explanation.agreement
    return {
        "target": {**_class_document(explanation.target), "text": describe_target(first, 0)},
        "baseline": repr(first.baseline),
        "baseline_studies": {name: study.summary() for name, study in explanation.studies.items()},
        "agreement": None if agreement is None else agreement.to_dict(),
        "seed": first.seed,
        "versions": dict(first.versions),
        "forward_rows": panel.forward_rows,
        "backward_rows": panel.backward_rows,
        "seconds": explanation.seconds,
        "maps": [
            {
                "method": name,
                "settings": repr(attribution.method),
                "baseline": repr(attribution.baseline),
                "score": float(attribution.score[0]),
                "baseline_score": float(attribution.baseline_score[0]),
                "delta": float(attribution.delta[0]),
                "delta_share": share_of_change(attribution),
                "relative_stderr": relative_stderr(attribution),
                "steadiness": steadiness(attribution),
                "forward_rows": attribution.forward_rows,
                "backward_rows": attribution.backward_rows,
                "arithmetic": attribution.arithmetic,
                "seconds": attribution.seconds,
                "layer": attribution.layer,
                "notes": list(attribution.notes),
                "tests": [each.to_dict() for each in explanation.tests.get(name, ())],
            }
            for name, attribution in panel.items()
        ],
        "files": [str(each) for each in files],
    }
