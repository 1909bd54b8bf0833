"""Readers of option texts for `explain()`. Errors name the option and what would have worked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import typer
from torch import Tensor, nn

from ..base.named import Named, Registry
from ..base.plain_text import split_texts
from ..base.view import VIEWS, View
from ..checks import CHECKS, Check
from ..engine.layers import layer_names, modules_of
from ..methods import METHODS, Method
from ..models.catalogue import AnyImageModel
from ..models.pictures import open_image
from ..question import registries
from ..question.baselines import Baseline
from ..question.registries import as_baseline
from ..question.targets import Logit, Target
from .terminal import visible

T = TypeVar("T")
Kind = TypeVar("Kind", bound=Named)


def usage(option: str, message: object) -> typer.BadParameter:
    """Return an error with exit code 2 and a message that names the option."""
    return typer.BadParameter(visible(message), param_hint=option)


def folder_or_url(place: str | None) -> str | None:
    """Require that a place of a run is no file of this machine."""
    if place is not None and os.path.isfile(place):  # False also for what no path can be
        raise typer.BadParameter(visible(f"{place!r} is a file; use a folder, or a URL such as s3://bucket/run"))
    return place


def read_methods(texts: Iterable[str]) -> tuple[Method, ...]:
    """Read `["gradient,smooth-grad(samples=8)", "occlusion"]` as three methods."""
    return _read_all("--method", METHODS, texts)


def read_checks(texts: Iterable[str]) -> tuple[Check, ...]:
    """Read `["deletion(steps=8),srg", "gini"]` as three checks."""
    return _read_all("--check", CHECKS, texts)


def read_view(text: str | None) -> View | None:
    """Read `"signed(smooth=0.02)"`; None is the view of each method."""
    return None if text is None else _read("--view", lambda: VIEWS.read(text))


def read_baselines(text: str) -> tuple[Baseline, ...]:
    """Read `"black,blur(5),0.5"` as three baselines."""
    return _read("--baseline", lambda: tuple(map(as_baseline, split_texts(text))))


def read_target(text: str | None, labels: Sequence[str]) -> Target:
    """Read a class or a target by name; None is the model's top class."""
    return Logit() if text is None else _read("--target", lambda: registries.read_target(text, labels))


def fitted_target(text: str | None, model: AnyImageModel) -> Target:
    """Read a target for the model's inputs: its mask is cropped as pictures are, and its box lies inside them."""
    height, width = model.preprocessing.sides
    read = read_target(text, model.labels)
    return _read("--target", lambda: read.fitted((model.preprocessing.channels, height, width), model))


def read_layer(text: str, model: AnyImageModel) -> str:
    if not isinstance(model, nn.Module):
        raise usage("--layer", f"{model.name} is a black box and has no layers")
    return _read("--layer", lambda: ", ".join(layer_names(modules_of(model), text)))


def read_mask(path: Path | None, model: AnyImageModel) -> Tensor | None:
    """Read the region of `--mask` as booleans `(1, H, W)`, cropped and resized like the model's input."""
    return None if path is None else model.preprocess(open_image(path)).mean(1) > 0.5


def _read_all(option: str, registry: Registry[Kind], texts: Iterable[str]) -> tuple[Kind, ...]:
    return _read(option, lambda: tuple(registry.read(part) for text in texts for part in split_texts(text)))


def _read(option: str, reader: Callable[[], T]) -> T:
    """Return the reader's result; its ValueError or TypeError becomes a usage error without the argument's name."""
    try:
        return reader()
    except (ValueError, TypeError) as error:
        raise usage(option, re.sub(r"^(method|checks|baseline|target|layer|fields|view): ", "", str(error))) from error
