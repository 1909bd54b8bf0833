"""`limelight explain --shift`: one class while a constant is added to the picture, as one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.named import read_value
from ..base.plain_text import split_texts
from ..base.records import file_stem
from ..evaluation.compare_shifts import ShiftStudy, read_shifts, shift_studies
from ..question.question import Options, labels_of, question_of
from ..show import save_png
from ..show.exhibits import draw_shifts
from ..show.explained import Ranked, Request, explained_class, part_seen
from .options import usage
from .pictures import Item, for_each_picture
from .printing import number, plain_table
from .question_options import QuestionOptions
from .terminal import console, exit_code, print_lines, progress_on, visible
from .writing import publish, staging


@dataclass(frozen=True)
class Shifted:
    """The studies of one picture, a study for each method, and the class that all of its maps explain."""

    name: str
    seen: str
    target: Ranked
    studies: Mapping[str, ShiftStudy]
    files: Sequence[Path]


def read_shift_option(text: str) -> tuple[float, ...]:
    """Read `"0,0.1,0.4"`. Raises a usage error that names the option."""
    try:
        return read_shifts([read_value(part) for part in split_texts(text) if part])
    except ValueError as error:
        raise usage("--shift", str(error).removeprefix("shifts: ")) from error


def explain_shifted(
    items: list[Item], request: Request, shifts: Sequence[float], out: Path, common: QuestionOptions
) -> int:
    """Explain every picture at every shift, and return the exit code."""

    def work(item: Item, stem: str) -> tuple[Shifted]:
        with staging(out) as folder:
            pixels, geometry, _ = request.model.prepare(item.open())
            with progress_on(item.name, None, common.progress) as report:
                options: Options = {**request.options, "progress": report}
                with question_of(request.model, pixels, options) as question:
                    studies = shift_studies(question, request.methods, shifts, labels_of(request.model))
            first = next(iter(studies.values()))
            target = explained_class(request.model, first[0])
            heading = f"{Path(item.name).name}: {target.named} by shift of the input"
            save_png(draw_shifts([*studies.values()], 0, heading, request.view), folder / f"{stem}-shift.png")
            for name, study in studies.items():
                study.save(folder / f"{stem}-shift {file_stem(name)}.safetensors")
            return (Shifted(item.name, part_seen(geometry), target, studies, publish(folder, out)),)

    failed = for_each_picture(
        items, request.model.name, work, _document, _print, as_json=common.as_json, debug=common.debug
    )
    return exit_code(failed, len(items))


def _print(done: Shifted) -> None:
    first = next(iter(done.studies.values()))
    print_lines(f"{done.name}: {done.target.named} at every shift", style="bold")
    print_lines(f"the model saw {done.seen}", "")
    said = plain_table("shift", "the model says", "clipped on a display", numbers=("clipped on a display",))
    for k, label in enumerate(first):
        said.add_row(label, visible(first.said(k)), f"{float(first.clipped[0, k]):.1%}")
    console().print(said)
    numbers = ("rank correlation", "SSIM")
    table = plain_table("method", "shift", *numbers, "", numbers=numbers)
    for name, study in done.studies.items():
        for k, label in enumerate(study):
            figures = (number(float(each[0, k]), ".2f") for each in (study.alike, study.structure))
            table.add_row(visible(name), label, *figures, "" if k else "the map it is compared with")
    print_lines("")
    console().print(table)
    print_lines("", *(path for path in done.files if path.suffix == ".png"), "")


def _document(done: Shifted) -> dict[str, Any]:
    return {
        "picture": done.name,
        "status": "done",
        "target": {"class": done.target.index, "label": done.target.label, "probability": done.target.probability},
        "methods": {name: study.summary() for name, study in done.studies.items()},
        "files": [str(path) for path in done.files],
    }
