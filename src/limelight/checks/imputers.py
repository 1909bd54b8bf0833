"""Imputers: replacements for hidden pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import Named, Registry
from ..question.baselines import Baseline
from ..question.random_streams import Streams
from ..question.registries import as_baseline
from .harmonic import harmonic
from .maps import over_units
from .shared import ITSELF, Asked, contents


@dataclass(frozen=True, eq=False)
class Hide(ABC):
    """The inputs x `(n, *features)` with units hidden, `hide(hidden, step)`.

    `hidden` `(n, 1, *space)`, or a shape that broadcasts to x, is True at the units to replace; `step` numbers the
    draw where the filling is random.
    """

    x: Tensor

    @abstractmethod
    def __call__(self, hidden: Tensor, step: int) -> Tensor: ...

    @abstractmethod
    def fillings(self, step: int) -> Sequence[Hashable]:
        """Return a key for each example: with equal ones the same hidden units are filled alike."""

    def asked(self, hidden: Tensor, step: int) -> Asked:
        """Return the inputs with the units where `hidden` `(n, units)` is True replaced."""
        some = hidden.any(1).tolist()
        keys = zip(contents(hidden), self.fillings(step), some, strict=True)
        return Asked(
            [(which, filling) if any_ else ITSELF for which, filling, any_ in keys],
            lambda: self(over_units(hidden, self.x), step) if any(some) else self.x,
        )

    def first(self, places: Tensor, count: int, units: int, keep: bool = False) -> Asked:
        """Return the inputs with the units at the first `count` of the `places` `(n, units)` hidden.

        With `keep` all but them are. A random filling is numbered by how many of the `units` are hidden, so that curves
        of other steps and orders ask for the same inputs.
        """
        return self.asked(places >= count, units - count) if keep else self.asked(places < count, count)


@dataclass(frozen=True, eq=False)
class Filled(Hide):
    """Hidden units come from `other`, of the shape of x."""

    other: Tensor

    def __call__(self, hidden: Tensor, step: int) -> Tensor:
        return torch.where(hidden, self.other, self.x)

    @cached_property
    def _contents(self) -> Sequence[Hashable]:
        return contents(self.other.expand_as(self.x))

    def fillings(self, step: int) -> Sequence[Hashable]:
        return self._contents


@dataclass(frozen=True, eq=False)
class Keeping(Hide):
    """Hidden units come from `hide`, but for those that stay, `stays` `(n, 1, *space)`."""

    hide: Hide
    stays: Tensor

    def __call__(self, hidden: Tensor, step: int) -> Tensor:
        return self.hide(hidden & ~self.stays, step)

    def fillings(self, step: int) -> Sequence[Hashable]:
        return self.hide.fillings(step)


@dataclass(frozen=True, eq=False)
class _Made(Hide):
    """What the function that an imputer of one's own has prepared makes of the hidden units; it is shared with none."""

    make: Callable[[Tensor, int], Tensor]

    def __call__(self, hidden: Tensor, step: int) -> Tensor:
        return self.make(hidden, step)

    def fillings(self, step: int) -> Sequence[Hashable]:
        return [(self, step)] * len(self.x)


@dataclass(frozen=True, eq=False)
class _Solved(Hide):
    """Hidden pixels solve the linear system of `NoisyLinear`, plus noise of `noise`."""

    noise: float
    rng: Streams

    def __call__(self, hidden: Tensor, step: int) -> Tensor:
        solved = harmonic(self.x, hidden)
        if self.noise:
            solved = solved + self.noise * self.rng.normal(f"noise {step}", self.x.shape[1:], self.x)
        return torch.where(hidden, solved, self.x)

    def fillings(self, step: int) -> Sequence[Hashable]:
        return [("linear", self.noise, step if self.noise else 0)] * len(self.x)


class Imputer(Named, ABC):
    """Base of the fills for hidden pixels. `prepare` computes once what does not depend on which pixels are hidden.

    It returns a `Hide`, or any function `hide(hidden, step)`.
    """

    @abstractmethod
    def prepare(self, x: Tensor, rng: Streams) -> Callable[[Tensor, int], Tensor]: ...

    def hiding(self, x: Tensor, rng: Streams) -> Hide:
        """Return what `prepare` does, as a `Hide`."""
        made = self.prepare(x, rng)
        return made if isinstance(made, Hide) else _Made(x, made)


@dataclass(frozen=True)
class Fill(Imputer):
    """Fill with a number, a tensor or a Baseline."""

    value: float | Tensor | Baseline = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.value, Tensor):  # which may hold an entry for each example, and baselines are cut to them
            object.__setattr__(self, "value", as_baseline(self.value))

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        other = as_baseline(self.value).references(x, rng.fork("fill"))[0]
        return Filled(x, other)


@dataclass(frozen=True)
class MeanColour(Imputer):
    """Fill with the mean of each channel over the example."""

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        space = tuple(range(2, x.ndim)) if x.ndim > 2 else (1,)
        other = x.mean(space, keepdim=True).expand_as(x)
        return Filled(x, other)


@dataclass(frozen=True)
class Blurred(Imputer):
    """Fill with the example blurred by a Gaussian of `sigma` pixels cut off at `kernel` pixels across. [petsiuk2018]"""

    kernel: int = 11
    sigma: float = 5.0

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        other = blurred(x, self.kernel, self.sigma)
        return Filled(x, other)


@dataclass(frozen=True)
class UniformNoise(Imputer):
    """Fill with random values, uniform over the example's own range. [samek2017]"""

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        shape = (-1, *[1] * (x.ndim - 1))
        low, high = x.flatten(1).amin(1).view(shape), x.flatten(1).amax(1).view(shape)
        other = low + (high - low) * rng.uniform("hidden", x.shape[1:], x)
        return Filled(x, other)


@dataclass(frozen=True)
class NoisyLinear(Imputer):
    r"""Fill each hidden pixel with the weighted mean of its eight neighbours, plus noise.

    Weights 1/6 beside and 1/12 across, neighbours outside the picture left out; noise is Gaussian of `noise` in the
    input's units. Hidden neighbours are unknowns of a linear system, solved by conjugate gradients. [rong2022]
    """

    noise: float = 0.01

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        if x.ndim != 4:
            raise ValueError(f"inputs: linear imputation needs pictures (batch, channels, H, W), not {tuple(x.shape)}")
        return _Solved(x, self.noise, rng)


IMPUTERS: Registry[Imputer] = Registry(
    "fill", Imputer, (Fill, MeanColour, Blurred, UniformNoise, NoisyLinear), "blurred(11, sigma=5)"
)
"""All imputers by name."""


def blurred(x: Tensor, kernel: int, sigma: float) -> Tensor:
    """Blur the spatial axes of `(n, c, *space)` by a Gaussian, `kernel` pixels across, edges repeated."""
    if x.ndim < 3:
        raise ValueError(f"inputs: blurring needs spatial axes, inputs have shape {tuple(x.shape)}; give a fill")
    radius = kernel // 2
    offset = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-0.5 * (offset / sigma) ** 2)
    weights = (weights / weights.sum())[None, None]
    for axis in range(2, x.ndim):
        lines = x.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        x = F.conv1d(flat, weights).reshape(lines.shape).movedim(-1, axis)
    return x.contiguous()
