"""`python -m benchmarks.ranking`: every method on scenes with a known answer, by networks trained on them.

Prints the tables, and with `--write` puts them into ranking.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from limelight.studies.ground_truth.ranking import rank_on_scenes
from limelight.studies.ground_truth.trained import Architecture

HEAD = """# Who finds the object that decides?

`python -m benchmarks.ranking --scenes {scenes} --networks {networks} --write`: every method on {scenes} new 32 x 32
scenes (`ground_truth/scenes.py`), where the shape of the red object alone decides the class, by networks trained on
such scenes.
Each figure is a mean with its bootstrap 95% interval over the scenes; controls, which know nothing of the model, are in
brackets, and "not above edges" marks a figure whose paired difference to the Sobel edges is not on the better side with
its whole interval. Higher is better, for deletion lower. Sorted by relevance-rank. A network can look at more than the
object (the absence of other shapes, the ground around it), so the first places are no law for other models.
All explain the class's logit; the weights of meaningful-perturbation are for probabilities, and it says so.
"""


def section(architecture: Architecture, scenes: int) -> str:
    table = rank_on_scenes(architecture, scenes, progress=True)
    order = [name for name, _ in table.ranking("relevance-rank")]
    lines = table.to_markdown().splitlines()
    rows = sorted(lines[2:], key=lambda line: _place(line, order))
    return "\n".join([f"## The scenes {architecture.upper()}\n", *lines[:2], *rows]) + "\n"


def _place(line: str, order: list[str]) -> int:
    """Rows by the ranking; the lines after the table stay behind it, as they were."""
    name = line.split("|")[1].strip().strip("()") if line.startswith("|") else ""
    return order.index(name) if name in order else len(order)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking", description=__doc__)
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--networks", nargs="+", choices=("cnn", "vit"), default=["cnn", "vit"])
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    page = HEAD.format(scenes=asked.scenes, networks=" ".join(asked.networks))
    for architecture in asked.networks:
        page += "\n" + section(architecture, asked.scenes)
    print(page)
    if asked.write:
        (Path(__file__).parent / "ranking.md").write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
