"""Integrated Gradients along a path of ever sharper pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import require_number, require_whole
from ..base.notes import Note
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.baselines import gaussian_blur
from ..question.random_streams import Streams
from .base import Estimate, Method, Needs


@dataclass(frozen=True)
class BlurIntegratedGradients(Method):
    r"""Integrate the gradient while the input sharpens, from a Gaussian blur of `max_sigma` pixels to itself.

    $$A_i = \int_{\sigma_{\max}}^0 \partial_i f(L_\sigma)\, \partial_\sigma L_{\sigma,i}\, \mathrm{d}\sigma,
      \quad L_\sigma = \text{x blurred by } \sigma$$

    by the trapezoid rule over $\sigma_k = \sigma_{\max}(1 - k/n)^2$, n = `steps`: closer together where the picture
    changes most. The change of each pixel between two levels is taken exactly. Edge values are repeated beyond the
    border, as in `Blur`. Complete with respect to the blurred input: the values sum to $f(x) - f(L_{\sigma_{\max}})$
    up to quadrature error, which `notes` report. Raises ValueError for inputs without spatial axes. [xu2020]
    """

    steps: int = 32
    max_sigma: float = 50.0

    no_sum: ClassVar[str | None] = "the values sum to f(x) - f(x blurred), not to f(x) - f(baseline); see the notes"

    def __post_init__(self) -> None:
        require_whole(self, "steps", 1)
        require_number(self, "max_sigma", lambda sigma: sigma > 0, "a positive number of pixels")

    @property
    def needs(self) -> Needs:
        return Needs(at_inputs=True, value=True)

    def rows(self, features: torch.Size) -> int | None:
        return self.steps + 1

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        levels, n = self.levels(x), self.steps
        total = torch.zeros(x.shape, dtype=sum_dtype(x), device=x.device)
        at_start = torch.zeros(len(x), dtype=total.dtype, device=x.device)
        for rows in score.stream_gradients(levels(x, step) for step in range(n)):
            assert rows.gradient is not None
            for step in dict.fromkeys(rows.step.tolist()):
                mine = rows.step == step
                position = rows.position[mine]
                total[position] += _weight(levels, x[position], step, n) * rows.gradient[mine]
                if step == 0:
                    at_start[position] = rows.scores[mine].to(total.dtype)
        total += _weight(levels, x, n, n) * score.gradient(x)
        change = score.values(x).to(total.dtype) - at_start
        missed = total.flatten(1).sum(1) - change
        notes = tuple(
            Note(
                "fact",
                f"the values sum to f(x) - f(x blurred by {self.max_sigma:g} pixels) = {float(change[i]):.4g} "
                f"but for {float(missed[i]):.2g}",
                i,
            )
            for i in range(len(x))
        )
        return Estimate(total.to(result_dtype(x)), notes=notes)

    def levels(self, x: Tensor) -> Levels:
        """The path's levels for inputs like x; ValueError where they have no spatial axes."""
        if x.ndim < 3:
            raise ValueError(
                f"inputs: shape {tuple(x.shape)}; {type(self).__name__} blurs spatial axes, so inputs must be "
                "(batch, channels, *space)"
            )
        sigmas = [self.max_sigma * (1 - step / self.steps) ** 2 for step in range(self.steps)]
        units = [torch.eye(size, dtype=x.dtype, device=x.device)[:, None] for size in x.shape[2:]]
        return Levels([[gaussian_blur(unit, sigma)[:, 0] for unit in units] for sigma in sigmas])


@dataclass(frozen=True, eq=False)
class Levels:
    """A blur as one matrix an axis, for each level of a path: far cheaper than convolutions where kernels are wide."""

    matrices: list[list[Tensor]]

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """x at a level, 0 the most blurred; past the last one it is x itself."""
        if step >= len(self.matrices):
            return x
        for axis, matrix in enumerate(self.matrices[step], start=2):
            x = (x.movedim(axis, -1) @ matrix).movedim(-1, axis)
        return x.contiguous()


def _weight(levels: Levels, x: Tensor, step: int, n: int) -> Tensor:
    """What the gradient at a level counts in the trapezoid rule: half the way from the level before to the next."""
    return (levels(x, min(step + 1, n)) - levels(x, max(step - 1, 0))) / 2
