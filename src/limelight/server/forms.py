"""The page's forms, read off the methods' fields, and what the page sends back, read into what `explain()` takes.

A method added to METHODS is on the page with its settings. A value from the page is a number, a choice, a plain name,
or a quadrature, method or set of players written as in Python; it can't name a file, and no number in it is one that
would take gigabytes, or long beside the model's passes, which alone are counted and stopped.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch

from ..base.named import Registry, read_value
from ..base.types import Arithmetic
from ..base.view import VIEWS, View
from ..methods import METHODS, Method
from ..question import registries
from ..question.baselines import Baseline, Constant
from ..question.output_targets import Function
from ..question.players import Features, Pixels
from ..question.question import require_arithmetic
from ..question.registries import BASELINES, as_baseline
from ..question.targets import Target
from ..question.tensor_files import without_files
from ..rules import Patterns
from ..show.explained import DEFAULT_METHODS

LARGEST_NUMBER = 5000
BOUNDS: Mapping[str, tuple[float, float]] = {
    # By the name of a field, wherever it stands: what memory or time between two passes grows with.
    "cells": (1, 32),  # a side of a grid of players or masks
    "number": (1, 1000),  # of superpixels
    "min_size": (50, LARGEST_NUMBER),  # of a region, in pixels
    "step": (4, LARGEST_NUMBER),  # pixels between bumps, where each meets the (sigma / step)^2 around it
    "sigma": (0, 40),
    "blur": (0, 100),
    "max_sigma": (0, 100),
    "steps": (1, 1000),
    "levels": (2, 32),
    "dilation": (0, 32),
}
MOST_REFERENCES = 16  # of a baseline, which are all held at once
MOST_VALUES = 8  # of a field with several
LONGEST_TEXT = 300  # characters of one field
DEEPEST = 4  # methods inside methods


T = TypeVar("T")


class Refused(ValueError):
    """The request is refused; the message says what would work."""


@cache
def method_forms() -> list[dict[str, Any]]:
    """Return the name, summary, needs and fields of each method."""
    return [
        {
            "name": kind.kebab(),
            "summary": _summary(kind),
            "needs": [each for each in ("gradients", "layer", "baseline") if getattr(kind().needs, each)],
            "fields": [
                {"name": each.name, "default": _text(getattr(kind(), each.name)), **_kind(hint)}
                for each, hint in _offered(kind)
            ],
        }
        for kind in METHODS
    ]


def typed_forms(registry: Registry[Any]) -> list[dict[str, str]]:
    """Return for each class that can be typed `usage`, all its settings, and `text`, the beginning to type."""
    return [
        {"text": kind.kebab() if kind.has_defaults() else f"{kind.kebab()}(", "usage": kind.usage()}
        for kind in registry
        if kind is not Function
    ]


def chosen_methods() -> dict[str, dict[str, str]]:
    """Return the methods that are selected at first, with the fields that differ from their defaults."""
    return {
        method.kebab(): {
            each.name: _text(getattr(method, each.name))
            for each, _ in _offered(type(method))
            if getattr(method, each.name) != getattr(type(method)(), each.name)
        }
        for method in DEFAULT_METHODS
    }


def read_method(name: str, fields: Mapping[str, str]) -> Method:
    """Read a method from its name and its fields, each as text.

    Raises Refused for what is unknown, too large or not offered, and for values that the method doesn't take.
    """
    kind = next((each for each in METHODS if each.kebab() == name), None)
    if kind is None:
        raise Refused(f"method: {name!r} is none of {', '.join(each.kebab() for each in METHODS)}")
    offered = {each.name: hint for each, hint in _offered(kind)}
    unknown = sorted(set(fields) - set(offered))
    if unknown:
        raise Refused(f"{name}: has no field {', '.join(unknown)} here; its fields are {', '.join(offered) or 'none'}")
    try:
        method = kind(**{field: _value(name, field, offered[field], text) for field, text in fields.items()})
    except (ValueError, TypeError) as error:
        raise Refused(str(error)) from error
    _check(method)
    return method


def read_baseline(text: str) -> Baseline:
    """Read a baseline by name, or a number in [-1, 2] in units of pixels. Raises Refused."""
    baseline = _read(as_baseline, text)
    if isinstance(baseline, Constant):
        values = torch.as_tensor(baseline.value)
        if not bool(((values >= -1) & (values <= 2)).all()):
            raise Refused(f"baseline: {text!r}; use a number from -1 to 2, or one of {', '.join(BASELINES.names)}")
    if getattr(baseline, "samples", 1) > MOST_REFERENCES:
        raise Refused(f"baseline: {text!r} makes {baseline.samples} references; use up to {MOST_REFERENCES}")  # type: ignore[attr-defined]
    _check(baseline)
    return baseline


def read_view(text: str, channels: int) -> View | None:
    """Read a view of pictures of so many channels; None for no text. Raises Refused."""
    if not text:
        return None
    view = _read(VIEWS.read, text)
    for band in view.bands or ():
        if not isinstance(band, int) or band > channels:
            raise Refused(f"view: {text!r} shows band {band!r}; use numbers from 1 to {channels}")
    return view


def read_target(text: str, labels: Sequence[str]) -> Target:
    """Read a target by name, or a class by its number or label. Raises Refused."""
    target = _read(lambda given: registries.read_target(given, labels), text)
    _check(target)
    return target


def read_arithmetic(text: str) -> Arithmetic | None:
    """Read the name of an arithmetic; an empty text is None. Raises Refused."""
    if not text:
        return None
    _read(require_arithmetic, text)
    return cast(Arithmetic, text)


def _read(reader: Callable[[str], T], text: str) -> T:
    try:
        with without_files():
            return reader(text)
    except (ValueError, TypeError) as error:
        raise Refused(str(error)) from error


def _summary(kind: type[Method]) -> str:
    """Return the first paragraph of the documentation up to a formula or reference, as plain text."""
    paragraph = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
    return re.split(r"\$|\[\w+\d{4}", paragraph)[0].replace("`", "").rstrip(" ,:;.=")


def _offered(kind: type[Method]) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Yield the fields that a page may set, with their types: no files, and no rules written in Python."""
    for each in dataclasses.fields(kind):
        if each.default == ():
            continue
        owner = next(base for base in kind.__mro__ if each.name in vars(base).get("__annotations__", {}))
        # One at a time: what a field left out is annotated with may be known to type checkers alone.
        names = types.SimpleNamespace(__annotations__={each.name: each.type})
        hint = typing.get_type_hints(names, vars(sys.modules[owner.__module__]))[each.name]
        if Patterns not in _members(hint):
            yield each, hint


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _kind(hint: Any) -> dict[str, Any]:
    """Return the kind of the page's input: a box to tick, a number, a choice, or a line of text."""
    members = _members(hint)
    if members == (bool,):
        return {"kind": "switch"}
    if typing.get_origin(hint) is Literal:
        return {"kind": "choice", "options": list(typing.get_args(hint))}
    if set(members) <= {int, float, type(None)}:
        return {"kind": "number", "whole": float not in members, "optional": type(None) in members}
    return {"kind": "text"}


def _text(value: Any) -> str:
    """Write a default as the page shows it and `_value` reads it."""
    return value if isinstance(value, str) else repr(value)


def _value(name: str, field: str, hint: Any, text: str) -> Any:
    if len(text) > LONGEST_TEXT:
        raise Refused(f"{name}: {field} has {len(text)} characters; use at most {LONGEST_TEXT}")
    value = read_value(text)
    if _kind(hint)["kind"] in ("number", "switch") and not isinstance(value, int | float | None):
        raise Refused(
            f"{name}: {field} is {text!r}; use a number" if bool not in _members(hint) else "use True or False"
        )
    return value


def _check(value: Any, name: str = "", depth: int = 0) -> None:
    """Raise Refused for a number out of bounds in the field `name`, for deep nesting, and for inner methods with
    settings that the page may not set."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        least, most = BOUNDS.get(name, (-LARGEST_NUMBER, LARGEST_NUMBER))
        if not least <= value <= most:
            raise Refused(f"{name}: {value!r} is beyond what a page may ask for; use {least} to {most}")
    elif isinstance(value, Path):
        raise Refused(
            f"{name or 'file'}: a page reads no files of its server; give a region from Python or the command line"
        )
    elif isinstance(value, tuple):
        if len(value) > MOST_VALUES:
            raise Refused(f"{name}: {len(value)} values are more than a page may ask for; use up to {MOST_VALUES}")
        for each in value:
            _check(each, name, depth)
    elif dataclasses.is_dataclass(value):
        if depth > DEEPEST:
            raise Refused(f"methods inside methods more than {DEEPEST} deep")
        if isinstance(value, Features | Pixels):
            raise Refused(f"{value!r} are too many players for a page; use Grid({BOUNDS['cells'][1]}) or Slic()")
        offered = {each.name for each, _ in _offered(type(value))} if isinstance(value, Method) else None
        for each in dataclasses.fields(value):
            if offered is None or each.name in offered:
                _check(getattr(value, each.name), each.name, depth + 1)
            elif getattr(value, each.name) != each.default:
                raise Refused(f"{type(value).__name__}.{each.name} can't be set from the page")
