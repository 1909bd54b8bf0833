"""Compare the maps of one method for several baselines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from ..answer import answer
from ..base.attribution import Attribution, Panel
from ..base.files import json_bytes, write_whole
from ..base.labels import distinct
from ..base.notes import Place as Example
from ..base.records import file_stem
from ..base.similarity import rank_correlations
from ..base.types import Model
from ..base.view import View
from ..explain import MethodLike, as_methods
from ..question.baselines import Baseline, Black, Blur, Noise, White
from ..question.question import Options, question_of
from ..question.registries import as_baseline
from .tables import Table

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..show import Tile

BaselineLike = float | Tensor | Baseline | type[Baseline] | str
DEFAULT_BASELINES: tuple[Baseline, ...] = (Black(), White(), Noise(), Blur())


class MapSeries(Table, Panel):
    """Labelled maps of one question, in order, compared by Spearman's rank correlation."""

    def __init__(self, maps: Mapping[str, Attribution]) -> None:
        if any(each.score.ndim > 1 for each in maps.values()):
            raise ValueError("target: several for each example; compare maps of one target at a time")
        rows = (sum(each.forward_rows for each in maps.values()), sum(each.backward_rows for each in maps.values()))
        cached = sum(each.cached_rows for each in maps.values())
        super().__init__(list(maps.values()), *rows, list(maps), cached)

    @property
    def correlations(self) -> Tensor:
        """Spearman's rank correlation of each heatmap with each other, `(batch, k, k)`; NaN for a constant one."""
        return rank_correlations([each.heatmap() for each in self.values()])

    @property
    def delta(self) -> Tensor:
        """Completeness `(k, batch)`, as `Attribution.delta`; NaN where the method promises no sum."""
        return torch.stack([each.delta for each in self.values()])

    @property
    def cautions(self) -> tuple[str, ...]:
        """A caution for each map that has not converged: how it differs from the others may be its own error."""
        warning = "what it differs by from the other maps may be its own error"
        return tuple(
            f"{label}: {note}; {warning}"
            for label, each in self.items()
            for note in each.notes
            if note.kind in ("not-converged", "incomplete")
        )

    @abstractmethod
    def heading(self) -> str:
        """Return a line that names what is compared."""

    @abstractmethod
    def remarks(self, position: int, example: int) -> tuple[str, ...]:
        """Return lines to show above a map's own caption."""

    @abstractmethod
    def rows(self) -> list[list[int]]:
        """Return the positions of the maps in each row of a picture."""

    def records(self) -> list[dict[str, Any]]:
        """Return a row for each map and example: its label, score, completeness, cost and rank correlations."""
        return [
            {
                "map": label,
                **self._settings_of(position),
                "example": example,
                "score": float(each.score[example]),
                "baseline_score": float(each.baseline_score[example]),
                "delta": float(each.delta[example]),
                **self._correlations_of(position, example),
                "forward_rows": each.forward_rows,
                "backward_rows": each.backward_rows,
            }
            for position, (label, each) in enumerate(self.items())
            for example in range(len(each.score))
        ]

    def _to_read(self) -> list[dict[str, Any]]:
        return self.records()

    def _repr_html_(self) -> str:
        return Panel._repr_html_(self)  # the maps, and not the table

    def _settings_of(self, position: int) -> dict[str, Any]:
        """Return what a map was made with, by name, where the series varies more than its label says."""
        return {}

    @abstractmethod
    def _correlations_of(self, position: int, example: int) -> dict[str, float]:
        """Return a map's rank correlations with others, by what they are called in a table."""

    def tiles(self, example: Example = 0, view: View | str | None = None) -> list[Tile]:
        """Return the maps of one example under their labels, each with its remarks and caption."""
        assert isinstance(example, int)
        return [
            replace(tile, title=label, lines=(*self.remarks(k, example), *tile.lines))
            for k, (label, each) in enumerate(self.items())
            for tile in each.tiles(example, view)[:1]
        ]

    def show(self, example: Example = 0, heading: str | None = None, view: View | str | None = None) -> Image:
        """Draw all maps of one example in a labelled grid, as a PIL image."""
        from ..show import draw_grid

        tiles = self.tiles(example, view)
        rows = [[tiles[position] for position in row] for row in self.rows()]
        return draw_grid(self[0]._picture(example, view), rows, heading or self._heading(example))

    def summary(self) -> dict[str, Any]:
        """Return labels, completeness and correlations as plain numbers and lists."""
        return {
            "heading": self.heading(),
            "labels": list(self),
            "score": self[0].score.tolist(),
            "baseline_score": {label: each.baseline_score.tolist() for label, each in self.items()},
            "delta": {label: each.delta.tolist() for label, each in self.items()},
            "rank_correlations": self.correlations.tolist(),
            "cautions": list(self.cautions),
        }

    def save(self, path: str | Path, view: View | str | None = None) -> Path:
        """Write files as `Panel.save` does; as `.safetensors`, a folder of that name with a file for each map and
        `summary.json`. A `.npz` holds the maps by their labels, and is read as a `Panel`."""
        path = Path(path)
        if path.suffix != ".safetensors":
            return super().save(path, view)
        path = path.with_suffix("")
        path.mkdir(parents=True, exist_ok=True)
        for position, (label, each) in enumerate(self.items()):
            each.save(path / f"{position} {file_stem(label)}.safetensors")
        write_whole(path / "summary.json", json_bytes(self.summary()))
        return path

    def _heading(self, example: Example = 0) -> str:
        return f"{self.heading()}; {super()._heading(example)}"

    def _title(self) -> str:
        return self.heading()

    def _facts(self) -> list[tuple[str, str]]:
        kept = [each for each in dict.fromkeys(super()._facts()) if each[0] not in ("baseline", "seed")]
        return [*(("caution", each) for each in self.cautions), *kept]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.heading()}: {', '.join(self)})"


class BaselineStudy(MapSeries):
    """Maps of one method for several baselines; `study["blur"]` is the Attribution with that baseline."""

    @property
    def lowest_correlation(self) -> Tensor:
        """The lowest rank correlation between two of the maps `(batch,)`, NaN where a map is constant."""
        return self.correlations.flatten(1).amin(1)

    @property
    def agreement(self) -> Tensor:  # type: ignore[override]  # where other panels have a method
        """`lowest_correlation`, by its name until 0.2; `Panel.agreement(study)` is what other panels have."""
        return self.lowest_correlation

    def heading(self) -> str:
        return f"{self[0].name} by baseline"

    def remarks(self, position: int, example: int) -> tuple[str, ...]:
        row = self.correlations[example, position].tolist()
        others = [f"{label} {row[k]:.2f}" for k, label in enumerate(self) if k != position]
        return (f"rank correlation with {', '.join(others)}",) if others else ()

    def _correlations_of(self, position: int, example: int) -> dict[str, float]:
        row = self.correlations[example, position].tolist()
        return {f"rank correlation with {label}": row[k] for k, label in enumerate(self)}

    def rows(self) -> list[list[int]]:
        return [list(range(len(self)))[start : start + 3] for start in range(0, len(self), 3)]


def compare_baselines(
    model: Model,
    inputs: Tensor,
    method: MethodLike = "integrated-gradients",
    baselines: Sequence[BaselineLike] | Mapping[str, BaselineLike] = DEFAULT_BASELINES,
    **options: Unpack[Options],
) -> BaselineStudy:
    """Run one method with each of several baselines, and compare the maps.

    Args:
        baselines: a sequence of what `explain(baseline=...)` takes, labelled by their kind, or a mapping from labels.
            By default black, white, noise and blur, for inputs with positions; `Mean` and `Samples` need your data.
        options: those of `explain`, without `baseline`.

    Raises ValueError for a method that compares with no baseline, without any baseline, and for the default ones of
    tables and texts, and TypeError for baselines that are no list.
    """
    require_list("baselines", baselines)
    if "baseline" in options:
        raise TypeError("baseline: compare_baselines takes several; use baselines=[...]")
    (wanted,) = as_methods(method)
    if not wanted.needs.baseline:
        raise ValueError(f"method: {wanted!r} compares with no baseline, so its map is the same for all of them")
    by_label = (
        {label: as_baseline(each) for label, each in baselines.items()}
        if isinstance(baselines, Mapping)
        else labelled_baselines([as_baseline(each) for each in baselines])
    )
    if not by_label:
        raise ValueError("baselines: none given; use for example [Black(), White(), Blur()]")
    with question_of(model, inputs, options) as question:
        if baselines is DEFAULT_BASELINES and (question.texts or question.inputs.ndim == 2):
            such = "[Pad(), MeanToken(), Cut()]" if question.texts else "[0.0, Mean(data), Samples(data, 8)]"
            raise ValueError(
                f"baselines: those that are compared by default are of pictures; name yours, such as {such}"
            )
        return BaselineStudy(
            {label: answer(question.with_baseline(baseline), [wanted])[0] for label, baseline in by_label.items()}
        )


def require_list(name: str, values: object) -> None:
    """Raise TypeError for a text or another single value in place of a list of values."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: {values!r} is no list; use {name}=[{values!r}], with as many values as you like")


def labelled_baselines(baselines: Sequence[Baseline]) -> dict[str, Baseline]:
    """Label each baseline by its kind, or by its repr where several have that kind."""
    kinds = [type(each).__name__.lower() for each in baselines]
    labels = [kind if kinds.count(kind) == 1 else repr(each) for each, kind in zip(baselines, kinds, strict=True)]
    return dict(zip(distinct(labels), baselines, strict=True))
