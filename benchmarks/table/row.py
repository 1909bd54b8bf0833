"""A row of the comparison: a case, what is right, and how each library is asked."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

LIBRARIES = ("limelight", "captum", "pytorch-grad-cam", "torchcam", "zennit", "shap", "lime", "quantus")
State = Literal["yes", "wrong", "no", "figure"]


@dataclass(frozen=True)
class Cell:
    """What a library did: right, wrong by `figure`, an error in `words`, or a figure that is neither."""

    state: State
    figure: float | None = None
    words: str = ""


@dataclass(frozen=True)
class Row:
    """A case. `sides` gives for each library that has the method a function that returns how far off it is.

    limit: the largest figure that is right; None where a figure is better the smaller it is.
    unit: how a figure is written: "%" as a share in percent, "" as a number.
    """

    name: str
    title: str
    right: str
    sides: Mapping[str, Callable[[], float]]
    limit: float | None = 1e-4
    unit: Literal["%", ""] = "%"
    notes: Mapping[str, str] = field(default_factory=dict)

    def run(self, library: str) -> Cell:
        """Ask one library. Its error is its cell."""
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                figure = float(self.sides[library]())
        except Exception as error:  # noqa: BLE001  an error is the answer
            return Cell("no", words=f"{type(error).__name__}: {error}".partition("\n")[0][:110])
        if self.limit is None:
            return Cell("figure", figure)
        return Cell("yes" if figure <= self.limit else "wrong", figure)


def apart(found: Tensor, right: Tensor) -> float:
    """Return the largest difference, as a share of the largest value. Raises ValueError for another shape."""
    if found.shape != right.shape:
        raise ValueError(f"a map of shape {tuple(found.shape)}, where {tuple(right.shape)} is right")
    return float((found - right).abs().max() / right.abs().max())


def stretched(values: Tensor) -> Tensor:
    """Stretch each example's map to [0, 1], as two of the libraries do."""
    low, high = values.flatten(1).amin(1), values.flatten(1).amax(1)
    shape = (-1, *[1] * (values.ndim - 1))
    return (values - low.view(shape)) / (high - low).view(shape)
