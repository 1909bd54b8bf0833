"""Controls: maps that do not depend on the model, for comparison with explanations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import Registry
from ..engine.score import Score
from ..methods import Estimate, Method, Needs
from ..question.question import Question
from ..question.random_streams import Streams


@dataclass(frozen=True)
class Control(Method):
    """Base of the maps that do not run the model."""

    no_sum: ClassVar[str | None] = "a control does not depend on the score"

    @property
    def needs(self) -> Needs:
        return Needs(gradients=False)

    def rows(self, features: torch.Size) -> int | None:
        return 0

    def unfit(self, question: Question) -> str:
        """Return why the control has no map of these inputs; empty if it has."""
        return ""


@dataclass(frozen=True)
class RandomMap(Control):
    r"""Gaussian noise, $A_i \sim \mathcal{N}(0, 1)$, one value per pixel; different inputs get different maps."""

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        shape = (1, *x.shape[2:]) if x.ndim > 2 else x.shape[1:]
        # Seeded by the input's content even where a check keeps random numbers fixed: a changed input gets a new map.
        own = rng.fork([key.hex() for key in Streams.of(x, 0).keys])
        return Estimate(own.normal("control", shape, x))


@dataclass(frozen=True)
class ConstantMap(Control):
    r"""The same value everywhere, $A_i = 1$."""

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        return Estimate(torch.ones_like(x[:, :1] if x.ndim > 2 else x))


@dataclass(frozen=True)
class SobelEdges(Control):
    r"""The length of the picture's own gradient, by Sobel's 3x3 kernels on the mean of its channels.

    It depends on edges only. A map that does not beat it may be an edge detector too. [adebayo2018]
    """

    def unfit(self, question: Question) -> str:
        if question.inputs.ndim == 4:
            return ""
        given = "texts" if question.texts else f"of shape {tuple(question.inputs.shape)}"
        return f"a control for pictures (batch, channels, H, W), and the inputs are {given}"

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        if x.ndim != 4:
            raise ValueError(f"inputs: edges need pictures (batch, channels, H, W), not {tuple(x.shape)}")
        return Estimate(sobel(x))


def sobel(x: Tensor) -> Tensor:
    """Compute the length of the channels' mean Sobel gradient, `(n, 1, H, W)`, edges repeated at the border."""
    across = x.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernels = torch.stack([across, across.T])[:, None]
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slopes: Tensor = F.conv2d(grey, kernels)
    return slopes.square().sum(1, keepdim=True).sqrt()


_STORED: Registry[Control] = Registry(  # reads files of their maps
    "control", Control, (RandomMap, ConstantMap, SobelEdges), "random-map"
)
CONTROLS: tuple[Control, ...] = tuple(kind() for kind in _STORED)
