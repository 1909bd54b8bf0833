"""The command line's options about the model, each declared once, and its loading."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..base.devices import AUTO, as_device
from ..models.catalogue import (
    DEFAULT_MODEL,
    AnyImageModel,
    Declaration,
    ModelError,
    OfTexts,
    available_models,
    load_model,
)
from ..models.declared import SQUASH
from ..models.text import TextModel
from ..models.text_models import is_name_of_texts, load_text_model
from .options import usage

ModelName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The model: a name from 'limelight models', a folder of transformers' save_pretrained, a file of ONNX, "
        "TorchScript or torch.export, or 'package.module:factory' for your own.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="The weights: a .safetensors, .pt, .pth or .ckpt file. The number of classes is read from them.",
    ),
]


_OF_PICTURES = ("weights", "labels", "mean", "std", "size", "channels", "resize")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options of every command that loads a model: each field is one option."""

    model: ModelName = DEFAULT_MODEL
    weights: Weights = None
    labels: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="The names of the classes: a .json (a list, or a mapping of numbers and names), or a .txt of one name "
            "a line.",
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="The mean of pixels in [0, 1] that the model was trained with: one number, or one for each channel, "
            "such as '0.485,0.456,0.406'. Default: the model's own.",
        ),
    ] = None
    std: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Their standard deviation. Default: the model's own.")
    ] = None
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="The input's height and width in pixels, or one number for both.")
    ] = None
    channels: Annotated[int | None, typer.Option(min=1, help="The input's channels: 1 for grey, 3 for colours.")] = None
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS",
            help=f"The shorter side of the picture before cropping, or '{SQUASH}' to resize it without cropping.",
        ),
    ] = None
    device: Annotated[
        str, typer.Option(metavar="NAME", help="The device: cpu, cuda, or auto for the GPU where there is one.")
    ] = AUTO

    @property
    def declared(self) -> Declaration:
        """What is said about the model's inputs and outputs. Raises usage errors that name the option."""
        return {
            "labels": self.labels,
            "mean": _numbers("--mean", self.mean),
            "std": _numbers("--std", self.std),
            "size": _size(self.size),
            "channels": self.channels,
            "resize": _resize(self.resize),
        }

    def load(self, option: str = "--model") -> AnyImageModel:
        """Load the model; modules in the current folder are found too. An unknown name is a usage error."""
        import_from_here(self.model)
        declared = self.declared
        try:
            return load_model(self.model, weights=self.weights, device=self.device, **declared)
        except OfTexts:
            raise
        except ModelError as error:
            # A known name fails because of its weights or this machine, which is no usage error.
            if self.weights is None and not Path(self.model).exists() and not _known(self.model):
                raise usage(option, error) from error
            raise

    def load_any(self) -> AnyImageModel | TextModel:
        """Load a model of pictures or of texts; for texts options that are of pictures are usage errors."""
        if is_name_of_texts(self.model):
            self.require_none_of_pictures()
            return load_text_model(self.model, device=self.device)
        try:
            return self.load()
        except OfTexts as found:
            self.require_none_of_pictures()
            return found.model.eval().to(as_device(self.device))

    def require_none_of_pictures(self, *others: str) -> None:
        """Raise a usage error for an option that describes a model of pictures, or for one of `others`."""
        defaults = {each.name: each.default for each in fields(self)}
        for name in (*_OF_PICTURES, *others):
            if getattr(self, name) != defaults[name]:
                raise usage(f"--{name.replace('_', '-')}", "is for pictures; leave it out with a model of texts")


def takes(kind: type[ModelOptions], name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the command's parameter `name`, an object of `kind`, by one option for each of its fields."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        named = inspect.Parameter.KEYWORD_ONLY
        own = inspect.signature(command, eval_str=True).parameters
        hints = get_type_hints(kind, include_extras=True)
        shared = [
            inspect.Parameter(each.name, named, default=each.default, annotation=hints[each.name])
            for each in fields(kind)
            if each.name not in own
        ]
        every = [*(each.replace(kind=named) for own_name, each in own.items() if own_name != name), *shared]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            common = kind(**{each.name: given.pop(each.name) for each in shared})
            command(**given, **{name: common})

        run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in every}
        return run

    return decorated


takes_model_options = takes(ModelOptions, "loading")


def import_from_here(model: str) -> None:
    """Let the module of a model such as `package.module:factory` be imported from the current folder."""
    if ":" in model and "" not in sys.path:
        sys.path.insert(0, "")


def _known(name: str) -> bool:
    return any(name in (each.name, each.name.partition(":")[2]) for each in available_models())


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise usage(option, f"{text!r}; write one number, or one for each channel: '0.485,0.456,0.406'") from error


def _size(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) for side in sides):
        raise usage("--size", f"{text!r}; write pixels as height x width, such as 224 or 480x640")
    return tuple(int(side) for side in (sides * 2)[:2])


def _resize(text: str | None) -> int | str | None:
    if text is None or text == SQUASH:
        return text
    if not text.isdecimal() or not int(text):
        raise usage("--resize", f"{text!r}; write the pixels of the shorter side, or {SQUASH}")
    return int(text)
