"""Runs the model of a run on its pictures with covered places, and says which predictions change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base.types import Progress
from ..engine.input_pass import outputs_at
from ..models.catalogue import AnyImageModel
from .clusters import SIDE
from .covering import covered
from .stored import Run

_ROWS = 120  # covered pictures that are held at once


class Recount:
    """Counts the predictions of a run's pictures that change when places are covered.

    `progress` receives the forward rows of each finished part.
    """

    def __init__(self, run: Run, model: AnyImageModel, progress: Progress | None = None) -> None:
        self._run, self._model, self._progress = run, model, progress
        self._colours: dict[int, Tensor] = {}

    def colours(self, ids: Sequence[int]) -> Tensor:
        """Return the mean colours of pictures on the grid, `(n, channels, SIDE, SIDE)`; each is read once."""
        for i in ids:
            if i not in self._colours:
                self._colours[i] = F.adaptive_avg_pool2d(self._run.picture(i), SIDE)
        return torch.stack([self._colours[i] for i in ids])

    def changes(self, ids: Sequence[int], cells: Tensor) -> Tensor:
        """Whether the prediction of each picture changes when cells `(places, SIDE, SIDE)` are covered, `(n, places)`.

        Costs a forward row for each. Raises OSError and ValueError where a picture is gone or was changed.
        """
        size = max(1, _ROWS // len(cells))
        parts = [self._part(ids[start : start + size], cells) for start in range(0, len(ids), size)]
        return torch.cat(parts) if parts else torch.zeros(0, len(cells), dtype=torch.bool)

    def _part(self, ids: Sequence[int], cells: Tensor) -> Tensor:
        x = torch.stack([self._run.picture(i) for i in ids])
        rows = covered(x, cells).flatten(0, 1)
        outputs, _ = outputs_at(self._model, rows.to(_device_of(self._model)), self._model.outputs)
        assert outputs is not None  # the run has predictions
        if self._progress:
            self._progress(len(rows))
        before = torch.tensor([int(self._run[i].first.row["prediction"]) for i in ids])
        return outputs.argmax(1).cpu().view(len(ids), -1) != before[:, None]


def _device_of(model: AnyImageModel) -> torch.device:
    if not isinstance(model, nn.Module):
        return torch.device("cpu")
    return next((each.device for each in (*model.parameters(), *model.buffers())), torch.device("cpu"))
