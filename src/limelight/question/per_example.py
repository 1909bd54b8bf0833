"""Methods, baselines and what they hold, changed in some of their parts: for some of a batch's examples, say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .baselines import Constant
from .players import Segments

T = TypeVar("T")


def rebuilt(thing: T, change: Callable[[Any], Any]) -> T:
    """The dataclass `thing` as `change` makes it, or where that leaves it as it is, with what it holds rebuilt so."""
    found: T = change(thing)
    if found is not thing:
        return found
    parts = {name: (value, rebuilt(value, change)) for name, value in _held(thing)}
    changed = {name: part for name, (value, part) in parts.items() if part is not value}
    return replace(thing, **changed) if changed else thing  # type: ignore[type-var]  # what holds is a dataclass


def for_examples(thing: T, index: Sequence[int], x: Tensor) -> T:
    """A method or a baseline for the examples `index` of the batch `x`, which may repeat.

    Segments and baselines that were given for each example are selected, also inside of what `thing` holds.
    """

    def chosen(part: Any) -> Any:
        match part:
            case Segments() if part.per_example(x):
                return replace(part, map=_of(part.map, index))
            case Constant(value=Tensor() as value) if has_each(value, x):
                return replace(part, value=_of(value, index))
        return part

    return rebuilt(thing, chosen)


def has_each(values: Tensor, x: Tensor) -> bool:
    """Whether `values` hold an entry of each example of the batch `x`, as wide as it or to be broadcast."""
    return values.ndim == x.ndim and len(values) == len(x)


def require_every_example(thing: Any, x: Tensor) -> None:
    """Raise ValueError for segments, also inside of what `thing` holds, that are given for another number of examples
    than the batch `x` has: rows must not take each other's."""
    if isinstance(thing, Segments) and thing.per_example(x) and len(thing.map) != len(x):
        space = tuple(thing.map.shape[1:])
        raise ValueError(
            f"players: Segments.map has shape {tuple(thing.map.shape)} for {len(x)} examples; use {space}, or one for "
            f"each example, {(len(x), *space)}"
        )
    for _, value in _held(thing):
        require_every_example(value, x)


def _of(values: Tensor, index: Sequence[int]) -> Tensor:
    return values[torch.as_tensor(index, device=values.device)]


def _held(thing: Any) -> Iterator[tuple[str, Any]]:
    if is_dataclass(thing) and not isinstance(thing, type):
        yield from ((field.name, getattr(thing, field.name)) for field in fields(thing))
