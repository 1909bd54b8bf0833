"""What stands in for pixels that are hidden."""

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
    """Fills hidden pixels. `prepare` does once what does not depend on which pixels they are."""

    @abstractmethod
    def prepare(self, x: Tensor, rng: Streams) -> Hide: ...


@dataclass(frozen=True)
class Fill(Imputer):
    """A number, a tensor or a Baseline."""

    value: float | Tensor | Baseline = 0.0

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        other = as_baseline(self.value).references(x, rng.fork("fill"))[0]
        return lambda hidden, step: torch.where(hidden, other, x)


@dataclass(frozen=True)
class MeanColour(Imputer):
    """The mean of each channel over the example itself."""

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        space = tuple(range(2, x.ndim)) if x.ndim > 2 else (1,)
        other = x.mean(space, keepdim=True).expand_as(x)
        return lambda hidden, step: torch.where(hidden, other, x)


@dataclass(frozen=True)
class Blurred(Imputer):
    """The example blurred by a Gaussian of `sigma` pixels cut off at `kernel` pixels across. [petsiuk2018]"""

    kernel: int = 11
    sigma: float = 5.0

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        other = blurred(x, self.kernel, self.sigma)
        return lambda hidden, step: torch.where(hidden, other, x)


@dataclass(frozen=True)
class UniformNoise(Imputer):
    """Every hidden value drawn anew, uniform over the example's own range. [samek2017]"""

    def prepare(self, x: Tensor, rng: Streams) -> Hide:
        shape = (-1, *[1] * (x.ndim - 1))
        low, high = x.flatten(1).amin(1).view(shape), x.flatten(1).amax(1).view(shape)
        other = low + (high - low) * rng.uniform("hidden", x.shape[1:], x)
        return lambda hidden, step: torch.where(hidden, other, x)


@dataclass(frozen=True)
class NoisyLinear(Imputer):
    r"""Each hidden pixel is the weighted mean of its eight neighbours, hidden ones solved for, plus noise.

    Weights 1/6 beside and 1/12 across, neighbours outside the picture left out; noise is Gaussian of `noise` in the
    input's units. Found by conjugate gradients over masked 3x3 sums, all pictures and channels at once. [rong2022]
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
"""Every imputer by name."""


def blurred(x: Tensor, kernel: int, sigma: float) -> Tensor:
    """Gaussian blur over the spatial axes of `(n, c, *space)`, `kernel` pixels across, edges repeated."""
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
