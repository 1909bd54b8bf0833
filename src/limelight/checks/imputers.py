"""Imputers: replacements for hidden pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import Named, Registry
from ..question.baselines import Baseline
from ..question.random_streams import Streams
from ..question.registries import as_baseline
from .harmonic import harmonic

Hide = Callable[[Tensor, int], Tensor]
"""`hide(hidden, step)`: the batch with the units where `hidden` `(n, 1, *space)` is True replaced."""


class Imputer(Named, ABC):
    """Base of the fills for hidden pixels. `prepare` computes once what does not depend on which pixels are hidden."""

    @abstractmethod
    def prepare(self, x: Tensor, rng: Streams) -> Hide: ...


@dataclass(frozen=True)
class Fill(Imputer):
    """Fill with a number, a tensor or a Baseline."""

    value: float | Tensor | Baseline = 0.0

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        other = as_baseline(self.value).references(x, rng.fork("fill"))[0]
        return lambda hidden, step: torch.where(hidden, other, x)


@dataclass(frozen=True)
class MeanColour(Imputer):
    """Fill with the mean of each channel over the example."""

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        space = tuple(range(2, x.ndim)) if x.ndim > 2 else (1,)
        other = x.mean(space, keepdim=True).expand_as(x)
        return lambda hidden, step: torch.where(hidden, other, x)


@dataclass(frozen=True)
class Blurred(Imputer):
    """Fill with the example blurred by a Gaussian of `sigma` pixels cut off at `kernel` pixels across. [petsiuk2018]"""

    kernel: int = 11
    sigma: float = 5.0

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        other = blurred(x, self.kernel, self.sigma)
        return lambda hidden, step: torch.where(hidden, other, x)


@dataclass(frozen=True)
class UniformNoise(Imputer):
    """Fill with random values, uniform over the example's own range. [samek2017]"""

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        shape = (-1, *[1] * (x.ndim - 1))
        low, high = x.flatten(1).amin(1).view(shape), x.flatten(1).amax(1).view(shape)
        other = low + (high - low) * rng.uniform("hidden", x.shape[1:], x)
        return lambda hidden, step: torch.where(hidden, other, x)


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

        def hide(hidden: Tensor, step: int) -> Tensor:
            solved = harmonic(x, hidden)
            if self.noise:
                solved = solved + self.noise * rng.normal(f"noise {step}", x.shape[1:], x)
            return torch.where(hidden, solved, x)

        return hide


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
