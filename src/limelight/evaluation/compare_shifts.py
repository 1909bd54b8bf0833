"""Compare the maps of one class while a constant is added to the input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from ..answer import answer
from ..base.attribution import Attribution
from ..base.display import on_display
from ..base.named import is_finite
from ..base.types import Model
from ..base.view import View
from ..checks.case import question_about
from ..checks.maps import ssim
from ..explain import MethodLike, as_methods
from ..methods import Method
from ..question.question import Options, Question, labels_of, question_of
from ..question.readings import confidences
from .compare_baselines import MapSeries, require_list

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_SHIFTS = (0.0, 0.1, 0.2, 0.4)


class ShiftStudy(MapSeries):
    """Maps of one method and one class for shifts of the input; `study["+0.4"]` is the Attribution with that shift.

    `shifts`: the constants, in the input's units, the first 0. `labels`: names of the model's classes, if it has any.
    """

    def __init__(self, maps: Mapping[float, Attribution], labels: Sequence[str] = ()) -> None:
        self.shifts, self.labels = tuple(maps), tuple(labels)
        super().__init__({shift_text(shift): each for shift, each in maps.items()})

    @property
    def alike(self) -> Tensor:
        """Spearman's rank correlation of each heatmap with the unshifted one `(batch, k)`, at single pixels as those of
        `BiasShift`; NaN where a map is constant."""
        return self.correlations[:, 0]

    @property
    def structure(self) -> Tensor:
        """The structural similarity of each heatmap with the unshifted one `(batch, k)`; NaN for no pictures."""
        first = self[0].heatmap()
        if first.ndim != 3:
            return torch.full((len(first), len(self)), torch.nan, dtype=torch.float64)
        return torch.stack([ssim(first, each.heatmap()) for each in self.values()], 1)

    @property
    def clipped(self) -> Tensor:
        """The share of pixels `(batch, k)` that a display of each shifted input clips; the model got all of it."""
        x = self[0].inputs
        return torch.stack([on_display(each.inputs, like=x)[1] for each in self.values()], 1)

    def said(self, position: int, example: int = 0) -> str:
        """Return what the model says of one shifted example: its first class with its confidence, and the score."""
        each = self[position]
        score = f"score {float(each.score[example]):.4g}"
        if each.outputs is None or each.outputs.ndim != 2 or each.outputs.shape[1] < 2:
            return score
        kind = each.output_kinds[example] if each.output_kinds else "score"
        likely = confidences(each.outputs[example].double(), kind)
        first = int(each.outputs[example].argmax())
        name = f"{self.labels[first]} ({first})" if first < len(self.labels) else f"class {first}"
        share = float(likely[first])
        return f"{name}{'' if math.isnan(share) else f' {share:.1%}'}, {score}"

    def heading(self) -> str:
        return f"{self[0].name} by shift of the input"

    def remarks(self, position: int, example: int) -> tuple[str, ...]:
        if position == 0:
            return ()
        structure = float(self.structure[example, position])
        also = "" if math.isnan(structure) else f", SSIM {structure:.2f}"
        return (f"rank correlation with +0: {float(self.alike[example, position]):.2f}{also}",)

    def _correlations_of(self, position: int, example: int) -> dict[str, float]:
        found = {"rank correlation with +0": self.alike, "SSIM with +0": self.structure}
        return {name: float(each[example, position]) for name, each in found.items()}

    def rows(self) -> list[list[int]]:
        return [list(range(len(self)))]

    def show(self, example: Any = 0, heading: str | None = None, view: View | str | None = None) -> Image:
        """Draw the inputs of one example as a display shows them, and below them the maps on one scale."""
        from ..show.exhibits import draw_shifts

        return draw_shifts([self], example, heading or self._heading(example), view)

    def summary(self) -> dict[str, Any]:
        """Return shifts, what the model says, likeness and clipped shares as plain numbers and lists."""
        batch = range(len(self[0].inputs))
        return {
            **super().summary(),
            "shifts": list(self.shifts),
            "scores": [each.score.tolist() for each in self.values()],
            "said": [[self.said(k, i) for k in range(len(self))] for i in batch],
            "rank_correlation_with_unshifted": self.alike.tolist(),
            "ssim_with_unshifted": self.structure.tolist(),
            "clipped": self.clipped.tolist(),
        }

    def save(self, path: str | Path, view: View | str | None = None) -> Path:
        """Write a `.png` or `.pdf` to look at; as `.safetensors`, a folder of that name with a file for each map and
        `summary.json`."""
        from ..show.exhibits import save_image

        if Path(path).suffix == ".safetensors":
            return super().save(path)
        return save_image(self.show(view=view), path)

    def _repr_html_(self) -> str:
        from ..show.image import png_source

        return f'<img alt="{self[0].name} by shift of the input" src="{png_source(self.show())}">'


def compare_shifts(
    model: Model,
    inputs: Tensor,
    method: MethodLike = "gradient",
    shifts: Sequence[float] = DEFAULT_SHIFTS,
    **options: Unpack[Options],
) -> ShiftStudy:
    """Explain the inputs plus each of several constants, for the class of the unshifted inputs, and compare the maps.

    A map that follows the model should change as little as the model's answer does. The class that is explained is the
    one asked for, or the model's first class on the unshifted input, at every shift; random numbers stay the same too.
    What the model receives is not clipped; pictures are drawn as a display shows them, with the share that it clips.

    Args:
        shifts: numbers in the input's units, added to every channel. 0 comes first, whether it is given or not.
        options: those of `explain`.

    Raises TypeError for shifts that are no list, ValueError for one that is no number.

        limelight.compare_shifts(net, x, "integrated-gradients", [0.1, 0.4]).save("shifts.png")
    """
    (wanted,) = as_methods(method)
    with question_of(model, inputs, options) as question:
        (found,) = shift_studies(question, [wanted], read_shifts(shifts), labels_of(model)).values()
    return found


def read_shifts(shifts: Sequence[float]) -> tuple[float, ...]:
    """Return the shifts once each, 0 first. Raises as `compare_shifts` does."""
    require_list("shifts", shifts)
    for each in shifts:
        if not is_finite(each):
            raise ValueError(f"shifts: {each!r} is no number; use numbers in the input's units, such as 0.1")
    return tuple(dict.fromkeys((0.0, *map(float, shifts))))


def shift_studies(
    question: Question, methods: Sequence[Method], shifts: Sequence[float], labels: Sequence[str] = ()
) -> dict[str, ShiftStudy]:
    """Return a study of each method by its name; methods share passes. The first shift is 0."""
    unshifted = answer(question, methods)
    asked = replace(question_about(unshifted[0], question), arithmetic=question.arithmetic)
    panels = [unshifted, *(answer(asked.with_inputs(question.inputs + shift), methods) for shift in shifts[1:])]
    return {
        name: ShiftStudy({shift: panel[place] for shift, panel in zip(shifts, panels, strict=True)}, labels)
        for place, name in enumerate(unshifted)
    }


def shift_text(shift: float) -> str:
    """Write a shift with its sign: `+0.1`."""
    return f"{shift:+g}"
