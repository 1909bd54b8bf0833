"""The command `limelight sweep`: the effect of a method's settings on its map, as one labelled grid."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.attribution import describe_rows
from ..base.named import read_value, split_texts
from ..base.version import __version__
from ..base.view import View
from ..evaluation.sweep import LAYER, Sweep, sweep, with_fields
from ..models.catalogue import AnyImageModel
from ..show.explained import explained_class, share_of_change
from .options import read_layer, read_methods, read_view, usage
from .pictures import DEMO, find_pictures
from .printing import number, plain_table
from .question_options import Out, QuestionOptions, ViewText, takes_question_options
from .terminal import boundary, console, print_lines, progress_on, visible, write_json
from .writing import DEFAULT_OUT, publish, staging


@takes_question_options
def sweep_command(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help=f"A picture, or the word '{DEMO}'.")],
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
    """Explain a picture with each value of a setting, compare neighbouring values, and write a grid of maps."""
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
        item = find_pictures([image], common.white)[0]
        layers = [read_layer(name, loaded) for name in fields.pop(LAYER, ())]
        options = common.read(loaded)
        if layers:
            options["layer"] = layers
        pixels, _, _ = loaded.prepare(item.open())
        with progress_on(item.name, None, common.progress) as report:
            found = sweep(loaded, pixels, methods[0], **options, **fields, progress=report)
        files = _write(found, f"{item.stem(set())}-{methods[0].kebab()}-by-{'-'.join(found.fields)}", out, drawn)
    if common.as_json:
        write_json(_document(found, loaded, item.name, files))
    else:
        _print(found, loaded, item.name, files)


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


def _print(found: Sweep, model: AnyImageModel, picture: str, files: Sequence[Path]) -> None:
    print_lines(f"{picture}: {found.heading()}, {explained_class(model, found[0]).named}", style="bold")
    print_lines("")
    numbers = ("f(x)", "delta", "of f(x)-f(b)", "rows fwd+bwd", "seconds")
    table = plain_table("value", *numbers, "rank correlation with", numbers=numbers)
    for position, (label, each) in enumerate(found.items()):
        likeness = "; ".join(line.removeprefix("rank correlation with ") for line in found.remarks(position, 0))
        table.add_row(
            visible(label),
            f"{float(each.score[0]):.4g}",
            number(float(each.delta[0]), ".2g"),
            number(share_of_change(each), ".1%"),
            describe_rows(each),
            f"{each.seconds:.1f}",
            visible(likeness),
        )
    console().print(table)
    print_lines("", *(path for path in files if path.suffix in (".png", ".html")), f"{files[-1].parent}{os.sep}")


def _document(found: Sweep, model: AnyImageModel, picture: str, files: Sequence[Path]) -> dict[str, Any]:
    return {
        "limelight": __version__,
        "model": model.name,
        "picture": picture,
        "method": repr(found.method),
        "fields": {
            name: [value if isinstance(value, int | float | str) else repr(value) for value in values]
            for name, values in found.fields.items()
        },
        "target": explained_class(model, found[0]).index,
        **found.summary(),
        "neighbours": {name: each[0].tolist() for name, each in found.neighbours.items()},
        "files": [str(path) for path in files],
    }
