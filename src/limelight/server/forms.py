"""The page's forms, read off the methods' fields, and what the page sends back, read into what `explain()` takes.

A method added to METHODS is on the page with its settings. A value from the page is a number, a choice, a plain name,
or a quadrature, method or set of players written as in Python; it can't name a file, and no number in it is one that
would take gigabytes, or long beside the model's passes, which alone are counted and stopped.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch

from ..base.named import Named, Registry, read_value
from ..base.types import Arithmetic
from ..base.view import VIEWS, View
from ..methods import METHODS, QUADRATURES, Method
from ..methods.families import family_of
from ..question import registries
from ..question.baselines import Baseline, Constant
from ..question.output_targets import Function
from ..question.players import Features, Pixels, Segments
from ..question.question import require_arithmetic
from ..question.registries import BASELINES, PLAYERS, as_baseline
from ..question.targets import Target
from ..question.tensor_files import without_files
from ..rules import COMPOSITES, Patterns
from ..rules.engine import Propagation

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
    "tokens": (1, 32),  # that a model goes on with by itself, each of which is a pass
}
MOST_REFERENCES = 16  # of a baseline, which are all held at once
MOST_VALUES = 8  # of a field with several
LONGEST_TEXT = 300  # characters of one field
DEEPEST = 4  # methods inside methods
_REGISTRIES: tuple[Registry[Any], ...] = (METHODS, QUADRATURES, PLAYERS)
_NOT_OFFERED = (Features, Pixels, Segments)  # too many players for a page, or a file's


PHOTOGRAPH = torch.Size((3, 224, 224))

T = TypeVar("T")


class Refused(ValueError):
    """The request is refused; the message says what would work."""


@cache
def method_forms(features: torch.Size = PHOTOGRAPH) -> list[dict[str, Any]]:
    """Return the name, family, summary, needs, cost and fields of each method, for inputs of the shape `features`.

    `rows`: the model evaluations of one map, at least so many unless `exact`.
    """
    return [
        {
            "name": kind.kebab(),
            "family": family_of(kind),
            "summary": kind.plain_summary().removesuffix("."),
            "needs": [each for each in ("gradients", "layer", "baseline") if getattr(kind().needs, each)],
            "rows": kind().rows_at_least(features),
            "exact": kind().rows(features) is not None and not kind.rows_at_most,
            "fields": _fields(kind),
        }
        for kind in METHODS
    ]


def _fields(kind: type[Named], depth: int = 0) -> list[dict[str, Any]]:
    """Describe the settings of a class that can be made by its name alone."""
    default = kind()
    return [
        {"name": each.name, "default": _text(getattr(default, each.name)), **_kind(hint, each.name, depth)}
        | ({"chosen": _chosen(getattr(default, each.name))} if _registry_of(hint) else {})
        for each, hint in _offered(kind)
    ]


def _chosen(value: Any) -> str:
    """Return the class of a value that a named field begins with; "" for None."""
    return "" if value is None else type(value).__name__


def typed_forms(registry: Registry[Any]) -> list[dict[str, str]]:
    """Return for each class that can be typed `usage`, all its settings, and `text`, the beginning to type."""
    return [
        {"text": kind.kebab() if kind.has_defaults() else f"{kind.kebab()}(", "usage": kind.usage()}
        for kind in registry
        if kind is not Function
    ]


def chosen_methods(methods: Sequence[Method]) -> dict[str, dict[str, str]]:
    """Return the fields of each method that differ from their defaults, by the method's name."""
    return {
        method.kebab(): {
            each.name: _text(getattr(method, each.name))
            for each, _ in _offered(type(method))
            if getattr(method, each.name) != getattr(type(method)(), each.name)
        }
        for method in methods
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


def _offered(kind: type[Named]) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Yield the fields that a page may set, with their types: no files, and no rules written in Python."""
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]  # every Named that is registered is a dataclass
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


def _kind(hint: Any, name: str = "", depth: int = 0) -> dict[str, Any]:
    """Return the kind of the page's input.

    A box to tick, a number, a choice, a layer, a value of a registry with fields of its own ("named"), or numbers.
    """
    members = _members(hint)
    if name == "layer":
        return {"kind": "layer"}
    if Propagation in members:
        return {"kind": "choice", "options": list(COMPOSITES)}
    if (registry := _registry_of(hint)) is not None:
        base = next(each for each in members if _is_based(each, registry.base))
        options = [kind for kind in registry if issubclass(kind, base) and kind not in _NOT_OFFERED]
        named = [{"name": each.__name__, "label": each.kebab()} for each in options]
        if depth == 0 and registry is not METHODS:  # whose fields the form has already
            named = [{**each, "fields": _fields(kind, 1)} for each, kind in zip(named, options, strict=True)]
        return {"kind": "named", "options": named, "optional": type(None) in members}
    if members == (bool,):
        return {"kind": "switch"}
    if typing.get_origin(hint) is Literal:
        return {"kind": "choice", "options": list(typing.get_args(hint))}
    if set(members) <= {int, float, type(None)}:
        return {"kind": "number", "whole": float not in members, "optional": type(None) in members}
    return {"kind": "numbers"}


def _registry_of(hint: Any) -> Registry[Any] | None:
    """Return the registry that a field's values come from; None for numbers, text and tensors."""
    members = _members(hint)
    return next((each for each in _REGISTRIES if any(_is_based(one, each.base) for one in members)), None)


def _is_based(hint: Any, base: type) -> bool:
    return isinstance(hint, type) and issubclass(hint, base)


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
