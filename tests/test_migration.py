"""docs/migration.md, row by row with the other library: equal where the page says so, different where it says that."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = [pytest.mark.long, pytest.mark.release]

PAGE = (Path(__file__).parents[1] / "docs" / "migration.md").read_text(encoding="utf-8")
MODULES = {
    "Captum": "captum",
    "pytorch-grad-cam": "pytorch_grad_cam",
    "zennit": "zennit",
    "SHAP": "shap",
    "LIME": "lime",
    "Quantus": "quantus",
}
ROW = re.compile(r"^\| `(.+?)` \| `(.+?)` \| (equal|near|differs|refused there)", re.MULTILINE)
SECTIONS = {title: PAGE.split(f"## {title}\n")[1].split("\n## ")[0] for title in MODULES}
ROWS = [(title, *row) for title, text in SECTIONS.items() for row in ROW.findall(text)]


@cache
def setup(title: str) -> str:
    found = re.search(r"```python\n(.*?)```", SECTIONS[title], re.DOTALL)
    assert found is not None
    return found[1]


def numbers(value: Any) -> torch.Tensor:
    found: torch.Tensor = torch.as_tensor(value.detach() if isinstance(value, torch.Tensor) else np.array(value))
    return found.double()


@pytest.mark.parametrize(("title", "theirs", "ours", "how"), ROWS, ids=[f"{r[0]}-{i}" for i, r in enumerate(ROWS)])
def test_a_row_holds(title: str, theirs: str, ours: str, how: str) -> None:
    pytest.importorskip(MODULES[title], reason=f"{title} is not installed")
    names: dict[str, Any] = {"__name__": "example"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(setup(title), "migration.md", "exec"), names)
        if how == "refused there":
            with pytest.raises((TypeError, ValueError, RuntimeError, AssertionError)):
                eval(theirs, names)
            assert bool(torch.isfinite(eval(ours, names)).all())
            return
        expected, found = eval(theirs, names), eval(ours, names)
    if found is None:  # a test without a right answer
        assert how == "differs"
        return
    expected, found = numbers(expected), numbers(found)
    assert expected.shape == found.shape
    apart = float((found - expected).abs().max() / expected.abs().max())
    holds = {"equal": apart < 1e-4, "near": apart < 1e-2, "differs": apart > 1e-2}[how]
    assert holds, f"{apart:.2g} of the largest value apart"


def test_every_table_row_is_read() -> None:
    written = sum(len(re.findall(r"^\| `", text, re.MULTILINE)) for text in SECTIONS.values())
    assert len(ROWS) == written > 30


def test_the_tests_that_the_page_names_exist() -> None:
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE):
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(encoding="utf-8"), f"{file}::{name}"
