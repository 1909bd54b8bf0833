"""Tensors that a user gives: their values as plain tensors, or a sentence that says why they have none; and what goes
along with the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.devices import CPU
from ..base.text import Text, TextArguments
from .tensor_files import read_tensor


def as_tensor(values: Any) -> Tensor:
    """Return a tensor as it is, the tensor in a file that is given by name, other values as a tensor on the CPU.

    Arrays, and those of tables that have `to_numpy()`, are copied.
    """
    if isinstance(values, str):
        return read_tensor(values)
    values = values.to_numpy() if callable(getattr(values, "to_numpy", None)) else values
    if isinstance(values, np.ndarray):
        return torch.from_numpy(np.array(values))  # a copy: arrays may be read-only, or change later
    return values if isinstance(values, Tensor) else torch.as_tensor(values, device=CPU)


def batches_of(data: Any, name: str) -> Iterator[Tensor]:
    """Yield the batches `(n, *features)` of a data set, which is one batch unless it is an iterable of such.

    Raises TypeError that begins with `name` for batches that are pairs, as a loader gives them with labels.
    """
    if isinstance(data, Tensor | np.ndarray | str) or hasattr(data, "to_numpy") or _are_numbers(data):
        yield as_tensor(data)
        return
    for batch in data:
        if isinstance(batch, list | tuple) and not _are_numbers(batch):
            kind = f"{type(batch).__name__} of {len(batch)}"
            raise TypeError(f"{name}: a batch is a {kind}; give the inputs alone, such as (x for x, *_ in loader)")
        yield as_tensor(batch)


def _are_numbers(data: Any) -> bool:
    """Return whether lists in any depth hold numbers, and no tensors or arrays."""
    if isinstance(data, list | tuple):
        return all(map(_are_numbers, data[:1]))
    return isinstance(data, int | float | np.number)


class ByValue:
    """Base of frozen dataclasses with tensors, which are equal where their fields hold the same values."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        mine, theirs = vars(self), vars(other)
        return mine.keys() == theirs.keys() and all(_equal(value, theirs[name]) for name, value in mine.items())

    def __hash__(self) -> int:
        return hash((type(self), *(tuple(each.shape) for each in vars(self).values() if isinstance(each, Tensor))))


def _equal(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return isinstance(a, Tensor) is isinstance(b, Tensor) and bool(a == b)
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.cpu(), b.cpu())


def plain(given: Tensor, name: str) -> Tensor:
    """Return the tensor without its graph and its subclass, with its values as they are in memory.

    Raises TypeError or ValueError that begins with `name` for tensors that hold no value at each place.
    """
    kind = type(given).__name__
    if given.is_nested:
        raise TypeError(f"{name}: a nested tensor; give examples of one shape, such as {name}.to_padded_tensor(0.0)")
    if given.layout != torch.strided:
        raise TypeError(f"{name}: {given.layout}; attribution needs a dense tensor, use {name}.to_dense()")
    if given.is_quantized:
        raise TypeError(f"{name}: {given.dtype}; attribution needs floating point, use {name}.dequantize()")
    if given.is_meta:
        raise ValueError(f"{name}: on the device 'meta', whose tensors hold no values; give a tensor with values")
    if type(given).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(f"{name}: {kind}, a tensor that runs operators in its own way; use a plain torch.Tensor")
    with torch._C.DisableTorchFunctionSubclass():
        own = given.detach().as_subclass(Tensor).resolve_neg()
    return own.clone() if own.is_inference() else own


@dataclass(frozen=True, eq=False)
class Given:
    """What the model gets beside the inputs and is not explained: `model(rows, *positional, **named)`.

    A tensor or array with an entry for each of the `batch` examples goes along with its example, as a tensor; all other
    values are the same at each call. `parts`: where the input has several, how a call gets them. `texts`: where rows
    are the embeddings of texts' tokens, the text of each example.
    """

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 0
    parts: Any = None  # a `Parts`, which is made of what stands above this
    texts: tuple[Text, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.positional or self.named or self.parts or self.texts)

    @property
    def embedding(self) -> str | None:
        """The layer whose output the rows are, in place of an input."""
        return self.parts.embedding if self.parts else None

    @staticmethod
    def of(given: Any, batch: int) -> Given:
        """Read the option `given`: a mapping by name, a sequence by position, or one tensor. Raises ValueError."""
        if given is None or isinstance(given, Given):
            return given or Given()
        if isinstance(given, Tensor):
            given = (given,)
        if isinstance(given, Mapping):
            named = {str(name): _carried(each, str(name), batch) for name, each in given.items()}
            found = Given(named=named, batch=batch, texts=given.texts if isinstance(given, TextArguments) else ())
        elif isinstance(given, Sequence) and not isinstance(given, str):
            found = Given(tuple(_carried(each, str(i), batch) for i, each in enumerate(given)), batch=batch)
        else:
            kind = type(given).__name__
            raise TypeError(f"given: {kind}; use a mapping of the model's argument names, or a tuple in their order")
        return found

    def arguments(self, rows: Tensor, examples: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return all arguments for rows of these examples `(rows,)`, by place and by name."""
        placed, named = self._others(examples)
        inputs, parts = self.parts.arguments(rows, examples) if self.parts else ((rows,), {})
        return (*inputs, *placed), {**parts, **named}

    def _others(self, examples: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def own(each: Any) -> Any:
            return each[examples.to(each.device)] if self._belongs(each) else each

        return tuple(map(own, self.positional)), {name: own(each) for name, each in self.named.items()}

    def select(self, index: Sequence[int]) -> Given:
        """Return what belongs to some of the examples; indices may repeat."""
        if not self:
            return self
        chosen = torch.as_tensor(index, dtype=torch.long)
        parts = self.parts.select(chosen) if self.parts else None
        return Given(
            *self._others(chosen), len(index), parts, tuple(self.texts[i] for i in index) if self.texts else ()
        )

    def is_alike(self, first: int, second: int) -> bool:
        """Return whether two examples get the same, so that equal rows of both have equal outputs."""
        parts = (
            () if self.parts is None else (self.parts.values[n] for n in self.parts.values if n not in self.parts.held)
        )
        return all(
            torch.equal(each[first], each[second])
            for each in (*self.positional, *self.named.values(), *parts)
            if self._belongs(each)
        )

    def texts_of(self, examples: Tensor) -> tuple[Text, ...]:
        """Return the text of each of these examples `(rows,)`; nothing where rows are no tokens of texts."""
        return tuple(self.texts[i] for i in examples.tolist()) if self.texts else ()

    def _belongs(self, each: Any) -> bool:
        return isinstance(each, Tensor) and each.ndim > 0


def _carried(value: Any, name: str, batch: int) -> Any:
    value = as_tensor(value) if isinstance(value, np.ndarray) else value
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if len(value) != batch:
        raise ValueError(
            f"given: {name!r} has shape {tuple(value.shape)} for {batch} examples; its first axis must be the "
            "examples (value.expand(batch, ...) for one that they share)"
        )
    return value.detach()
