"""Options as a person types them, read into what `explain()` takes. Every refusal names what would have worked."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import typer

from ..base.named import split_texts
from ..checks import CHECKS, Check
from ..engine.layers import layer_names
from ..methods import METHODS, Method
from ..models.catalogue import ImageModel, ModelError, available_models, load_model
from ..question import registries
from ..question.baselines import Baseline
from ..question.registries import as_baseline
from ..question.targets import Logit, Target
from .terminal import visible

T = TypeVar("T")


def usage(option: str, message: object) -> typer.BadParameter:
    """Exit code 2, with a message that names the option."""
    return typer.BadParameter(visible(message), param_hint=option)


def read_methods(texts: Iterable[str]) -> tuple[Method, ...]:
    """`["gradient,smooth-grad(samples=8)", "occlusion"]` as three methods."""
    return _read("--method", lambda: tuple(METHODS.read(part) for text in texts for part in split_texts(text)))


def read_checks(texts: Iterable[str]) -> tuple[Check, ...]:
    """`["deletion(steps=8),srg", "gini"]` as checks."""
    return _read("--check", lambda: tuple(CHECKS.read(part) for text in texts for part in split_texts(text)))


def read_baseline(text: str) -> Baseline:
    return _read("--baseline", lambda: as_baseline(text))


def read_baselines(text: str) -> tuple[Baseline, ...]:
    """`"black,blur(5),0.5"` as three baselines."""
    return tuple(map(read_baseline, split_texts(text)))


def read_target(text: str | None, labels: Sequence[str]) -> Target:
    """A class or target by name; None is the model's top class."""
    return Logit() if text is None else _read("--target", lambda: registries.read_target(text, labels))


def _read(option: str, reader: Callable[[], T]) -> T:
    """What the reader returns; its ValueError or TypeError is a usage error, without the argument's name in front."""
    try:
        return reader()
    except (ValueError, TypeError) as error:
        raise usage(option, re.sub(r"^(method|checks|baseline|target|layer|fields): ", "", str(error))) from error


def read_layer(text: str, model: ImageModel) -> str:
    return _read("--layer", lambda: ", ".join(layer_names(model, text)))


def read_model(name: str, weights: Path | None, option: str = "--model") -> ImageModel:
    """The model, found also in the folder where the user stands. An unknown name is a usage error."""
    if ":" in name and "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return load_model(name, weights=weights)
    except ModelError as error:
        # Where the name is good, it is the weights or the machine that fail.
        if weights is None and not _known(name):
            raise usage(option, error) from error
        raise


def _known(name: str) -> bool:
    return any(name in (each.name, each.name.partition(":")[2]) for each in available_models())
