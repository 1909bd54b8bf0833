"""The score with each window of an occlusion hidden, as a grid of numbers and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..base.attribution import Attribution
from ..methods import Occlusion

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class WindowScores:
    """The model's score while one window is hidden, on the grid of the windows' places.

    `scores` `(batch, *places)`: f(x with the window filled), NaN where a mask hides nothing; with `channels="each"`
    `(batch, channels, *places)`. `unhidden` `(batch,)`: f(x).
    """

    attribution: Attribution
    scores: Tensor
    unhidden: Tensor

    def show(self, example: int = 0) -> Image:
        """Draw the picture, the map, and the grid with its numbers: dark where hiding costs the score most.

        Raises ValueError for other grids than rows and columns of windows.
        """
        from ..show.exhibits import draw_window_scores

        return draw_window_scores(self, example)

    def save(self, path: str | Path) -> Path:
        """Write the picture of `show` for the first example, as `.png` or `.pdf`."""
        from ..show.exhibits import save_image

        return save_image(self.show(), path)


def window_scores(attribution: Attribution) -> WindowScores:
    """Return the score with each window hidden, of a map by `Occlusion`; with the target `Probability` probabilities.

    $$f(x \\text{ with window } w \\text{ filled}) = f(x) - d_w$$

    Raises ValueError for maps of other methods and for several targets for each example.

        a = limelight.explain(net, x, "occlusion(window=circle(16), fill=blur(5))", target="probability(281)")
        limelight.window_scores(a).scores.amin()
    """
    if not isinstance(attribution.method, Occlusion) or attribution.raw is None:
        raise ValueError(f"attribution: a map by {attribution.name}; window_scores takes one by occlusion")
    if attribution.score.ndim > 1:
        raise ValueError(f"target: {attribution.score.shape[1]} for each example; explain one target at a time")
    lost = attribution.raw
    at_x = attribution.score.to(lost.dtype)
    return WindowScores(attribution, at_x.view(-1, *[1] * (lost.ndim - 1)) - lost, torch.clone(at_x))
