"""Agreement in runs: the columns of the index equal those of a panel of the same picture, and the report's table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import limelight as ll
from limelight.runs import Summary
from limelight.runs.agreeing import agreement_columns, with_method
from tests.runs.networks import plain

from .helpers import pictures, start

METHODS = ["gradient", "occlusion(window=4, stride=4)", "integrated-gradients(1)"]


def test_columns_equal_the_agreement_of_a_panel(tmp_path: Path) -> None:
    """One node of integrated gradients fails completeness, so the others' means leave it out; it is compared too."""
    run = start(
        pictures(tmp_path / "in", 3), tmp_path / "out", methods=METHODS, checks=["completeness"], store="scores"
    )
    rows = run.table().to_pylist()
    for i in range(3):
        panel = ll.explain(plain(), run.picture(i)[None], METHODS)
        found = {row["method"]: row for row in rows if row["id"] == i}
        truth = panel.agreement().correlations[0]
        assert found["integrated-gradients"]["completeness passed"] is False
        for j, a in enumerate(panel):
            others = [k for k in range(3) if k != j]
            for k in others:
                assert found[a][with_method(list(panel)[k])] == pytest.approx(float(truth[j, k]), abs=1e-4)
            assert found[a][with_method(a)] is None
            held_up = [float(truth[j, k]) for k in others if list(panel)[k] != "integrated-gradients"]
            assert found[a]["agreement"] == pytest.approx(sum(held_up) / len(held_up), abs=1e-4)
    means = Summary.of(run).correlations
    between = [row[with_method("occlusion")] for row in rows if row["method"] == "gradient"]
    assert means[0][1] == (pytest.approx(sum(between) / 3), 3) and means[0][0][1] == 0
    page = ll.runs.write_report(run).read_text()
    assert "Where the maps agree" in page and f'<td class="n">{means[0][1][0]:.2f}</td>' in page
    assert "agreement, gradient" in page


def test_a_method_that_fails_leaves_the_others_compared(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))  # not what CAM needs
    model = ll.ImageModel(network, plain().preprocessing, ("a", "b", "c"), "flat")
    methods = ["gradient", "cam", "input-x-gradient"]
    run = ll.run(pictures(tmp_path / "in", 2), model, methods, output=tmp_path / "out", workers=0)
    for row in run.table().to_pylist():
        known = [row[with_method(name)] is not None for name in methods]
        match row["method"]:
            case "gradient":
                assert known == [False, False, True] and row["agreement"] == row[with_method("input-x-gradient")]
            case "cam":
                assert row["error"] and not any(known) and row["agreement"] is None


def test_one_method_has_no_columns_and_an_old_index_is_read(tmp_path: Path) -> None:
    run = start(pictures(tmp_path / "in", 2), tmp_path / "out", methods=["gradient"])
    assert agreement_columns(["gradient"]) == () and "agreement" not in run.table().column_names
    assert Summary.of(run).correlations == () and "Where the maps agree" not in ll.runs.write_report(run).read_text()
