"""Options as a person types them, read into what `explain()` takes. Every refusal names what would have worked."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import typer

from ..engine.layers import layer_names
from ..methods import Method
from ..methods.parse import parse_method
from ..models.catalogue import ImageModel, ModelError, available_models, load_model
from ..question.baselines import BASELINES, Baseline, Constant
from .terminal import visible

_MOST_CANDIDATES = 12


def usage(option: str, message: object) -> typer.BadParameter:
    """Exit code 2, with a message that names the option."""
    return typer.BadParameter(visible(message), param_hint=option)


def read_methods(texts: Iterable[str]) -> tuple[Method, ...]:
    """`["gradient,smooth-grad(samples=8)", "occlusion"]` as three methods."""
    try:
        return tuple(parse_method(part) for text in texts for part in split_methods(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise usage("--method", str(error).removeprefix("method: ")) from error


def split_methods(text: str) -> list[str]:
    """Split at commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def read_baseline(text: str) -> Baseline:
    name = text.strip().lower()
    if name in BASELINES:
        return BASELINES[name]()
    try:
        value = float(name)
    except ValueError:
        near = difflib.get_close_matches(name, BASELINES, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise usage("--baseline", f"{text!r} is not one of {', '.join(BASELINES)}, or a number{hint}") from None
    if not abs(value) < float("inf"):
        raise usage("--baseline", f"{text!r} is not finite; pixels run from 0 (black) to 1 (white)")
    return Constant(value)


def read_baselines(text: str) -> tuple[Baseline, ...]:
    """`"black,white,0.5"` as three baselines."""
    return tuple(read_baseline(part) for part in text.split(","))


def read_target(text: str, labels: Sequence[str]) -> int:
    """A class by its number, or by words that fit one label: the whole of it, else a word in it, else a part of it."""
    words = text.strip().casefold()
    if re.fullmatch(r"[-+]?\d+", words):
        index = int(words)
        if index < 0 or (labels and index >= len(labels)):
            most = f"0 to {len(labels) - 1}" if labels else "0 or more"
            raise usage("--target", f"{index} is not a class of the model; use {most}, or a label")
        return index
    if not labels:
        raise usage("--target", f"{text!r}: this model has no labels; use the number of a class")
    if not words:
        raise usage("--target", "an empty label; use the number of a class or its label")
    folded = [label.casefold() for label in labels]
    whole_word = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)")
    for found in (
        [i for i, label in enumerate(folded) if words in (label, *(part.strip() for part in label.split(",")))],
        [i for i, label in enumerate(folded) if whole_word.search(label)],
        [i for i, label in enumerate(folded) if words in label],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(f"{i} {labels[i]}" for i in found[:_MOST_CANDIDATES])
            more = f" and {len(found) - _MOST_CANDIDATES} more" if len(found) > _MOST_CANDIDATES else ""
            raise usage("--target", f"{text!r} fits {len(found)} classes; use a number: {shown}{more}")
    near = difflib.get_close_matches(words, folded, n=4, cutoff=0.5)
    hint = "; nearest: " + ", ".join(f"{folded.index(each)} {labels[folded.index(each)]}" for each in near)
    raise usage("--target", f"no class is called {text!r}{hint if near else ''}")


def read_layer(text: str, model: ImageModel) -> str:
    try:
        return ", ".join(layer_names(model, text))
    except ValueError as error:
        raise usage("--layer", str(error).removeprefix("layer: ")) from error


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
