"""Checks by name: what a user may type."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable
from dataclasses import fields

from . import CHECKS
from .base import Check


def as_checks(asked: Iterable[Check | type[Check] | str] | Check | type[Check] | str) -> tuple[Check, ...]:
    """Read checks, their classes or names. Raises ValueError or TypeError that names what would have worked."""
    several = asked if isinstance(asked, Iterable) and not isinstance(asked, str) else [asked]
    found = tuple(map(_as_check, several))
    if not found:
        raise ValueError("checks: an empty sequence; name at least one check")
    return found


def _as_check(asked: Check | type[Check] | str) -> Check:
    if isinstance(asked, Check):
        return asked
    if isinstance(asked, type) and issubclass(asked, Check):
        return asked()
    if isinstance(asked, str):
        return parse_check(asked)
    raise TypeError(f"checks: {asked!r} is not a check; use for example ll.Completeness() or 'completeness'")


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def parse_check(text: str) -> Check:
    """Read `"deletion"` or `"Deletion(steps=16)"`; arguments are plain values. Nothing is evaluated."""
    name, bracket, rest = text.strip().partition("(")
    kinds = {_plain(each.__name__): each for each in CHECKS}
    kind = kinds.get(_plain(name))
    if kind is None:
        known = [each.kebab() for each in CHECKS]
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"checks: {name.strip()!r} is unknown; {hint}")
    if not bracket:
        return kind()
    try:
        call = ast.parse(f"check({rest}", mode="eval").body
        if not isinstance(call, ast.Call):
            raise SyntaxError("no call")
        values = [ast.literal_eval(each) for each in call.args]
        named = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg}
        return kind(*values, **named)
    except (SyntaxError, TypeError) as error:
        settings = ", ".join(each.name for each in fields(kind)) or "none"
        raise ValueError(f"checks: cannot read {text!r} ({error}); settings of {kind.kebab()}: {settings}") from error
