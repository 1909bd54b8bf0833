"""Checks of settings, and how errors and reprs write their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

MOST_NUMBERS = 64  # in a tensor that is written as text
WHOLE = 2**63  # what a 64-bit number cannot hold any more
_LONGEST = 60  # digits of a number that an error writes out


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


def require_sizes(kind: type, settings: Mapping[str, object]) -> None:
    """Raise ValueError for a whole number that no 64-bit number holds, whatever setting of the class it is given for.

    To be called before the settings are read: such a number has no value as a float, and most checks ask for one.
    """
    for name, value in settings.items():
        if any(isinstance(each, int) and not -WHOLE <= each < WHOLE for each in _numbers(value)):
            raise ValueError(f"{kind.__name__}.{name}={shown(value)}: use a number below 2**63")


def require_finite(thing: object, names: Iterator[str]) -> None:
    """Raise ValueError for a setting that is NaN or infinite, or holds such a number."""
    for name in names:
        found = (each for each in _numbers(getattr(thing, name)) if isinstance(each, float | np.floating))
        require(all(map(math.isfinite, found)), thing, name, "a finite number")


def _numbers(value: object) -> Iterator[object]:
    """Yield the value, or what tuples and lists hold."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from _numbers(each)
    else:
        yield value


def shown(value: object) -> str:
    """Write a value for an error; a tensor as its shape and dtype, and a long number by its size."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, nn.Module):
        return f"a module {type(value).__name__}"
    if isinstance(value, int) and abs(value) >= 10**_LONGEST:
        return f"{'-' * (value < 0)}1e+{int(math.log10(abs(value)))}"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(shown, value))}{',' * (len(value) == 1)})"
    return repr(value)


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
