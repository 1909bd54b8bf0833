"""Writes docs/names.md from the registries: `python docs/make_names.py`."""

# ruff: noqa: E501
from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import limelight as ll
from limelight.checks.imputers import IMPUTERS

PAGE = Path(__file__).with_name("names.md")
SECTIONS: tuple[tuple[str, str, Any], ...] = (
    ("Targets", "What is explained: one number for each example, read from the outputs. `target=`", ll.TARGETS),
    ("Baselines", 'What "absent" means. `baseline=`; a number or a tensor is a constant.', ll.BASELINES),
    ("Methods", "`method=`, and `inner=` of a method that uses another", ll.METHODS),
    ("Checks", "`check=`; [what they test](checks.md)", ll.CHECKS),
    ("Players", "What a game switches on and off. `players=` of the methods that play one", ll.PLAYERS),
    ("Quadratures", "The nodes of a path integral. `quadrature=` ([paths](paths.md))", ll.QUADRATURES),
    (
        "Windows",
        "What slides over the input, besides a box of `window=32` positions a side. `window=` of `Occlusion`",
        ll.WINDOWS,
    ),
    (
        "Views",
        "How maps are read and drawn ([looking](viewer.md)). `view=`; the reading may stand first: `signed(smooth=0.02)`",
        ll.VIEWS,
    ),
    ("Imputers", "What replaces removed pixels in a check. `imputers=` and `fill=` of some checks", IMPUTERS),
)


def summary(kind: type) -> str:
    """The first paragraph of the documentation, up to a formula of its own line."""
    text = " ".join(re.split(r"\n\n|\$\$", inspect.getdoc(kind) or "")[0].split())
    return re.sub(r"\s*\[\w+\d{4}\w*(, \w+\d{4}\w*)*\]", "", text).rstrip(" :,").replace("|", r"\|")


def page() -> str:
    """The whole page."""
    lines = [
        "# Everything that has a name",
        "",
        "`python docs/make_names.py` writes this page from the registries. Each line is a text with all its settings and their",
        "defaults. The same text works in Python, on the command line, on the page and in runs. Settings may be left out, or",
        "given in order without their names: `blur(5)`, `margin(281, other=285)`, `deletion(fill=blur(3))`. A setting without",
        "a default must be given.",
    ]
    for title, about, registry in SECTIONS:
        lines += ["", f"## {title}", "", about, "", "| text | class | |", "|---|---|---|"]
        lines += [f"| `{kind.usage()}` | `{kind.__name__}` | {summary(kind)} |" for kind in registry]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
