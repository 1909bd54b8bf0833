"""Methods by name: what a user may type, in Python or on the command line."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

from ..question.players import PLAYERS
from . import METHODS, QUADRATURES
from .base import Method


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


_CALLABLES: Mapping[str, type] = {_plain(each.__name__): each for each in (*METHODS, *QUADRATURES, *PLAYERS)}


def parse_method(text: str) -> Method:
    """Read `"smooth-grad"` or `"SmoothGrad(IntegratedGradients(Midpoint(16)), samples=8)"`.

    Names may be in kebab-case or as the class is written; arguments are numbers, strings, tuples, None, True, False
    and further methods, quadratures or players. Nothing is evaluated. Raises ValueError with the nearest names.
    """
    name, bracket, rest = text.strip().partition("(")
    # Hyphens are legal in a name here but not in Python: only those before the first argument are names.
    inner = re.sub(r"(?<=[A-Za-z])-(?=[A-Za-z])", "_", rest) if bracket and not re.search(r"['\"]", rest) else rest
    try:
        tree = ast.parse(re.sub("-", "_", name) + bracket + inner, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"method: cannot read {text!r}; write for example 'smooth-grad(samples=8)'") from error
    found = _build(tree, text)
    if isinstance(found, type):
        found = found()
    if not isinstance(found, Method):
        raise ValueError(f"method: {text!r} is a {type(found).__name__}, not a method")
    return found


def parse_value(text: str) -> Any:
    """A field's value: a number, True, False, None, a tuple, a quadrature, a method, or else the text itself."""
    try:
        return _instance(_build(ast.parse(text.strip(), mode="eval").body, text))
    except (SyntaxError, ValueError):
        pass
    try:
        return parse_method(text)  # in kebab-case
    except ValueError:
        return text.strip()


def _build(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Name(id=name):
            return _named(name)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            kind = _named(name)
            values = [_instance(_build(arg, text)) for arg in args]
            named = {k.arg: _instance(_build(k.value, text)) for k in keywords if k.arg}
            try:
                return kind(*values, **named)
            except TypeError as error:
                fields = ", ".join(each.name for each in dataclasses.fields(kind)) or "none"
                raise ValueError(f"method: {text!r}: {error}; fields of {kind.__name__}: {fields}") from error
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return tuple(_instance(_build(element, text)) for element in elements)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(f"method: cannot read {ast.unparse(node)!r} in {text!r}") from error


def _instance(value: Any) -> Any:
    return value() if isinstance(value, type) else value


def _named(name: str) -> type:
    found = _CALLABLES.get(_plain(name))
    if found is None:
        known = [method.kebab() for method in METHODS]
        near = difflib.get_close_matches(name.replace("_", "-"), known, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"method: {name.replace('_', '-')!r} is unknown; {hint}")
    return found
