"""Measurements over a folder of photographs that are written as they are made, so that a run can stop and go on."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

PICTURES = (".jpg", ".jpeg", ".png")


def options(about: str, count: int) -> argparse.ArgumentParser:
    """Return the command line of a measurement over a folder: it, how many photographs, and where to write."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photographs", type=int, default=count)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser


def photographs(folder: Path, count: int) -> list[Path]:
    """Return `count` photographs of a folder, spread evenly over their names, in a fixed random order.

    Data sets are sorted by class. In a random order the photographs of a run that was stopped are a fair sample too.
    """
    files = sorted(each for each in folder.rglob("*") if each.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(f"folder: {folder} has no file that ends in {', '.join(PICTURES)}")
    chosen = [files[place * len(files) // count] for place in range(min(count, len(files)))]
    random.Random(0).shuffle(chosen)
    return chosen


def measured(files: list[Path], out: Path, measure: Callable[[Path], dict[str, Any]]) -> list[dict[str, Any]]:
    """Measure each photograph that `out` has no line of, append its line, and return the lines of all `files`.

    The file is read again before each photograph, since two processes may share the work from both ends.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for picture in files:
        if picture.stem not in known(out):
            line = {"photograph": picture.stem, **measure(picture)}
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
    found = known(out)
    return [found[picture.stem] for picture in files]


def known(out: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of `out` by photograph."""
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return {line["photograph"]: line for line in lines}
