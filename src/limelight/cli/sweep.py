"""The command `limelight sweep`: the effect of a method's settings on its map, as one labelled grid."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ..base.attribution import describe_rows
from ..base.named import read_value
from ..base.plain_text import split_texts
from ..base.version import __version__
from ..base.view import View
from ..evaluation.sweep import LAYER, Sweep, sweep, with_fields
from ..models.catalogue import AnyImageModel
from ..show.explained import Ranked, explained_class
from .options import read_layer, read_methods, read_view, usage
from .pictures import DEMO, find_pictures
from .printing import number, plain_table
from .question_options import Out, QuestionOptions, ViewText, takes_question_options
from .terminal import boundary, console, print_lines, progress_on, visible, write_json
from .writing import DEFAULT_OUT, publish, staging


@takes_question_options
def sweep_command(
    image: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help=f"Pictures, folders or patterns, or the word '{DEMO}'.")
    ],
    field: Annotated[
        list[str],
        typer.Option(
            "--field",
            "-f",
            metavar="NAME=VALUES",
            help="A setting and its values, such as 'noise=0.05,0.1,0.2', 'quadrature.n=8,32,128' or "
            "'layer=features.3,features.6'. Two settings make a grid.",
        ),
    ],
    method: Annotated[
        str, typer.Option("--method", "-m", metavar="NAME", help="The method, such as 'smooth-grad(samples=8)'.")
    ],
    out: Out = DEFAULT_OUT,
    view: ViewText = None,
    *,
    common: QuestionOptions,
) -> None:
    """Explain pictures with each value of a setting, compare neighbouring values, and write a grid of maps."""
    methods = read_methods([method])
    if len(methods) != 1:
        raise usage("--method", f"{len(methods)} methods; a sweep takes one")
    drawn = read_view(view)
    fields = _read_fields(field)
    if LAYER in fields and common.layer is not None:
        raise usage("--layer", "is set by --field layer=... too; give one of them")
    own = {name: values for name, values in fields.items() if name != LAYER}
    try:
        for values in itertools.product(*own.values()):
            with_fields(methods[0], dict(zip(own, values, strict=True)))
    except ValueError as error:
        raise usage("--field", str(error).removeprefix("fields: ")) from error
    with boundary(common.debug), contextlib.redirect_stdout(sys.stderr):
        common.require_one_baseline()
        loaded = common.load()
        items = find_pictures(image, common.white)
        layers = [read_layer(name, loaded) for name in fields.pop(LAYER, ())]
        options = common.read(loaded)
        if layers:
            options["layer"] = layers
        pixels = torch.cat([loaded.prepare(item.open())[0] for item in items])
        several = f"{len(items)} pictures"
        with progress_on(items[0].name if len(items) == 1 else several, None, common.progress) as report:
            found = sweep(loaded, pixels, methods[0], **options, **fields, progress=report)
        stem = items[0].stem(set()) if len(items) == 1 else several.replace(" ", "-")
        files = _write(found, f"{stem}-{methods[0].kebab()}-by-{'-'.join(found.fields)}", out, drawn)
    names = [item.name for item in items]
    if common.as_json:
        write_json(_document(found, loaded, names, files))
    else:
        _print(found, loaded, names, files)


def _read_fields(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Read `["noise=0.1,0.2"]` as a field and its values; layers stay text."""
    fields: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name, parts = name.strip(), [part for part in split_texts(values) if part]
        if not equals or not name or not parts:
            raise usage("--field", f"{text!r}; write a setting and its values, such as noise=0.05,0.1,0.2")
        if name in fields:
            raise usage("--field", f"{name!r} twice; give its values at once")
        fields[name] = tuple(parts) if name == LAYER else tuple(map(read_value, parts))
    return fields


def _write(found: Sweep, stem: str, out: Path, view: View | None) -> list[Path]:
    """Write STEM.png, STEM.html and a folder STEM of maps; on failure nothing is left."""
    with staging(out) as folder:
        for suffix in (".png", ".html", ".safetensors"):
            found.save(folder / f"{stem}{suffix}", view)
        return publish(folder, out)


def _print(found: Sweep, model: AnyImageModel, pictures: Sequence[str], files: Sequence[Path]) -> None:
    numbers = ("f(x)", "delta", "of f(x)-f(b)", "rows fwd+bwd", "seconds")
    for example, picture in enumerate(pictures):
        print_lines(f"{picture}: {found.heading()}, {_class_of(model, found, example)[1]}", style="bold")
        print_lines("")
        table = plain_table("value", *numbers, "rank correlation with", numbers=numbers)
        for position, (label, each) in enumerate(found.items()):
            likeness = "; ".join(
                line.removeprefix("rank correlation with ") for line in found.remarks(position, example)
            )
            change = float(each.score[example] - each.baseline_score[example])
            table.add_row(
                visible(label),
                f"{float(each.score[example]):.4g}",
                number(float(each.delta[example]), ".2g"),
                number(abs(float(each.delta[example]) / change) if change else math.nan, ".1%"),
                describe_rows(each) if example == 0 else "",
                f"{each.seconds:.1f}" if example == 0 else "",
                visible(likeness),
            )
        console().print(table)
        print_lines("")
    if len(pictures) > 1:
        print_lines("rows and seconds, above at the first picture, are of all pictures together", "")
    print_lines(*(path for path in files if path.suffix in (".png", ".html")), f"{files[-1].parent}{os.sep}")


def _class_of(model: AnyImageModel, found: Sweep, example: int) -> tuple[int | None, str]:
    """Return the class that an example's maps explain, None for another target, and its name."""
    target = found[0].target
    if not isinstance(target, Tensor):
        return None, explained_class(model, found[0]).named
    index = int(target[example])
    return index, Ranked(index, model.label(index), math.nan, math.nan).named


def _document(found: Sweep, model: AnyImageModel, pictures: Sequence[str], files: Sequence[Path]) -> dict[str, Any]:
    each = [
        {
            "picture": picture,
            "target": _class_of(model, found, example)[0],
            "neighbours": {name: likeness[example].tolist() for name, likeness in found.neighbours.items()},
        }
        for example, picture in enumerate(pictures)
    ]
    return {
        "limelight": __version__,
        "model": model.name,
        "method": repr(found.method),
        "fields": {
            name: [value if isinstance(value, int | float | str) else repr(value) for value in values]
            for name, values in found.fields.items()
        },
        **found.summary(),
        **(each[0] if len(each) == 1 else {}),
        "pictures": each,
        "files": [str(path) for path in files],
    }
