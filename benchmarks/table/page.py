"""docs/comparison.md from the record of a run."""

from __future__ import annotations

from typing import Any

from .row import LIBRARIES

_HEAD = """# A comparison, by running both sides

Written by `python -m benchmarks.table`; edits are overwritten. Each row is a small case whose right answer is known, by
a formula or by a sum that the method promises, and each cell is what the library did with it on this machine:

- **yes**: right, within the limit; the figure is how far off it was;
- **wrong**: another result without an error, and by how much;
- **no**: an error, whose first words stand below the table;
- a figure alone: where the exact value is out of reach, how far off; the smallest is bold;
- empty: the library does not have the method, or says nothing of the case.

The cases were chosen by this project, where it found differences: a row says what it says, and the table is no mark for
a library. The cases and what is right stand in `benchmarks/table/`, a few lines each. A library's fix shows at the next
run, and so does a fault of ours."""

_TAIL = """## What others have and limelight does not

- captum: concepts (TCAV), influence of training examples (TracIn).
- shap: Shapley values of trees by reading the trees (`TreeExplainer`), exact and fast; here a forest is a black box.
- zennit: canonizers and rules as hooks, which can be attached to a model for as long as the reader likes.
- pytorch-grad-cam: CAMs by name that are not here, such as Shapley-CAM, KPCA-CAM and FEM.
- quantus: metrics that are not here; those that are here: [its migration table](migration.md#quantus).

Speed, with the cases in which limelight is slower: [benchmarks](benchmarks/results.md). The same calls, line by line:
[coming from another library](migration.md)."""


def page(whole: dict[str, Any]) -> str:
    """Return the page."""
    named = ", ".join(f"{name} {version}" for name, version in whole["versions"].items())
    parts = [_HEAD, f"Versions: {named}."]
    sections = dict.fromkeys(row["section"] for row in whole["rows"])
    for section in sections:
        several = [row for row in whole["rows"] if row["section"] == section]
        libraries = [each for each in LIBRARIES if any(each in row["cells"] for row in several)]
        lines = [f"| case | right is | {' | '.join(libraries)} |", f"|---|---|{'---|' * len(libraries)}"]
        said = []
        for row in several:
            cells = [_cell(row, each) for each in libraries]
            lines.append(f"| {row['title']} | {row['right']} | {' | '.join(cells)} |")
            said += [f"- {row['title']}, {each}: {words}." for each, words in row["notes"].items()]
            for each, cell in row["cells"].items():
                if cell["state"] == "no":
                    said.append(f"- {row['title']}, {each}: `{cell['words'].replace('`', '')}`")
        parts += [f"## {section}", "\n".join(lines), *(["\n".join(said)] if said else [])]
    return "\n\n".join([*parts, _TAIL]) + "\n"


def _cell(row: dict[str, Any], library: str) -> str:
    cell = row["cells"].get(library)
    if cell is None:
        return ""
    if cell["state"] == "no":
        return "no"
    figure = _figure(cell["figure"], row["unit"])
    if cell["state"] == "figure":
        least = min(each["figure"] for each in row["cells"].values() if each["state"] == "figure")
        return f"**{figure}**" if cell["figure"] == least else figure
    return f"yes ({figure})" if cell["state"] == "yes" else f"**wrong** ({figure})"


def _figure(value: float, unit: str) -> str:
    """Write a figure, a share in percent where the unit says so.

    >>> _figure(0.3588, "%"), _figure(3e-9, "%"), _figure(6.0, "")
    ('36%', '3e-07%', '6')
    """
    if unit != "%":
        return f"{value:g}"
    value *= 100
    return f"{value:.2g}%" if value < 100 else f"{value:.0f}%"
