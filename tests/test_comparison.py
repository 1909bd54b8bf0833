"""docs/comparison.md is made by running both sides: the page is its record's, and a few cells are run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

RECORD: dict[str, Any] = json.loads((ROOT / "docs" / "comparison.json").read_text(encoding="utf-8"))
AGAIN = {
    "deep-lift-plain": ("limelight", "captum", "shap"),
    "guided-functional": ("limelight", "captum", "zennit"),
    "smooth-grad-batch": ("limelight", "captum", "zennit"),
    "unchanged": ("limelight", "pytorch-grad-cam", "torchcam"),
    "plateau": ("limelight", "quantus"),
}


def test_the_page_is_its_record() -> None:
    from benchmarks.table.page import page

    written = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    assert written == page(RECORD), "comparison.md is out of date: python -m benchmarks.table"


def test_limelight_is_right_where_a_limit_is_set() -> None:
    """A row in which it is not belongs under the heading of what is wrong, with its reason."""
    limited = [row for row in RECORD["rows"] if row["limit"] is not None]
    assert len(limited) > 15
    assert [row["name"] for row in limited if row["cells"]["limelight"]["state"] != "yes"] == []


@pytest.mark.long
@pytest.mark.release
@pytest.mark.parametrize("name", AGAIN)
def test_a_row_is_what_it_was(name: str) -> None:
    for library in ("captum", "pytorch_grad_cam", "torchcam", "zennit", "shap", "lime", "quantus", "timm"):
        pytest.importorskip(library, reason=f"{library}, a side of the table, is not installed")
    from benchmarks.table.__main__ import rows

    (row,) = [row for several in rows().values() for row in several if row.name == name]
    (recorded,) = [each for each in RECORD["rows"] if each["name"] == name]
    for library in AGAIN[name]:
        found, before = row.run(library), recorded["cells"][library]
        assert found.state == before["state"], f"{library}: {found}"
        assert found.figure == pytest.approx(before["figure"], rel=1e-3, abs=1e-6)
