"""The gradient along the straight line from the baseline to the input: one pixel's, and how fast all of it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor

from ..answer import answer
from ..base.named import is_whole
from ..base.types import Model
from ..checks.case import question_about
from ..checks.maps import space_of
from ..methods import Gradient
from ..question.question import Options, question_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOGETHER = 16  # points of a path whose gradients are computed in one call


@dataclass(frozen=True, eq=False)
class AlongPath:
    r"""The gradient of one score at points $b + t\,(x - b)$, for `times` t from 0 to 1.

    `times` `(k,)`. `derivatives` `(batch, k, channels)`: the gradient's values at the one `pixel`, in score by input
    unit. `autocorrelation` `(batch, k - 1)`: of the whole gradient g, by the number of steps between two points,

    $$\mathrm{ACF}(l) = \frac{\sum_t \langle g_t - \bar g,\ g_{t+l} - \bar g\rangle}{\sum_t |g_t - \bar g|^2}$$

    1 for l = 0. It falls slowly where the gradient changes smoothly and at once where it is shattered: near white noise
    the gradient at a point says little about its neighbourhood. NaN where the gradient is the same at all points.
    [balduzzi2017] `target` is what each example's score is of.
    """

    times: Tensor
    derivatives: Tensor
    autocorrelation: Tensor
    pixel: tuple[int, ...]
    target: object

    @property
    def share(self) -> Tensor:
        """The derivatives as a share of the example's largest by magnitude `(batch, k, channels)`; 0 if all are 0."""
        largest = self.derivatives.abs().amax((1, 2), keepdim=True)
        return torch.where(largest > 0, self.derivatives / largest, torch.zeros_like(self.derivatives))

    def figure(self, example: int = 0) -> Figure:
        """Draw the share of each channel along the path, and the autocorrelation, as a matplotlib figure.

        Raises ImportError without the extra `plot`.
        """
        from ..show.lines import draw_along_path

        return draw_along_path(self, example)

    def save(self, path: str | Path) -> Path:
        """Write the figure of the first example, in a format of matplotlib by the suffix, such as `.pdf` or `.png`."""
        self.figure().savefig(path, bbox_inches="tight")
        return Path(path)


def along_path(
    model: Model, inputs: Tensor, pixel: tuple[int, ...], points: int = 65, **options: Unpack[Options]
) -> AlongPath:
    """Compute the gradient of one class at equally spaced points from the baseline to each input.

    The class is that of the input, at every point; one path gradient method integrates what is drawn here.

    Args:
        pixel: (row, column) of a picture, or the place along each spatial axis; a column of a table is `(column,)`.
        points: 3 or more, with both ends.
        options: those of `explain`; the first reference of `baseline` is the path's beginning.

    Raises ValueError for a pixel outside the input and for fewer points.

        limelight.along_path(net, x, (112, 80), baseline=limelight.Blur(10)).save("derivative.pdf")
    """
    if not is_whole(points, 3):
        raise ValueError(f"points: {points!r}; use a whole number of 3 or more")
    with question_of(model, inputs, options) as question:
        x = question.inputs
        space = space_of(x)
        inside = len(pixel) == len(space) and all(0 <= at < size for at, size in zip(pixel, space, strict=True))
        if not inside:
            raise ValueError(
                f"pixel: {pixel!r} is no place in an input of {tuple(space)}; use one number for each axis"
            )
        (own,) = answer(question, [Gradient()]).values()
        asked, reference = question_about(own, question), question.references()[0]
        times = torch.linspace(0, 1, points, dtype=torch.float64)
        found = []
        for some in times.split(_TOGETHER):
            rows = torch.cat([torch.lerp(reference, x, float(t)) for t in some])
            index = list(range(len(x))) * len(some)
            several = replace(asked.select(index), draws_of=None).with_inputs(rows)
            (each,) = answer(several, [Gradient()]).values()
            found.append(each.values.detach().cpu().reshape(len(some), *x.shape))
    gradients = torch.cat(found).double().transpose(0, 1)
    at = gradients
    for place in reversed(pixel):
        at = at[..., place]
    return AlongPath(times, at if at.ndim == 3 else at[..., None], _autocorrelation(gradients), pixel, own.target)


def _autocorrelation(gradients: Tensor) -> Tensor:
    """Compute the autocorrelation `(batch, k - 1)` of vectors along a line, `(batch, k, *features)`."""
    centred = gradients.flatten(2) - gradients.flatten(2).mean(1, keepdim=True)
    products = centred @ centred.transpose(1, 2)
    k = products.shape[1]
    lags = torch.stack([products.diagonal(lag, 1, 2).sum(1) for lag in range(k - 1)], 1)
    size, whole = lags[:, :1], gradients.flatten(1).square().sum(1, keepdim=True)
    varies = size > (64 * torch.finfo(torch.float32).eps) ** 2 * whole  # by more than rounding
    return torch.where(varies, lags / size, torch.full_like(lags, torch.nan))
