"""Classes as a user gives them: a number, one for each example, or a table of examples x classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

Index = int | tuple[int, ...] | tuple[tuple[int, ...], ...] | None


def class_indices(index: Sequence[Any]) -> Index:
    nested = [_holds_several(each) for each in index]
    if not any(nested):
        return tuple(class_index(each) for each in index)
    widths = {len(each) if is_nested else None for each, is_nested in zip(index, nested, strict=True)}
    if len(widths) > 1 or 0 in widths:
        raise ValueError(
            f"target: {list(index)!r} is not a table of examples x classes; give every example as many classes"
        )
    table = tuple(tuple(class_index(each) for each in some) for some in index)
    _refuse_indicators(table)
    return table


def _holds_several(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str)


def _refuse_indicators(table: tuple[tuple[int, ...], ...]) -> None:
    """Raise ValueError for a table of 0 and 1 with three columns or more: one-hot labels, or several-hot ones.

    Read as classes it would name the same class twice in each row. Two columns may be the classes 0 and 1.
    """
    if len(table[0]) < 3 or any(each not in (0, 1) for row in table for each in row):
        return
    shape = f"{len(table)} x {len(table[0])}"
    if all(sum(row) == 1 for row in table):
        classes = [row.index(1) for row in table]
        shown = f"{classes[:8]!r}" + (" and so on" if len(classes) > 8 else "")
        raise ValueError(
            f"target: a one-hot table {shape}; give the classes themselves, target={shown}, as from table.argmax(1)"
        )
    raise ValueError(
        f"target: a table {shape} of 0 and 1 is read as numbers of classes, and these are the same ones again and "
        "again; give the numbers of the classes that are marked, as many for each example"
    )


def class_index(value: Any) -> Any:
    """Return a class's number, checked; a label is returned as it is, for `as_target` to look up."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"target: a class is an integer or a label, not {value!r} ({type(value).__name__})")
    index = int(value.__index__())
    if index < 0:
        raise ValueError(f"target: class {index} is negative; classes count from 0")
    return index
