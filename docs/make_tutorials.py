"""The tutorials: `python docs/make_tutorials.py [NAME ...]` runs docs/tutorials/*.py into notebooks of their names.

A source is a Python file in cells. `# %%` begins code and `# %% [markdown]` text in comments; code marked
`tags=["arithmetic"]` is run by an ordinary test too, and `# %% include=drawing` stands for the text of drawing.py. The
notebooks are what readers download, and the site's pages are made of them. kernel.py runs before the first cell.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "tutorials"
SECONDS = 600
KERNEL = SOURCES / "kernel.py"
ARITHMETIC = "arithmetic"


@dataclass(frozen=True)
class Cell:
    """A cell of a tutorial: `kind` is "code" or "markdown"."""

    kind: str
    tags: tuple[str, ...]
    text: str


def sources() -> list[Path]:
    return sorted(SOURCES.glob("[0-9]*.py"))


def cells(source: str) -> list[Cell]:
    """Read the cells of a source. Raises ValueError for text that no comment sign precedes."""
    found = []
    for part in re.split(r"^# %%", source, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        kind = "markdown" if "[markdown]" in head else "code"
        tags = re.search(r"tags=(\[.*?\])", head)
        if included := re.search(r"include=(\w+)", head):
            body = (SOURCES / f"{included[1]}.py").read_text(encoding="utf-8")
        lines = body.strip("\n").splitlines()
        if kind == "markdown":
            if wrong := [line for line in lines if not re.match(r"#( |$)", line)]:
                raise ValueError(f"text of a Markdown cell: {wrong[0]!r}; begin each line with '# '")
            lines = [line[2:] for line in lines]
        found.append(Cell(kind, tuple(json.loads(tags[1])) if tags else (), "\n".join(lines)))
    return found


def notebook(source: str) -> Any:
    """Return a source as a notebook that was not run."""
    import nbformat.v4 as v4

    new = {"code": v4.new_code_cell, "markdown": v4.new_markdown_cell}
    made = v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    for place, cell in enumerate(cells(source)):
        about = {"tags": list(cell.tags)} if cell.tags else {}
        made.cells.append(new[cell.kind](cell.text, metadata=about, id=f"cell-{place}"))
    return made


def execute(path: Path) -> Any:
    """Run a source from top to bottom. Raises nbclient's CellExecutionError for a cell that fails."""
    from nbclient import NotebookClient

    made = notebook(path.read_text(encoding="utf-8"))
    NotebookClient(
        made,
        timeout=SECONDS,
        record_timing=False,
        resources={"metadata": {"path": SOURCES}},
        extra_arguments=[f"--IPKernelApp.exec_files={[str(KERNEL)]}"],
    ).execute()
    made.metadata.pop("language_info")  # names the version of Python, which is no part of the tutorial
    return made


def page(made: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Return an executed notebook as a page and its pictures, by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in made["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/jpeg" in data:
                file = f"{name}-{len(pictures) + 1}.jpg"
                pictures[file] = base64.b64decode(data["image/jpeg"])
                parts.append(f"![{output['metadata']['image/jpeg']['alt']}]({file})")
            elif "text/markdown" in data:
                parts.append("".join(data["text/markdown"]))
            else:
                plain = "".join(output.get("text") or data["text/plain"]).rstrip()
                parts.append(f"```text\n{plain}\n```")
    title, rest = parts[0].split("\n", 1) if "\n" in parts[0] else (parts[0], "")
    download = f"[This page as a notebook]({name}.ipynb), with the outputs of the run that made it."
    return "\n\n".join([title, download, rest.strip(), *parts[1:]]) + "\n", pictures


def main(names: list[str]) -> None:
    import nbformat

    for path in sources():
        if not names or path.stem in names:
            nbformat.write(execute(path), path.with_suffix(".ipynb"))
            print(f"{path.stem}: {path.with_suffix('.ipynb').stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
