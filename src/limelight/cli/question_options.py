"""The options of a question, declared once for every command that asks one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from torch import Tensor

from ..models.catalogue import DEFAULT_MODEL, ImageModel
from ..models.pictures import open_image
from ..question.baselines import Baseline
from ..question.question import Options
from .flags import Debug, Json, Weights
from .options import read_baselines, read_layer, read_model, read_target, usage
from .pictures import find_pictures


@dataclass(frozen=True)
class QuestionOptions:
    """What the commands take beside pictures and methods: a field here is an option of each of them."""

    model: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The model: a name from 'limelight models', or 'package.module:factory' for your own."
        ),
    ] = DEFAULT_MODEL
    weights: Weights = None
    target: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="What is explained: the number or label of a class, or a target such as 'margin(281, other=285)'. "
            "Default: the model's top class.",
        ),
    ] = None
    baseline: Annotated[
        str,
        typer.Option(
            metavar="BASELINE", help="What 'absent' means: a number, or a baseline such as black, white or 'blur(5)'."
        ),
    ] = "black"
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER", help="The layer, for methods that read one; see 'limelight models NAME --layers'."
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="The seed of all random numbers.")] = 0
    draws_of: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="A picture whose random numbers are used in place of each picture's own."),
    ] = None
    rows_per_pass: Annotated[
        int | None, typer.Option(min=1, help="Rows that the model runs on at once. Default: chosen by memory.")
    ] = None
    progress: Annotated[bool, typer.Option(help="Report progress on standard error.")] = True
    as_json: Json = False
    debug: Debug = False

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """The baselines, several with commas between them."""
        return read_baselines(self.baseline)

    def require_one_baseline(self) -> None:
        """Refuse several baselines, for commands that take one."""
        if len(self.baselines) > 1:
            raise usage("--baseline", f"{self.baseline!r} names {len(self.baselines)}; give one")

    def load(self) -> ImageModel:
        return read_model(self.model, self.weights)

    def read(self, model: ImageModel) -> Options:
        """What `explain()` takes, with the first of the baselines. Every refusal names the option."""
        found: Options = {
            "target": read_target(self.target, model.labels),
            "baseline": self.baselines[0],
            "layer": None if self.layer is None else read_layer(self.layer, model),
            "seed": self.seed,
            "rows_per_pass": self.rows_per_pass,
        }
        if self.draws_of is not None:
            found["draws_of"] = model.preprocess(find_pictures([self.draws_of])[0].open())
        return found


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `asked` is a QuestionOptions takes each of its fields as an option."""
    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "asked"]
    hints = get_type_hints(QuestionOptions, include_extras=True)
    shared = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in fields(QuestionOptions)
        if each.default is not MISSING
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        asked = QuestionOptions(**{each.name: given.pop(each.name) for each in shared})
        command(**given, asked=asked)

    keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    run.__signature__ = inspect.Signature([*keyword, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*keyword, *shared)}
    return run


MaskOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="A picture, white where the object is, for the localisation checks; cut to what the model sees.",
    ),
]


def read_mask(path: Path | None, model: ImageModel) -> Tensor | None:
    """The region of `--mask`, booleans `(1, H, W)` of what the model sees; None where there is none."""
    return None if path is None else model.preprocess(open_image(path)).mean(1) > 0.5
