"""The files of `limelight explain`: written in a hidden folder, and moved to their places when all are complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from ..base.version import in_words as versions_in_words
from ..show import Row, draw_panel, drawing_of, save_png, write_report
from ..show.exhibits import draw_rows
from ..show.explained import Explained, Explanation, classes_shown

DEFAULT_OUT = Path("limelight-out")


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Give a temporary folder inside `out` for unfinished files. At the end it is removed, and so is an empty `out`."""
    made = [each for each in (out, *out.parents) if not each.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".limelight-", dir=out) as folder:
            yield Path(folder)
    finally:
        with suppress(OSError):  # not empty: it holds results
            for each in made:
                each.rmdir()


def write_all(done: Explained, stem: str, model: str, folder: Path, out: Path) -> list[list[Path]]:
    """Write the files of each explanation to `folder`, move them to `out`, and return their paths there.

    The page has all classes of a picture, and so has a panel of several classes; both are among the first
    explanation's.
    """
    # One image object for all classes, so that the page holds it once.
    first = done.explanations[0]
    bands = first.view.bands if first.view else None
    seen = drawing_of(first.panel[0].inputs[0], bands=bands, clip=True)
    for place, explanation in enumerate(done.explanations):
        within = folder / str(place)
        within.mkdir()
        name = stem if len(done.explanations) == 1 else f"{stem}-{explanation.target.index}"
        _write_maps(within, name, seen, done, explanation, model)
    _write_page(folder / "0" / f"{stem}.html", seen, done, model)
    if len(done.explanations) > 1:
        rows = [Row(each.target.described(), seen, tuple(each.panel.tiles())) for each in done.explanations]
        footer = f"Top classes of {model}: {classes_shown(done.ranking)}. Here {done.what_was_seen()}."
        save_png(draw_rows(rows, _of_classes(done), footer), folder / "0" / f"{stem}.png")
    return [publish(folder / str(place), out) for place in range(len(done.explanations))]


def _write_maps(
    folder: Path, name: str, seen: Image.Image, done: Explained, explanation: Explanation, model: str
) -> None:
    """Write NAME.png, and a folder NAME with each map and its provenance."""
    panel = explanation.panel
    top = classes_shown(done.ranking)
    classes = f"Top classes of {model}: {top}. " if top else ""
    footer = f"{classes}Here {done.what_was_seen()}. Model evaluations: {_rows(explanation)}."
    save_png(
        draw_panel(seen, panel.tiles(view=explanation.view), _heading(done, explanation), footer),
        folder / f"{name}.png",
    )
    panel.save(folder / f"{name}.safetensors")


def _write_page(path: Path, seen: Image.Image, done: Explained, model: str) -> None:
    """Write one page for the picture, with a row for each class."""
    several = len(done.explanations) > 1
    panels = [each.panel for each in done.explanations]
    first = panels[0][0]
    facts = [
        ("model", model),
        ("picture", done.what_was_seen()),
        *(("picture", note) for note in done.picture.notes),
        *(
            (f"model evaluations for {each.target.named}" if several else "model evaluations", _rows(each))
            for each in done.explanations
        ),
        ("baseline", ", ".join(dict.fromkeys(repr(each.baseline) for panel in panels for each in panel.values()))),
        ("seed", str(first.seed)),
        *dict.fromkeys(note for each in done.explanations for note in each.notes()),
        ("versions", versions_in_words(first.versions)),
    ]
    rows = [
        Row(each.target.described() if several else "", seen, tuple(each.tiles()), done.summary(each))
        for each in done.explanations
    ]
    write_report(path, rows, _of_classes(done) if several else Path(done.name).name, "", facts)


def _of_classes(done: Explained) -> str:
    return f"{Path(done.name).name}: {len(done.explanations)} classes"


def _heading(done: Explained, explanation: Explanation) -> str:
    target = explanation.target
    return f"{Path(done.name).name}: {target.described()}, score {target.output:.4g}"


def _rows(explanation: Explanation) -> str:
    return f"{explanation.panel.forward_rows} forward + {explanation.panel.backward_rows} backward"


def publish(folder: Path, out: Path) -> list[Path]:
    """Move finished files to their places, the files of `folder` itself first, and return their paths."""
    sources = [each for each in folder.rglob("*") if each.is_file()]
    files = []
    for source in sorted(sources, key=lambda each: (each.parent != folder, each.suffix == ".html", each)):
        place = out / source.relative_to(folder)
        place.parent.mkdir(exist_ok=True)
        os.replace(source, place)
        files.append(place)
    return files
