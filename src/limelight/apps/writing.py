"""The files of `limelight explain`: made in a hidden folder beside their places, moved there when all are whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from limelight.apps.explaining import Explained, Explanation, classes_shown
from limelight.show import draw_panel, picture_of, save_png, write_html

DEFAULT_OUT = Path("limelight-out")


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder inside `out` for files that aren't whole yet. It goes away, and so does `out` if nothing came of it."""
    made = [each for each in (out, *out.parents) if not each.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".limelight-", dir=out) as folder:
            yield Path(folder)
    finally:
        with suppress(OSError):  # not empty: there are results in it
            for each in made:
                each.rmdir()


def write_all(done: Explained, stem: str, model: str, folder: Path, out: Path) -> list[list[Path]]:
    """Write the files of each explanation: in `folder` first, and when all are whole to `out`, where they are named."""
    for place, explanation in enumerate(done.explanations):
        name = stem if len(done.explanations) == 1 else f"{stem}-{explanation.target.index}"
        within = folder / str(place)
        within.mkdir()
        _write(within, name, done, explanation, model)
    return [publish(folder / str(place), out) for place in range(len(done.explanations))]


def _write(folder: Path, name: str, done: Explained, explanation: Explanation, model: str) -> None:
    """NAME.png, NAME.html, and a folder NAME with each map and its provenance."""
    panel = explanation.panel
    first = panel[0]
    seen = picture_of(first.inputs[0])
    tiles = panel.tiles()
    heading = f"{Path(done.name).name}: {explanation.target.described()}"
    top = classes_shown(done.ranking)
    rows = f"{panel.forward_rows} forward + {panel.backward_rows} backward"
    says = f"{model} says {top}. " if top else ""
    footer = f"{says}Here {done.what_was_seen()}. Model rows spent in all: {rows}."
    save_png(draw_panel(seen, tiles, heading, footer), folder / f"{name}.png")
    facts = [
        ("model", model),
        *([("top 5", top)] if top else []),
        ("picture", done.what_was_seen()),
        *(("picture", note) for note in done.picture.notes),
        ("rows in all", rows),
        ("baseline", ", ".join(dict.fromkeys(repr(each.baseline) for each in panel.values()))),
        ("seed", str(first.seed)),
        *explanation.notes(),
        ("versions", ", ".join(f"{library} {version}" for library, version in first.versions.items())),
    ]
    write_html(folder / f"{name}.html", seen, tiles, heading, "", facts)
    panel.save(folder / f"{name}.safetensors")


def publish(folder: Path, out: Path) -> list[Path]:
    """Move whole files to their places: those of one folder together, pictures first."""
    sources = [each for each in folder.rglob("*") if each.is_file()]
    files = []
    for source in sorted(sources, key=lambda each: (each.parent != folder, each.suffix == ".html", each)):
        place = out / source.relative_to(folder)
        place.parent.mkdir(exist_ok=True)
        os.replace(source, place)
        files.append(place)
    return files
