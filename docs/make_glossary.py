"""The page of all checks in plain words, from the registry: `python docs/make_glossary.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import limelight as ll
from limelight.checks import HardCheck

PAGE = Path(__file__).with_name("checks-in-words.md")
KINDS = {
    "hard": ("Hard tests", "The right answer is known: the figure is an error, and the map passes or fails."),
    "robustness": ("Robustness", "How far the map moves when hardly anything changes."),
    "faithfulness": ("Faithfulness", "Pixels are hidden in the map's order, and the model is watched."),
    "localisation": ("Localisation", "You say where the object is (`mask=`), and the map is compared with that."),
    "complexity": ("Complexity", "How concentrated the map is. It says nothing about whether it is right."),
}
BETTER = {None: "neither is better", "higher": "higher is better", "lower": "lower is better"}


def page() -> str:
    """The whole page."""
    lines = [
        "# Every test in plain words",
        "",
        "`python docs/make_glossary.py` writes this page from the registry. [How to read them together](checks.md),",
        "[formulas, settings and examples](reference/checks.md).",
    ]
    for kind, (title, about) in KINDS.items():
        lines += ["", f"## {title}", "", about, "", "| test | the figure | what it means |", "|---|---|---|"]
        lines += [_row(each) for each in ll.CHECKS if each.kind == kind]
    return "\n".join(lines) + "\n"


def _row(check: Any) -> str:
    figure = check.meaning or check.plain_summary()
    if issubclass(check, HardCheck):
        words = f"Passed: {_sentence(check.passes)} Failed: {_sentence(check.fails)}"
    else:
        words = f"{BETTER[check.better].capitalize()}."
    link = f"[`{check.kebab()}`](reference/checks.md#{check.__name__})"
    return f"| {link} | {figure} | {words} |".replace("\n", " ")


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
