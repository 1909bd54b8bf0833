"""Baselines: what "absent" means. A baseline turns inputs into one or more references for each example."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import Named
from .random_streams import Streams


class Baseline(Named, ABC):
    """Inputs `(batch, *features)` to references `(references, batch, *features)`.

    A result that is the same for every example is returned expanded, so that it is evaluated once.
    """

    @abstractmethod
    def references(self, inputs: Tensor, streams: Streams) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Constant(Baseline):
    """One number, or a tensor that broadcasts to the inputs."""

    value: float | Tensor = 0.0

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        value = torch.as_tensor(self.value, dtype=inputs.dtype, device=inputs.device)
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"baseline: {self.value!r} holds NaN or infinity")
        try:
            same = value.broadcast_to(inputs.shape)
        except RuntimeError as error:
            raise ValueError(
                f"baseline: shape {tuple(value.shape)} does not broadcast to inputs of shape {tuple(inputs.shape)}"
            ) from error
        return same[None]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant):
            return NotImplemented
        mine, theirs = torch.as_tensor(self.value), torch.as_tensor(other.value)
        return type(self) is type(other) and mine.shape == theirs.shape and bool((mine == theirs).all())

    def __hash__(self) -> int:
        return hash((type(self), torch.as_tensor(self.value).sum().item()))


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
    """The lowest value of each example itself, everywhere: a reference that moves when the input is shifted.

    Black where a picture has black in it; unlike black it is the same picture after any constant is added to both.
    [kindermans2019]
    """

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        low = inputs.flatten(1).amin(1).view(-1, *[1] * (inputs.ndim - 1))
        return low.expand_as(inputs)[None]


@dataclass(frozen=True)
class Noise(Baseline):
    r"""Random pictures: "uniform" on [low, high], or "gaussian" with the mean of that range and a quarter of it
    as standard deviation. `samples` references each, the same for the same (seed, example)."""

    kind: Literal["uniform", "gaussian"] = "uniform"
    seed: int = 0
    samples: int = 1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "gaussian"):
            raise ValueError(f"baseline: Noise.kind={self.kind!r}; use 'uniform' or 'gaussian'")
        if self.samples < 1:
            raise ValueError(f"baseline: Noise.samples={self.samples}; use 1 or more")
        if not self.high > self.low:
            raise ValueError(f"baseline: Noise.low={self.low} must be below Noise.high={self.high}")

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        own = streams.fork(f"noise {self.seed}")
        if self.kind == "uniform":
            draws = [own.uniform(i, inputs.shape[1:], inputs) for i in range(self.samples)]
            return self.low + (self.high - self.low) * torch.stack(draws)
        draws = [own.normal(i, inputs.shape[1:], inputs) for i in range(self.samples)]
        return (self.low + self.high) / 2 + (self.high - self.low) / 4 * torch.stack(draws)


@dataclass(frozen=True)
class Blur(Baseline):
    """The input itself, blurred by a Gaussian of `sigma` pixels over its spatial axes (edges repeated)."""

    sigma: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"baseline: Blur.sigma={self.sigma}; use a positive, finite number of pixels")

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        return gaussian_blur(inputs, self.sigma)[None]


def gaussian_blur(inputs: Tensor, sigma: float) -> Tensor:
    """Blur `(batch, channels, *space)` along each spatial axis, edge values repeated beyond the border.

    The kernel reaches four standard deviations. Raises ValueError for inputs without spatial axes.
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
    """The mean of a data set: a tensor `(n, *features)` or an iterable of such batches (read once, here)."""

    data: Tensor | Iterable[Tensor]
    mean: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        batches = [self.data] if isinstance(self.data, Tensor) else map(torch.as_tensor, self.data)
        total, count = torch.zeros((), dtype=torch.float64), 0
        for batch in batches:
            total, count = total + batch.double().sum(0).cpu(), count + len(batch)
        if count == 0:
            raise ValueError("baseline: Mean.data holds no example")
        object.__setattr__(self, "mean", total / count)
        object.__setattr__(self, "data", self.mean[None])  # the rest of the data isn't needed again

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        return Constant(self.mean).references(inputs, streams)


@dataclass(frozen=True, eq=False)
class Samples(Baseline):
    """`n` references for each example, drawn without replacement from `data` `(m, *features)`."""

    data: Tensor
    n: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", torch.as_tensor(self.data))
        if not 1 <= self.n <= len(self.data):
            raise ValueError(f"baseline: Samples.n={self.n}, but data holds {len(self.data)} examples")

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        if self.data.shape[1:] != inputs.shape[1:]:
            raise ValueError(
                f"baseline: Samples.data holds examples of shape {tuple(self.data.shape[1:])}, "
                f"the inputs' are {tuple(inputs.shape[1:])}"
            )
        chosen = streams.permutation("samples", len(self.data))[:, : self.n]
        return self.data[chosen.T].to(inputs)
