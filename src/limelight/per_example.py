"""Methods and baselines that hold something of each example of a batch, asked about some of its examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .baselines import Constant
from .players import Segments

T = TypeVar("T")


def for_examples(thing: T, index: Sequence[int], x: Tensor) -> T:
    """A method or a baseline for the examples `index` of the batch `x`, which may repeat.

    Segments and baselines that were given for each example are selected, also inside of what `thing` holds.
    """
    changed: dict[str, Any] = {}
    match thing:
        case Segments() if thing.per_example(x):
            changed = {"map": _of(thing.map, index)}
        case Constant(value=Tensor() as value) if value.ndim == x.ndim and len(value) == len(x):
            changed = {"value": _of(value, index)}
        case _:
            parts = {name: (value, for_examples(value, index, x)) for name, value in _held(thing)}
            changed = {name: part for name, (value, part) in parts.items() if part is not value}
    return replace(thing, **changed) if changed else thing  # type: ignore[type-var]  # what is held in is a dataclass


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
