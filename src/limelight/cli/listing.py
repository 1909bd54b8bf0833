"""What `limelight methods` lists."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from ..methods import METHODS, Method


def method_documents() -> list[dict[str, Any]]:
    """A line for each of METHODS, read off its class."""
    return [_method_document(kind) for kind in METHODS]


def _method_document(kind: type[Method]) -> dict[str, Any]:
    method = kind()
    needs = method.needs
    return {
        "name": kind.kebab(),
        "class": kind.__name__,
        "summary": (inspect.getdoc(kind) or "").partition("\n")[0],
        "fields": {each.name: repr(getattr(method, each.name)) for each in dataclasses.fields(method)},
        "needs": [need for need in ("gradients", "layer", "baseline") if getattr(needs, need)],
        "complete": method.no_sum is None,
    }
