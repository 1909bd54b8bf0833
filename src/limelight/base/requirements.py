"""Checks of settings, and how errors and reprs write their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

MOST_NUMBERS = 64  # in a tensor that is written as text


def brief(value: Any) -> str:
    """Return a repr with the size of each tensor of more than 64 numbers in place of its numbers."""
    match value:
        case Tensor() if value.numel() > MOST_NUMBERS:
            return f"Tensor({' x '.join(map(str, value.shape))})"
        case tuple():
            return f"({', '.join(map(brief, value))}{',' * (len(value) == 1)})"
        case list():
            return f"[{', '.join(map(brief, value))}]"
    return repr(value)


def require(condition: bool, thing: object, field: str, wanted: str) -> None:
    """Raise ValueError with the setting, its value and the wanted values unless `condition` holds."""
    if not condition:
        raise ValueError(f"{type(thing).__name__}.{field}={shown(getattr(thing, field))}: use {wanted}")


def shown(value: object) -> str:
    """Write a value for an error; a tensor as its shape and dtype."""
    return f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else repr(value)


def is_whole(value: Any, least: int) -> bool:
    """Return whether a setting is a whole number of `least` or more."""
    return isinstance(value, int | np.integer) and bool(value >= least)


def is_finite(value: Any) -> bool:
    """Return whether a setting is a finite number."""
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)


def require_whole(thing: object, field: str, least: int) -> None:
    """Raise ValueError unless the setting is a whole number of `least` or more."""
    require(is_whole(getattr(thing, field), least), thing, field, f"a whole number of {least} or more")


def require_number(thing: object, field: str, fits: Callable[[float], bool], wanted: str) -> None:
    """Raise ValueError unless the setting is a finite number for which `fits` is true."""
    value = getattr(thing, field)
    require(is_finite(value) and fits(value), thing, field, wanted)


def require_tolerance(thing: object) -> None:
    """Raise ValueError unless the setting `tolerance` is a positive number or None."""
    if vars(thing)["tolerance"] is not None:
        require_number(thing, "tolerance", lambda value: value > 0, "a positive number or None")


def require_steadiness(thing: object) -> None:
    """Raise ValueError unless the setting `steadiness` is a correlation between 0 and 1, or None."""
    if vars(thing)["steadiness"] is not None:
        require_number(thing, "steadiness", lambda value: 0 < value < 1, "a correlation below 1, such as 0.95, or None")
