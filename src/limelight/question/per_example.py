"""Selection of examples from methods and baselines whose settings hold a value for each example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .baselines import Baseline, Constant
from .players import Players, Segments

T = TypeVar("T")


def rebuilt(thing: T, change: Callable[[Any], Any]) -> T:
    """Return `change(thing)`. If that is `thing` itself, apply `change` to the fields of the dataclass, recursively."""
    found: T = change(thing)
    if found is not thing:
        return found
    parts = {name: (value, rebuilt(value, change)) for name, value in _held(thing)}
    changed = {name: part for name, (value, part) in parts.items() if part is not value}
    return replace(thing, **changed) if changed else thing  # type: ignore[type-var]  # only dataclasses have parts


def fitted(thing: T, model: Any) -> T:
    """Return a method, check or baseline whose baselines, also in nested fields, are those of the model."""
    return rebuilt(thing, lambda part: part.fitted(model) if isinstance(part, Baseline) else part)


def named(thing: T, names: Sequence[str]) -> T:
    """Return a method, check or baseline whose players, also in nested fields, know the names of the columns."""
    return rebuilt(thing, lambda part: part.named(names) if isinstance(part, Players) else part)


def for_examples(thing: T, index: Sequence[int], x: Tensor) -> T:
    """Return a method or baseline for the examples `index` of the batch `x`; indices may repeat.

    Selects from segments and baselines that hold an entry for each example, also in nested fields.
    """

    def chosen(part: Any) -> Any:
        match part:
            case Segments() if part.per_example(x):
                return replace(part, map=_of(part.map, index))
            case Constant(value=Tensor() as value) if has_each(value, x):
                return replace(part, value=_of(value, index))
            case Baseline():
                return part.for_examples(index)
        return part

    return rebuilt(thing, chosen)


def has_each(values: Tensor, x: Tensor) -> bool:
    """Return whether `values` hold an entry for each example of the batch `x`."""
    return values.ndim == x.ndim and len(values) == len(x)


def require_every_example(thing: Any, x: Tensor) -> None:
    """Raise ValueError for segments, also in nested fields, of another number of examples than the batch `x` has."""
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
