"""Baselines define "absent": a baseline turns inputs into one or more references for each example."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import Named, is_whole, require, require_number, require_whole
from .given import as_tensor, batches_of, plain
from .random_streams import Streams


class Baseline(Named, ABC):
    """Base of all baselines."""

    @abstractmethod
    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        """Return references `(references, batch, *features)` for inputs `(batch, *features)`.

        A reference that is equal for all examples is returned expanded, so that the model runs it once.
        """

    def fitted(self, model: Any) -> Self:
        """Return the baseline with what the model decides, such as the embedding of a token."""
        return self

    def for_examples(self, index: Sequence[int]) -> Self:
        """Return the baseline for some of the examples, where it knows the batch that it is for; indices may repeat."""
        return self


@dataclass(frozen=True, eq=False)
class Constant(Baseline):
    """One number, or a tensor that broadcasts to the inputs."""

    value: float | Tensor = 0.0

    def __post_init__(self) -> None:
        require(not isinstance(self.value, str), self, "value", "a number, a tensor, an array or a list")

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        if isinstance(self.value, Tensor):
            value = plain(self.value, "baseline").to(inputs.device, inputs.dtype)
        else:  # at once: by way of float32 a number would be rounded
            value = torch.as_tensor(self.value, dtype=inputs.dtype, device=inputs.device)
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"baseline: {self.value!r} holds NaN or infinity")
        try:
            same = value.broadcast_to(inputs.shape)
        except RuntimeError as error:
            given, shape = tuple(value.shape), tuple(inputs.shape)
            hint = "; of a data set use Samples(data, n) or Mean(data)" if given[1:] == shape[1:] else ""
            raise ValueError(f"baseline: shape {given} does not broadcast to inputs of shape {shape}{hint}") from error
        return same[None]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant):
            return NotImplemented
        mine, theirs = as_tensor(self.value), as_tensor(other.value)
        return type(self) is type(other) and mine.shape == theirs.shape and bool((mine == theirs).all())

    def __hash__(self) -> int:
        return hash((type(self), as_tensor(self.value).sum().item()))


@dataclass(frozen=True, eq=False)
class Black(Constant):
    """The darkest pixel, 0 where inputs are pixels in [0, 1]. Give `value` for another pixel space."""

    value: float | Tensor = 0.0


@dataclass(frozen=True, eq=False)
class White(Constant):
    """The brightest pixel, 1 where inputs are pixels in [0, 1]."""

    value: float | Tensor = 1.0


@dataclass(frozen=True)
class Minimum(Baseline):
    """Each example's own lowest value, at every position. It moves with a constant added to the input.

    It equals black for a picture that contains black. [kindermans2019]
    """

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        low = inputs.flatten(1).amin(1).view(-1, *[1] * (inputs.ndim - 1))
        return low.expand_as(inputs)[None]


@dataclass(frozen=True)
class Noise(Baseline):
    r"""`samples` random pictures for each example: "uniform" on [low, high], or "gaussian" around the middle.

    The standard deviation of "gaussian" is a quarter of the range. The same (seed, example) gives the same pictures.
    """

    kind: Literal["uniform", "gaussian"] = "uniform"
    seed: int = 0
    samples: int = 1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        require(self.kind in ("uniform", "gaussian"), self, "kind", "'uniform' or 'gaussian'")
        require_whole(self, "samples", 1)
        require(self.low < self.high, self, "low", f"a number below Noise.high={self.high}")

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        own = streams.fork(f"noise {self.seed}")
        draw = own.uniform if self.kind == "uniform" else own.normal
        draws = torch.stack([draw(i, inputs.shape[1:], inputs) for i in range(self.samples)])
        if self.kind == "uniform":
            return self.low + (self.high - self.low) * draws
        return (self.low + self.high) / 2 + (self.high - self.low) / 4 * draws


@dataclass(frozen=True)
class Blur(Baseline):
    """The input, blurred along its spatial axes by a Gaussian of `sigma` pixels."""

    sigma: float = 10.0

    def __post_init__(self) -> None:
        require_number(self, "sigma", lambda sigma: sigma > 0, "a positive, finite number of pixels")

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        return gaussian_blur(inputs, self.sigma)[None]


def gaussian_blur(inputs: Tensor, sigma: float) -> Tensor:
    """Blur `(batch, channels, *space)` along each spatial axis. Edge values are repeated beyond the border.

    The kernel extends to four standard deviations. Raises ValueError for inputs without spatial axes.
    """
    if inputs.ndim < 3:
        raise ValueError(f"baseline: Blur needs spatial axes, inputs have shape {tuple(inputs.shape)}")
    radius = max(1, math.ceil(4 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=inputs.dtype, device=inputs.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    blurred = inputs
    for axis in range(2, inputs.ndim):
        lines = blurred.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        blurred = F.conv1d(flat, kernel).reshape(lines.shape).movedim(-1, axis)
    return blurred.contiguous()


@dataclass(frozen=True, eq=False)
class Mean(Baseline):
    """The mean of a data set: a tensor, array or list `(n, *features)`, the file of a tensor, or an iterable of such
    batches, which is read once."""

    data: Tensor | Iterable[Tensor]
    mean: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        total, count = torch.zeros((), dtype=torch.float64, device="cpu"), 0
        for batch in batches_of(self.data, "baseline"):
            total, count = total + batch.double().sum(0).cpu(), count + len(batch)
        if count == 0:
            raise ValueError("baseline: Mean.data holds no example")
        object.__setattr__(self, "mean", total / count)
        object.__setattr__(self, "data", self.mean[None])  # frees the data set

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        _require_examples("Mean", self.mean.shape, inputs)
        return Constant(self.mean).references(inputs, streams)


@dataclass(frozen=True, eq=False)
class Median(Baseline):
    """The median of each number over a data set: a tensor, array or list `(n, *features)`, the file of a tensor, or an
    iterable of such batches.

    For columns of a table that a few large values would pull the mean of. Of an even number the mean of the middle two.
    Of one-hot columns it is the category that more than half have, and 0 everywhere where none is: `Samples(data)`
    takes categories as they are.
    """

    data: Tensor | Iterable[Tensor]
    median: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        every = [batch.double().cpu() for batch in batches_of(self.data, "baseline") if len(batch)]
        if not every:
            raise ValueError("baseline: Median.data holds no example")
        rows = torch.cat(every).sort(0).values
        object.__setattr__(self, "median", (rows[(len(rows) - 1) // 2] + rows[len(rows) // 2]) / 2)
        object.__setattr__(self, "data", self.median[None])  # frees the data set

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        _require_examples("Median", self.median.shape, inputs)
        return Constant(self.median).references(inputs, streams)


@dataclass(frozen=True, eq=False)
class Samples(Baseline):
    """`n` references for each example, drawn without replacement from `data` `(m, *features)`, a tensor, array or list,
    or the file of a tensor."""

    data: Tensor
    n: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", as_tensor(self.data))
        fits = is_whole(self.n, 1) and self.n <= len(self.data)
        require(fits, self, "n", f"a whole number from 1 to {len(self.data)}, the number of examples in data")

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        _require_examples("Samples", self.data.shape[1:], inputs)
        chosen = streams.permutation("samples", len(self.data))[:, : self.n]
        return plain(self.data, "baseline")[chosen.T].to(inputs)


def _require_examples(name: str, shape: Sequence[int], inputs: Tensor) -> None:
    """Raise ValueError unless the examples of a data set have the shape of the inputs'."""
    if tuple(shape) != tuple(inputs.shape[1:]):
        raise ValueError(
            f"baseline: {name}.data holds examples of shape {tuple(shape)}, the inputs' are {tuple(inputs.shape[1:])}; "
            "the first axis of data, or of each of its batches, is the examples"
        )
