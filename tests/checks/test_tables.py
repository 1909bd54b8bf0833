"""Tables of evaluations, findings, sweeps and baseline studies: every form holds the same figures."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import limelight as ll
from limelight.evaluation.evaluate import Cell, Evaluation
from limelight.evaluation.tables import Table, latex_text, markdown

from ..networks import conv_net, pictures

pytestmark = pytest.mark.quick


def every_table() -> dict[str, Table]:
    net, x = conv_net(), pictures(3)
    return {
        "evaluation": ll.evaluate(net, x, ["gradient", "occlusion"], ["gini", "completeness"]),
        "findings": ll.check(net, x, "occlusion", ["gini", "completeness"]),
        "sweep": ll.sweep(net, x, "smooth-grad", samples=[2, 4], noise=[0.1, 0.2]),
        "baselines": ll.compare_baselines(net, x, "integrated-gradients", ["black", "blur(2)"]),
    }


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    return every_table()


@pytest.mark.parametrize("name", ["evaluation", "findings", "sweep", "baselines"])
def test_files_hold_the_figures_in_full(name: str, tables: dict[str, Table], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = tables[name]
    records = table.records()
    with table.to_csv(tmp_path / "t.csv").open(encoding="utf-8", newline="") as opened:
        lines = list(csv.DictReader(opened))
    stored = parquet.read_table(table.to_parquet(tmp_path / "t.parquet")).to_pylist()
    assert len(lines) == len(stored) == len(records) > 1
    for record, line, row in zip(records, lines, stored, strict=True):
        assert set(record) == set(line) == set(row)
        for key, value in record.items():
            missing = value is None or (isinstance(value, float) and math.isnan(value))
            assert line[key] == ("" if missing else str(value))
            assert row[key] == (None if missing else value)
    for suffix, write in ((".csv", table.to_csv), (".parquet", table.to_parquet)):
        with pytest.raises(ValueError, match=f"use {suffix}"):
            write(tmp_path / "t.txt")


@pytest.mark.parametrize("name", ["evaluation", "findings", "sweep", "baselines"])
def test_latex_is_whole_and_escaped(name: str, tables: dict[str, Table]) -> None:
    text = tables[name].to_latex()
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body[0].startswith(r"\begin{tabular}{l") and body[1] == r"\toprule" and body[-1] == r"\end{tabular}"
    columns = len(re.findall("[lr]", body[0].partition("}{")[2]))
    cells = [line for line in body if line.endswith(r"\\")]
    assert {len(re.split(r"(?<!\\)&", line)) for line in cells} == {columns}
    for line in cells:  # what is special stands in mathematics alone
        assert not re.search(r"(?<!\\)[_%#^]", re.sub(r"\$[^$]*\$", "", line))
    assert len(cells) == 1 + len(tables[name]._to_read())


def test_latex_text_is_the_text() -> None:
    assert latex_text("50% of a_b {c} $d & #e") == r"50\% of a\_b \{c\} \$d \& \#e"
    assert latex_text("~ ^ \\ <f>") == (
        r"\textasciitilde{} \textasciicircum{} \textbackslash{} \textless{}f\textgreater{}"
    )


def cell(value: list[float], low: float, high: float, beats: bool | None, check: ll.Check) -> Cell:
    from limelight.checks.base import Measured
    from limelight.evaluation.findings import Finding

    found = Finding.of(check, "gradient", Measured(torch.tensor(value, dtype=torch.float64)), 0, 0)
    return Cell(found, found.mean, low, high, len(value), beats)


def test_an_interval_and_a_mark_in_latex() -> None:
    """The mean .21 of an interval from .18 to .25: down .03, up .04; bold where it beats the edges; an arrow."""
    check = ll.Deletion()
    table = Evaluation(
        {
            "grad_cam": {"deletion": cell([0.2, 0.22], 0.18, 0.25, True, check)},
            "lrp": {"deletion": cell([0.5, 0.5], 0.5, 0.5, False, check)},
            "random-map": {"deletion": cell([0.4], math.nan, math.nan, None, check)},
        },
        ["random-map"],
        {"cam": "needs 100% of it"},
    )
    assert table.to_latex().splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"method & deletion $\downarrow$ \\",
        r"\midrule",
        r"grad\_cam & $\mathbf{0.21}_{-0.03}^{+0.04}$ \\",
        r"lrp & $0.5_{-0}^{+0}$ \\",
        r"\midrule",
        r"random-map & $0.4$ \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"% bold: better than sobel-edges over the whole 95\% interval of the paired difference",
        r"% not evaluated: cam: needs 100\% of it",
    ]


def test_a_sweep_names_its_settings_and_neighbours(tables: dict[str, Table]) -> None:
    sweep: Any = tables["sweep"]
    records = sweep.records()
    assert [(each["samples"], each["noise"]) for each in records[::3]] == [(2, 0.1), (2, 0.2), (4, 0.1), (4, 0.2)]
    expected = sweep.neighbours["noise"][1, 1, 0]
    assert records[3 * 3 + 1]["rank correlation with the noise before"] == float(expected)
    assert math.isnan(records[0]["rank correlation with the samples before"])
    assert sweep._repr_html_().count("<img") >= 1  # a notebook shows the maps


def test_values_of_several_kinds_become_text_in_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")

    class Mixed(Table):
        def records(self) -> list[dict[str, Any]]:
            return [{"a": 1, "b": 1}, {"a": "x", "b": 0.5}, {"a": None}]

    rows = parquet.read_table(Mixed().to_parquet(tmp_path / "t.parquet")).to_pylist()
    assert rows == [{"a": "1", "b": 1.0}, {"a": "x", "b": 0.5}, {"a": None, "b": None}]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    findings = ll.check(conv_net(), pictures(1), "gradient", "gini")
    with pytest.raises(ImportError, match=r"limelight\[run\]"):
        findings.to_parquet(tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


def test_no_rows_are_no_table() -> None:
    assert markdown([]) == "" and ll.evaluation.Findings().to_latex() == ""
