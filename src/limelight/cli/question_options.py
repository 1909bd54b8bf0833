"""The command line's shared options, each declared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.types import Arithmetic, Outputs
from ..methods import Method
from ..models.catalogue import AnyImageModel
from ..question.baselines import Baseline
from ..question.question import Options
from .model_options import ModelOptions, takes
from .options import fitted_target, read_baselines, read_layer, usage
from .pictures import DEMO, find_pictures

Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE",
        help="Pictures, folders of pictures with their subfolders, patterns such as 'photos/*.jpg', - for standard "
        f"input, or the word '{DEMO}'.",
    ),
]
Checks = Annotated[
    list[str] | None,
    typer.Option(
        "--check",
        "-c",
        metavar="NAME",
        help="A check such as 'deletion(steps=16)'. Separate several with commas, or repeat the option.",
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="A picture that is white where the object is, for the localisation checks; cropped like the input.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", file_okay=False, metavar="DIR", help="The folder for the output files.")
]
ViewText = Annotated[
    str | None,
    typer.Option(
        "--view",
        metavar="VIEW",
        help="How maps are read and drawn, such as 'signed(smooth=0.02)', magnitude or 'signed(blocks=8)'. "
        "Default: by the method.",
    ),
]
OutputsOption = Annotated[
    Outputs | None,
    typer.Option(
        "--outputs", help="What the model's outputs are. Default: the operator that made them, or their values."
    ),
]
White = Annotated[
    float | None,
    typer.Option(
        metavar="VALUE",
        help="The value of white in pictures of more than 8 bits a channel, such as 4095 for 12 bits in a 16-bit file. "
        "Default: 65535.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="The number of workers; 0 uses this process. Default: one per core, one on a GPU."),
]
Elsewhere = Annotated[
    bool, typer.Option("--elsewhere", help="Let a table name, or https redirect to, another protocol or host.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Hash the files of finished shards, not only their sizes, and repair them.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="The number of pictures to explain. Default: all.")]
Seed = Annotated[int, typer.Option(help="The seed of all random numbers.")]
ShowProgress = Annotated[bool, typer.Option(help="Report progress on standard error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def methods_option(default: Sequence[Method] = ()) -> Any:
    """Return the option `--method`, which lists the default methods of the command."""
    text = "A method such as 'smooth-grad(samples=8)'. Separate several with commas, or repeat the option."
    names = ", ".join(each.kebab() for each in default)
    return typer.Option("--method", "-m", metavar="NAME", help=text + (f" Default: {names}." if names else ""))


@dataclass(frozen=True, kw_only=True)
class QuestionOptions(ModelOptions):
    """The options of every command that explains: each field is one option."""

    target: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="The output to explain: the number of a class, its label or whole words of it, or a target such as "
            "'margin(281, other=285)', \"region('mask.png', 2)\", \"similarity('text.pt')\" or "
            "\"box(10, 20, 110, 90, label='person')\". "
            "Default: the model's top class.",
        ),
    ] = None
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="BASELINE",
            help="The input that stands for 'absent': a number, or a baseline such as black, white or 'blur(5)'. "
            "Default: black; of texts the mask token, where the model has one.",
        ),
    ] = None
    outputs: OutputsOption = None
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER", help="The layer, for methods that read one; see 'limelight models NAME --layers'."
        ),
    ] = None
    seed: Seed = 0
    draws_of: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="A picture whose random numbers are used in place of each picture's own."),
    ] = None
    white: White = None
    rows_per_pass: Annotated[
        int | None, typer.Option(min=1, help="The number of rows in one pass of the model. Default: chosen by memory.")
    ] = None
    arithmetic: Annotated[
        Arithmetic | None,
        typer.Option(help="How the model's rows are computed. Default: chosen by the method's settings."),
    ] = None
    progress: ShowProgress = True
    as_json: Json = False
    debug: Debug = False

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """The baselines, separated by commas."""
        return read_baselines("black" if self.baseline is None else self.baseline)

    def require_one_baseline(self) -> None:
        """Raise a usage error for several baselines."""
        if len(self.baselines) > 1:
            raise usage("--baseline", f"{self.baseline!r} names {len(self.baselines)}; give one")

    @property
    def without_model(self) -> Options:
        """The options of `explain()` that are read without the model, with the first baseline."""
        return {
            "baseline": self.baselines[0],
            "seed": self.seed,
            "rows_per_pass": self.rows_per_pass,
            "arithmetic": self.arithmetic,
            "outputs": self.outputs,
        }

    def read(self, model: AnyImageModel) -> Options:
        """Return the options of `explain()`, with the first baseline. Raises usage errors that name the option."""
        found: Options = {
            **self.without_model,
            "target": fitted_target(self.target, model),
            "layer": None if self.layer is None else read_layer(self.layer, model),
            "outputs": self.outputs or model.outputs,
        }
        if self.draws_of is not None:
            found["draws_of"] = model.preprocess(find_pictures([self.draws_of], self.white)[0].open())
        return found


takes_question_options = takes(QuestionOptions, "common")
