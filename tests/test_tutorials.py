"""The tutorials: what is published is what was run, and what was run holds."""

from __future__ import annotations

import json
import os
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
MAKER = runpy.run_path(str(DOCS / "make_tutorials.py"))
HANDS = Path(os.environ.get("LIMELIGHT_SHARED", DOCS.parents[1] / "shared")) / "data" / "rock-paper-scissors"
SOURCES: list[Path] = MAKER["sources"]()


def published(source: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda each: each.stem)
def test_a_notebook_is_its_source_run_from_top_to_bottom(source: Path) -> None:
    made = published(source)
    cells = [("".join(each["source"]), each["cell_type"]) for each in made["cells"]]
    wanted = [(each.text, each.kind) for each in MAKER["cells"](source.read_text(encoding="utf-8"))]
    assert cells == wanted, f"{source.stem} is out of date; make it again: python docs/make_tutorials.py {source.stem}"
    code = [each for each in made["cells"] if each["cell_type"] == "code"]
    assert [each["execution_count"] for each in code] == [*range(1, len(code) + 1)]
    assert not [each for cell in code for each in cell["outputs"] if each["output_type"] == "error"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda each: each.stem)
def test_numbers_worked_by_hand_hold(source: Path) -> None:
    names: dict[str, Any] = {"__name__": "tutorial"}
    for cell in MAKER["cells"](source.read_text(encoding="utf-8")):
        if MAKER["ARITHMETIC"] in cell.tags:
            exec(compile(cell.text, str(source), "exec"), names)


@pytest.mark.parametrize("source", SOURCES, ids=lambda each: each.stem)
def test_a_page_has_the_outputs_and_a_caption_below_each_picture(source: Path) -> None:
    text, pictures = MAKER["page"](published(source), source.stem)
    assert text.startswith("# ") and f"({source.stem}.ipynb)" in text
    assert len(pictures) >= 1
    for name in pictures:
        assert re.search(rf"!\[(.+)\]\({name}\)\n\n\*\1\*\n", text), f"{name} has no caption below it"


def test_notebooks_are_small() -> None:
    sizes = {each.stem: each.with_suffix(".ipynb").stat().st_size for each in SOURCES}
    assert max(sizes.values()) < 400_000 and sum(sizes.values()) < 2_500_000, sizes


def test_text_without_a_comment_sign_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'hidden'; begin each line with '# '"):
        MAKER["cells"]("# %% [markdown]\n# seen\nhidden\n")


@pytest.mark.long
@pytest.mark.release
@pytest.mark.parametrize("source", SOURCES, ids=lambda each: each.stem)
def test_a_tutorial_runs(source: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    if "LIMELIGHT_SHARED" in source.read_text(encoding="utf-8") and not HANDS.is_dir():
        pytest.skip(f"no photographs at {HANDS}; LIMELIGHT_SHARED says where shared/ is")
    made = MAKER["execute"](source)
    kinds = [[each["output_type"] for each in cell.get("outputs", ())] for cell in made.cells]
    said = [cell.get("outputs", ()) for cell in published(source)["cells"]]
    assert kinds == [[each["output_type"] for each in outputs] for outputs in said]
