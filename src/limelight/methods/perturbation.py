"""Learned masks: optimise which part of a picture to delete or to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import require_number, require_whole
from ..engine.score import Score, result_dtype
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs


@dataclass(frozen=True)
class MeaningfulPerturbation(Method):
    r"""The smallest smooth part of a picture without which the score falls.

    $$\min_m f(m \odot x + (1 - m) \odot b) + \lambda_1 \overline{|1 - m|}
      + \lambda_2 \overline{|\nabla m|^\beta}$$

    for a mask of `size` x `size` in [0, 1] (1 keeps), upsampled bilinearly, by `steps` steps of Adam from m = 1; the
    bars are means over the mask. The map is 1 - m `(n, 1, H, W)`, what has to go; `raw` is it before upsampling. The
    weights are meant for a score between 0 and 1, so ask about `Probability`; the paper's baseline is `Blur(10)`.
    `jitter` shifts the picture by up to so many pixels, through all shifts in turn. One row forward and backward a
    step. Raises ValueError unless inputs are `(n, channels, H, W)`. [fong2017]
    """

    steps: int = 300
    size: int = 28
    l1: float = 1e-2
    variation: float = 0.2
    beta: float = 3.0
    learning_rate: float = 0.1
    jitter: int = 4

    no_sum: ClassVar[str | None] = "a mask says what to delete, it does not divide up the score"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("size", 1), ("jitter", 0)):
            require_whole(self, name, least)
        for name in ("l1", "variation"):
            require_number(self, name, lambda weight: weight >= 0, "0 or a positive weight")
        require_number(self, "beta", lambda beta: beta >= 1, "1 or more")
        require_number(self, "learning_rate", lambda rate: rate > 0, "a positive number")

    needs: ClassVar[Needs] = Needs(baseline=True)

    def rows(self, features: torch.Size) -> int | None:
        return self.steps

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        require_pictures(self, x)
        height, width = min(self.size, x.shape[2]), min(self.size, x.shape[3])
        kept = torch.ones(len(x), 1, height, width, dtype=result_dtype(x), device=x.device)
        adam = _Adam(kept, self.learning_rate)
        for step in range(self.steps):
            with torch.enable_grad():
                kept.requires_grad_()
                mask = _resized(kept, x)
            shift = (step % (self.jitter + 1), step // (self.jitter + 1) % (self.jitter + 1))
            rows = torch.lerp(baseline, x, mask.detach().to(x)).roll(shift, (2, 3))
            slope = score.gradient(rows).roll((-shift[0], -shift[1]), (2, 3))
            pulled = (slope * (x - baseline)).sum(1, keepdim=True).to(mask)
            with torch.enable_grad():
                down, right = kept.diff(dim=2).abs() ** self.beta, kept.diff(dim=3).abs() ** self.beta
                area, rough = (1 - kept).abs().flatten(1).mean(1), _mean(down) + _mean(right)
                loss = (mask * pulled).sum() + (self.l1 * area + self.variation * rough).sum()
            (gradient,) = torch.autograd.grad(loss, kept)
            kept = adam.step(kept.detach(), gradient).clamp(0, 1)
        return Estimate(_resized(1 - kept, x), raw=1 - kept)


class _Adam:
    """Adam with its usual constants, entry by entry, so examples do not touch each other."""

    def __init__(self, like: Tensor, rate: float) -> None:
        self._rate, self._steps = rate, 0
        self._first, self._second = torch.zeros_like(like), torch.zeros_like(like)

    def step(self, at: Tensor, gradient: Tensor) -> Tensor:
        self._steps += 1
        self._first = 0.9 * self._first + 0.1 * gradient
        self._second = 0.999 * self._second + 0.001 * gradient**2
        first, second = self._first / (1 - 0.9**self._steps), self._second / (1 - 0.999**self._steps)
        return at - self._rate * first / (second.sqrt() + 1e-8)


def _mean(each: Tensor) -> Tensor:
    return each.flatten(1).mean(1) if each.numel() else each.new_zeros(len(each))


def _resized(masks: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(masks, size=x.shape[2:], mode="bilinear", align_corners=False)


def require_pictures(method: Method, x: Tensor) -> None:
    """Raise ValueError unless x is `(n, channels, H, W)`."""
    if x.ndim != 4:
        name, shape = type(method).__name__, tuple(x.shape)
        raise ValueError(f"inputs: {name} learns masks of pictures (n, channels, H, W), not of {shape}")
