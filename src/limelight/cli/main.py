"""The command `limelight`. Thin: options are read here, and everything else is the library's own behaviour.

Exit codes: 0 done, 1 failed, 2 usage, 3 finished with failed items, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..base.errors import EXPECTED, reason
from ..base.version import __version__
from ..engine.input_pass import layers_of
from ..models.catalogue import DEFAULT_MODEL, available_models
from ..show.explained import DEFAULT_METHODS, Request, explain_picture
from .check import check_command
from .flags import Debug, Images, Json, Weights
from .index import INDEX, index_in
from .listing import method_documents
from .options import read_methods, read_model, usage
from .patterns import patterns_of
from .pictures import DEMO, Item, find_pictures
from .printing import explained_document, plain_table, print_explained
from .progress import progress_on
from .question_options import QuestionOptions, asks
from .run import report_command, run_command
from .serve import serve_command
from .study import studies
from .sweep import sweep_command
from .terminal import boundary, console, exit_code, json_pictures, say, visible, write_json
from .writing import DEFAULT_OUT, staging, write_all

# Plain messages: in rich's frames a long error is broken into pieces that nobody can search for or paste.
app = typer.Typer(
    name="limelight", rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True
)


def main() -> None:
    """The entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that half-made files go
    app(prog_name="limelight")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"limelight {__version__}")
        raise typer.Exit


@app.callback()
def limelight(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Which pixels made a network say what it said, and whether the map can be believed."""


@app.command("explain")
@asks
def explain_command(
    image: Images = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            help="Such as 'smooth-grad(samples=8)'; several with commas or by repeating. Default: "
            + ", ".join(each.kebab() for each in DEFAULT_METHODS)
            + ".",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Explain this many of the model's first classes.")] = 1,
    check_rows: Annotated[
        int | None,
        typer.Option(min=0, help="Rows the quick tests may cost; 0 for none. Default: as many as the maps."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, metavar="DIR", help="Where files go.")
    ] = DEFAULT_OUT,
    demo: Annotated[bool, typer.Option("--demo", help="Explain the demonstration picture, a cat.")] = False,
    *,
    asked: QuestionOptions,
) -> None:
    """Explain pictures: print a table, and write for each a panel (PNG, HTML) and its maps (safetensors, JSON)."""
    arguments = [*(image or []), *([DEMO] if demo else [])]
    if not arguments:
        raise usage("IMAGE", f"give a picture or a folder of pictures, or '{DEMO}' for a cat")
    if asked.target is not None and top > 1:
        raise usage("--top", "explains the model's first classes, --target one that you choose; give one of them")
    methods = read_methods(method) if method else DEFAULT_METHODS
    # What a model of yours prints is not the result.
    with boundary(asked.debug), contextlib.redirect_stdout(sys.stderr):
        more = asked.baselines[1:]
        loaded = asked.load()
        request = Request(loaded, methods, asked.read(loaded), top, more, check_rows)
    with boundary(asked.debug):
        code = _explain_all(find_pictures(arguments), request, out, asked)
    raise typer.Exit(code)


def _explain_all(items: list[Item], request: Request, out: Path, asked: QuestionOptions) -> int:
    """Explain every picture, whatever happens to the others; the exit code."""
    taken = {INDEX} if len(items) > 1 else set[str]()
    failed = 0
    with index_in(out, len(items) > 1) as index, json_pictures(asked.as_json) as documents:
        for item in items:
            stem = item.stem(taken)
            try:
                with staging(out) as folder, contextlib.redirect_stdout(sys.stderr):
                    picture = item.open()
                    with progress_on(item.name, request.rows(), asked.progress) as report:
                        done = explain_picture(item.name, picture, request, report)
                    files = write_all(done, stem, request.model.name, folder, out)
            except EXPECTED as error:
                if asked.debug:
                    raise
                failed += 1
                line = reason(error, item.name)
                say(line)
                index.fail(item.name, line)
                documents.add({"picture": item.name, "status": "failed", "error": line})
                continue
            index.add(done, stem)
            if asked.as_json:
                documents.add(explained_document(done, files))
            else:
                print_explained(console(), done, files)
        documents.finish({"limelight": __version__, "model": request.model.name, "failed": failed})
    if len(items) > 1 and failed < len(items) and not asked.as_json:
        console().print(Text(str(out / f"{INDEX}.html")), soft_wrap=True)
    if len(items) > 1 and failed:
        say(f"{failed} of {len(items)} pictures failed")
    return exit_code(failed, len(items))


app.command("check")(check_command)
app.command("sweep")(sweep_command)
app.command("run")(run_command)
app.command("report")(report_command)
app.command("serve")(serve_command)
app.add_typer(studies, name="study")


@app.command("patterns")
def patterns_command(
    image: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Pictures or folders of pictures.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", dir_okay=False, metavar="FILE", help="A .safetensors file to write.")
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="See 'limelight models'.")] = DEFAULT_MODEL,
    weights: Weights = None,
    progress: Annotated[bool, typer.Option(help="Report progress on standard error.")] = True,
    debug: Debug = False,
) -> None:
    """Estimate a model's patterns from pictures, for --method "pattern-net(patterns='FILE')"."""
    with boundary(debug), contextlib.redirect_stdout(sys.stderr):
        loaded, items = read_model(model, weights), find_pictures(image)
        with progress_on(f"{len(items)} pictures", len(items), progress) as report:
            found = patterns_of(loaded, items, report)
        found.save(out)
    console().print(f"{out}: patterns of {len(found.tensors)} operators from {len(items)} pictures", soft_wrap=True)


@app.command("methods")
def methods_command(as_json: Json = False) -> None:
    """List the methods, their settings and what they need."""
    documents = method_documents()
    if as_json:
        write_json({"methods": documents})
        return
    table = plain_table("method", "what it does", "settings and their defaults", "needs")
    for each in documents:
        settings = "\n".join(f"{name}={value}" for name, value in each["fields"].items())
        table.add_row(each["name"], Text(each["summary"]), Text(settings), ", ".join(each["needs"]) or "-")
    console().print(table)


@app.command("models")
def models_command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Part of a name to look for; with --layers a whole one.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List the model's layers that --layer takes, with the size of their maps.")
    ] = False,
    picture: Annotated[str, typer.Option(metavar="IMAGE", help="The picture whose maps --layers measures.")] = DEMO,
    weights: Weights = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also models whose pretrained weights are not on this machine.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the models that --model takes, or the layers of one."""
    with boundary(debug):
        if layers:
            _list_layers(name or DEFAULT_MODEL, picture, weights, as_json)
        else:
            _list_models(name, everything, as_json)


def _list_models(part: str | None, everything: bool, as_json: bool) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        found = [each for each in available_models() if part is None or part.lower() in each.name.lower()]
    if as_json:
        write_json({"models": [each._asdict() for each in found]})
        return
    if part and not found:
        raise ValueError(f"no model has {part!r} in its name; 'limelight models --all' lists them")
    shown = [each for each in found if everything or part or each.note != "weights not on this machine"]
    table = plain_table("model", "from", "state")
    for each in shown:
        table.add_row(*(Text(visible(cell)) for cell in each))
    out = console()
    out.print(table)
    if len(shown) < len(found):
        out.print(
            f"\nand {len(found) - len(shown)} whose pretrained weights are not on this machine: --all lists them, "
            "--weights FILE brings yours",
            soft_wrap=True,
        )
    out.print("\nYour own: --model package.module:factory [--weights FILE]")


def _list_layers(name: str, picture: str, weights: Path | None, as_json: bool) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        model = read_model(name, weights, "NAME")
        found, chosen, why = layers_of(model, model.preprocess(find_pictures([picture])[0].open()))
    if as_json:
        layers = [
            {
                "name": each.name,
                "shape": list(each.shape),
                "grid": each.grid,
                "activation_norm": each.activation,
                "gradient_norm": each.gradient,
            }
            for each in found
        ]
        write_json({"model": model.name, "default": chosen, "why": why, "layers": layers})
        return
    numbers = ("channels", "|map|", "|gradient|")
    table = plain_table("layer", "map", *numbers, "", numbers=numbers)
    for each in found:
        mark = "the default" if each.name == chosen else ""
        sizes = (str(each.shape[0]), f"{each.activation:.4g}", f"{each.gradient:.4g}")
        table.add_row(Text(visible(each.name)), each.grid, *sizes, mark)
    console().print(table)
    console().print(Text(f"\n{why}"), soft_wrap=True)
