"""Notebooks: cells run by nbconvert, and their HTML inside JupyterLab's stylesheets, light and dark."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import UNNAMED, Watched, as_url, until

nbconvert = pytest.importorskip("nbconvert", reason="the extra 'dev' is not installed")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

Open = Callable[..., Watched]
CELL = """
import torch
from torch import nn
import limelight as ll
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
ll.explain(model.eval(), torch.rand(1, 3, 48, 48), ["gradient", "smooth-grad(samples=4)", "occlusion(8, 8)"])
"""
URLS = ("require_js_url", "jquery_url", "jupyter_widgets_base_url", "mathjax_url", "mermaid_js_url")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A notebook that `jupyter nbconvert --execute` has run, in a process of its own: the browser's loop runs here."""
    folder = tmp_path_factory.mktemp("notebook")
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbformat.write(made, folder / "maps.ipynb")
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    made.metadata["kernelspec"] = kernel
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output", "done"]
    done = subprocess.run([*command, str(folder / "maps.ipynb")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return nbformat.read(folder / "done.ipynb", as_version=4)


def page_of(notebook: Any, theme: str, path: Path) -> str:
    """Write the notebook as HTML by nbconvert's template, which has JupyterLab's stylesheet, without other hosts."""
    exporter = nbconvert.HTMLExporter(theme=theme)
    for name in URLS:
        if exporter.has_trait(name):
            setattr(exporter, name, "")
    body, _ = exporter.from_notebook_node(notebook)
    path.write_text(body, encoding="utf-8")
    return as_url(path)


def test_a_cell_holds_the_viewer_and_its_numbers(executed: Any) -> None:
    (output,) = (each for each in executed.cells[0].outputs if "data" in each)
    assert "Panel(gradient, smooth-grad, occlusion" in output.data["text/plain"]
    assert output.data["text/html"].count("<figure") == 4


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_inside_the_notebooks_stylesheet(
    executed: Any, open_page: Open, tmp_path: Path, theme: str, width: int
) -> None:
    """The notebook's theme decides, whatever the system's."""
    other = {"light": "dark", "dark": "light"}[theme]
    watched = open_page("about:blank", width=width, height=900, color_scheme=other)
    page = watched.page
    page.goto(page_of(executed, theme, tmp_path / "notebook.html"))
    until(page, lambda: page.locator("figure[data-drawn]").count() == 3)
    page.evaluate("document.querySelectorAll('.limelight details').forEach((each) => (each.open = true))")
    root = page.locator(".limelight")
    assert root.evaluate("(each) => each.scrollWidth <= each.clientWidth + 1"), "no sideways scroll"
    narrow = root.evaluate(
        """(root) => [...root.querySelectorAll('dt, dd, li, p, td, th, label, summary')]
        .filter((each) => each.checkVisibility() && each.textContent.trim().length > 12)
        .filter((each) => each.getBoundingClientRect().width < 90).map((each) => each.outerHTML)"""
    )
    assert narrow == [], "a line a letter"
    ground, ink = root.evaluate("(each) => [getComputedStyle(each).backgroundColor, getComputedStyle(each).color]")
    brightness = [sum(int(part) for part in each[4:-1].split(",")) for each in (ground, ink)]
    assert (brightness[0] > brightness[1]) == (theme == "light")
    assert page.evaluate(UNNAMED) == []
    page.get_by_role("button", name="enlarge the map of gradient").click()
    assert page.locator("dialog[open] canvas").first.bounding_box()["width"] > min(300, width / 2)
