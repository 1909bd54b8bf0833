"""The command `limelight`: it reads options, calls the library and prints the results.

Exit codes: 0 done, 1 failed, 2 usage, 3 finished with failed items, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from .. import ctrl_c
from ..base.version import __version__
from ..engine.input_pass import layers_of
from ..methods.backward import estimate_patterns
from ..models.catalogue import available_models
from ..show.explained import DEFAULT_METHODS, Explained, Request, explain_picture, fitting
from .audit import audit_command
from .check import check_command
from .help import WIDEST, add_command
from .index import INDEX, index_in
from .model_options import ModelOptions, takes_model_options
from .names import baselines_command, checks_command, methods_command, targets_command
from .options import read_methods, read_view, usage
from .pictures import DEMO, Item, find_pictures, for_each_picture
from .printing import explained_document, plain_table, print_explained
from .question_options import (
    Debug,
    Images,
    Json,
    Out,
    QuestionOptions,
    ShowProgress,
    ViewText,
    White,
    methods_option,
    takes_question_options,
)
from .run import report_command, run_command
from .serve import serve_command
from .shifts import explain_shifted, read_shift_option
from .study import studies
from .sweep import sweep_command
from .terminal import boundary, console, exit_code, print_lines, progress_on, say, visible, write_json
from .texts import explain_texts, read_texts, text_request
from .verify import verify_command
from .writing import DEFAULT_OUT, staging, write_all

_PATTERN_BATCH = 8  # pictures that pass through the model together

# Plain messages: rich's frames break long errors into pieces that can't be searched for or pasted.
app = typer.Typer(
    name="limelight",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"max_content_width": WIDEST},
)


def main() -> None:
    """Run the command line; the entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # runs the clean-up of unfinished files
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, ctrl_c.end):  # a background job ignores it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app(prog_name="limelight")
    except KeyboardInterrupt:  # outside of a command's boundary
        say("interrupted")
        sys.exit(ctrl_c.INTERRUPTED)


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C. Once a plain KeyboardInterrupt has left an exec(), Python ends by the signal and not with our code."""


def _interrupt(number: int, frame: object) -> None:
    raise _Interrupted


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
    """Explain which pixels determine a network's output, and test whether the map can be trusted."""


@add_command(app, "explain")
@takes_question_options
def explain_command(
    image: Images = None,
    method: Annotated[list[str] | None, methods_option(DEFAULT_METHODS)] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="The number of classes to explain, from the model's top class down. Default: 1, and of the "
            "demonstration picture, which shows two, both.",
        ),
    ] = None,
    check_rows: Annotated[
        int | None,
        typer.Option(
            min=0, help="Most model rows for the quick tests, 0 for none. Default: as many as the maps took, or 1500."
        ),
    ] = None,
    shift: Annotated[
        str | None,
        typer.Option(
            metavar="VALUES",
            help="Constants to add to every channel, such as '0,0.1,0.4': the same class is explained at each, and the "
            "maps are compared in one figure.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A text to explain in place of pictures; repeat the option for several. The model is then one of "
            "texts: minilm (the default), wordllama, a folder of transformers' save_pretrained with its tokenizer, or "
            "'package.module:factory'.",
        ),
    ] = None,
    text_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help="A file with a text to explain on each line."),
    ] = None,
    out: Out = DEFAULT_OUT,
    view: ViewText = None,
    demo: Annotated[bool, typer.Option("--demo", help="Explain the demonstration picture.")] = False,
    *,
    common: QuestionOptions,
) -> None:
    """Explain pictures or texts: print a table, and write a panel (PNG, HTML) and maps (safetensors, JSON) of each."""
    arguments = [*(image or []), *([DEMO] if demo else [])]
    if text or text_file is not None:
        for name, given in (("IMAGE", arguments), ("--top", top), ("--shift", shift)):
            if given:
                raise usage(name, "is for pictures; leave it out with --text")
        texts, wanted = read_texts(text or (), text_file), read_methods(method) if method else None
        with boundary(common.debug):
            with contextlib.redirect_stdout(sys.stderr):
                asked = text_request(wanted, common, check_rows, read_view(view))
            code = explain_texts(texts, asked, out, common)
        raise typer.Exit(code)
    if not arguments:
        raise usage("IMAGE", f"give a picture or a folder of pictures, or '{DEMO}' for one to try")
    if common.target is not None and (top or 1) > 1:
        raise usage("--top", "explains the model's top classes, and --target one class; give one of the two options")
    shifts = None if shift is None else read_shift_option(shift)
    if shifts is not None and (top or 1) > 1:
        raise usage("--shift", "explains one class at every shift, and --top several; give one of the two options")
    chosen = read_methods(method) if method else None
    drawn = read_view(view)
    with boundary(common.debug), contextlib.redirect_stdout(sys.stderr):  # a user's model may print
        if shifts is not None:
            common.require_one_baseline()
        more = common.baselines[1:]
        loaded = common.load()
        methods = chosen or fitting(loaded, DEFAULT_METHODS, say)
        request = Request(loaded, methods, common.read(loaded), top or 1, more, check_rows, drawn)
    of_demo = replace(request, top=2) if top is None and common.target is None else request
    with boundary(common.debug):
        if shifts is not None:
            raise typer.Exit(explain_shifted(find_pictures(arguments, common.white), request, shifts, out, common))
        code = _explain_all(find_pictures(arguments, common.white), request, of_demo, out, common)
    raise typer.Exit(code)


def _explain_all(items: list[Item], request: Request, of_demo: Request, out: Path, common: QuestionOptions) -> int:
    """Explain every picture, the demonstration picture by `of_demo`, write an index of several, and return the exit
    code."""
    several = len(items) > 1
    with index_in(out, several) as index:

        def work(item: Item, stem: str) -> tuple[Explained, list[list[Path]]]:
            with staging(out) as folder:
                picture, own = item.open(), of_demo if item.is_demo else request
                with progress_on(item.name, own.rows(), common.progress) as report:
                    done = explain_picture(item.name, picture, own, report)
                files = write_all(done, stem, request.model.name, folder, out)
            index.add(done, stem)
            return done, files

        failed = for_each_picture(
            items,
            request.model.name,
            work,
            explained_document,
            print_explained,
            as_json=common.as_json,
            debug=common.debug,
            taken=[INDEX] if several else (),
            on_failure=index.fail,
        )
    if several and failed < len(items) and not common.as_json:
        print_lines(out / f"{INDEX}.html")
    if several and failed:
        say(f"{failed} of {len(items)} pictures failed")
    return exit_code(failed, len(items))


for _name, _command in (
    ("check", check_command),
    ("sweep", sweep_command),
    ("run", run_command),
    ("report", report_command),
    ("audit", audit_command),
    ("verify", verify_command),
    ("serve", serve_command),
    ("methods", methods_command),
    ("checks", checks_command),
    ("targets", targets_command),
    ("baselines", baselines_command),
):
    add_command(app, _name)(_command)
app.add_typer(studies, name="study")


@add_command(app, "patterns")
@takes_model_options
def patterns_command(
    image: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Pictures or folders of pictures.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", dir_okay=False, metavar="FILE", help="The .safetensors file to write.")
    ],
    white: White = None,
    progress: ShowProgress = True,
    debug: Debug = False,
    *,
    loading: ModelOptions,
) -> None:
    """Estimate a model's patterns from pictures, for --method "pattern-net(patterns='FILE')"."""

    def batches() -> Iterator[Tensor]:
        # An unreadable picture stops the command: patterns of fewer pictures would look like the right ones.
        for start in range(0, len(items), _PATTERN_BATCH):
            part = items[start : start + _PATTERN_BATCH]
            yield torch.cat([loaded.preprocess(item.open()) for item in part])
            report(len(part))

    with boundary(debug), contextlib.redirect_stdout(sys.stderr):
        loaded, items = loading.load(), find_pictures(image, white)
        if not isinstance(loaded, nn.Module):
            raise ValueError(f"{loaded.name} is a black box and has no layers, of which patterns are estimated")
        with progress_on(f"{len(items)} pictures", len(items), progress) as report:
            found = estimate_patterns(loaded, batches())
        found.save(out)
    console().print(f"{out}: patterns of {len(found.tensors)} operators from {len(items)} pictures", soft_wrap=True)


@add_command(app, "models")
@takes_model_options
def models_command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A part of a model's name; with --layers the whole name.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List the layers for the option --layer, with the sizes of their maps.")
    ] = False,
    picture: Annotated[str, typer.Option(metavar="IMAGE", help="The picture whose maps --layers measures.")] = DEMO,
    everything: Annotated[
        bool, typer.Option("--all", help="Also list models whose pretrained weights are not on this machine.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
    *,
    loading: ModelOptions,
) -> None:
    """List the models for the option --model, or the layers of one model."""
    with boundary(debug):
        if layers:
            _list_layers(replace(loading, model=name or loading.model), picture, as_json)
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
        table.add_row(*map(visible, each))
    console().print(table)
    if len(shown) < len(found):
        count = len(found) - len(shown)
        print_lines("", f"{count} more have no weights on this machine; --all lists them, --weights FILE loads yours")
    print_lines("", "Your own: --model FOLDER or FILE of transformers, ONNX, TorchScript or torch.export, or")
    print_lines("--model package.module:factory [--weights FILE] [--labels FILE]")


def _list_layers(loading: ModelOptions, picture: str, as_json: bool) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        model = loading.load("NAME")
        if not isinstance(model, nn.Module):
            raise ValueError(f"{model.name} is a black box and has no layers")
        found, chosen, why = layers_of(model, model.preprocess(find_pictures([picture])[0].open()))
    if as_json:
        names = ("name", "shape", "grid", "activation_norm", "gradient_norm")
        layers = [dict(zip(names, dataclasses.astuple(each), strict=True)) for each in found]
        write_json({"model": model.name, "default": chosen, "why": why, "layers": layers})
        return
    numbers = ("channels", "|map|", "|gradient|")
    table = plain_table("layer", "map", *numbers, "", numbers=numbers)
    for each in found:
        mark = "the default" if each.name == chosen else ""
        sizes = (str(each.shape[0]), f"{each.activation:.4g}", f"{each.gradient:.4g}")
        table.add_row(visible(each.name), each.grid, *sizes, mark)
    console().print(table)
    print_lines("", why)
