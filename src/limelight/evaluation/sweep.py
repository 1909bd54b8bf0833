"""Compare the maps of a method over the values of a hyper-parameter, in one labelled grid."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..answer import answer
from ..base.attribution import Attribution
from ..base.labels import distinct
from ..base.named import Named
from ..base.similarity import rank_correlation
from ..base.types import Model
from ..base.view import View
from ..explain import MethodLike, as_methods
from ..methods import Method
from ..question.question import Options, question_of
from .compare_baselines import MapSeries, require_list

if TYPE_CHECKING:
    from PIL.Image import Image

LAYER = "layer"


class Sweep(MapSeries):
    """Maps over the values of one or two fields: `fields` maps each to its values, the last one varies fastest.

    `neighbours[name]` is the rank correlation of each map with the next along that field, `(batch, *grid)` with that
    axis one shorter: where it is near 1 the value no longer matters.
    """

    def __init__(self, method: Method, fields: Mapping[str, tuple[Any, ...]], maps: Sequence[Attribution]) -> None:
        self.method, self.fields = method, dict(fields)
        super().__init__(dict(zip(_labels(self.fields), maps, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.fields.values())

    @property
    def neighbours(self) -> dict[str, Tensor]:
        maps = [each.heatmap() for each in self.values()]
        place = torch.arange(len(maps)).reshape(self.shape)
        found = {}
        for axis, (name, size) in enumerate(zip(self.fields, self.shape, strict=True)):
            here, after = place.narrow(axis, 0, size - 1), place.narrow(axis, 1, size - 1)
            pairs = zip(here.flatten().tolist(), after.flatten().tolist(), strict=True)
            each = [rank_correlation(maps[i], maps[j]) for i, j in pairs]
            batch = len(maps[0])
            found[name] = torch.stack(each, 1).reshape(batch, *here.shape) if each else torch.empty(batch, *here.shape)
        return found

    def heading(self) -> str:
        return f"{self.method.kebab()} by {' and '.join(self.fields)}"

    def remarks(self, position: int, example: int) -> tuple[str, ...]:
        at = self._at(position)
        found = [
            f"rank correlation with {name}={_text(self.fields[name][at[axis] - 1])}: {figure:.2f}"
            for axis, (name, figure) in enumerate(self._before(position, example).items())
            if at[axis] > 0
        ]
        return tuple(found)

    def show(self, example: Any = None, heading: str | None = None, view: View | str | None = None) -> Image:
        """Draw the maps of one example, or of all, as a grid: for each picture the rows of `rows`.

        The maps of a picture are on one scale, but for those of several layers, whose values have no common unit.
        """
        from ..show.exhibits import draw_sweep

        examples = range(len(self[0].inputs)) if example is None else [example]
        named = self.heading() if example is None and len(examples) > 1 else self._heading(examples[0])
        return draw_sweep(self, examples, heading or named, view)

    def _settings_of(self, position: int) -> dict[str, Any]:
        values = zip(self.fields.items(), self._at(position), strict=True)
        return {name: _plain(each[index]) for (name, each), index in values}

    def _correlations_of(self, position: int, example: int) -> dict[str, float]:
        before = self._before(position, example)
        return {f"rank correlation with the {name} before": figure for name, figure in before.items()}

    def _at(self, position: int) -> list[int]:
        """Return the place of a map in the grid."""
        found: list[int] = (torch.arange(len(self)).reshape(self.shape) == position).nonzero()[0].tolist()
        return found

    def _before(self, position: int, example: int) -> dict[str, float]:
        """Return by field a map's rank correlation with the one before along that field; NaN for the first."""
        at = self._at(position)
        return {
            name: float(figures[(example, *(index - (k == axis) for k, index in enumerate(at)))])
            if at[axis]
            else math.nan
            for axis, (name, figures) in enumerate(self.neighbours.items())
        }

    def rows(self) -> list[list[int]]:
        """Return a row for each value of the first of two fields, or rows of four for a single field."""
        width = self.shape[-1] if len(self.shape) > 1 else 4
        return [list(range(len(self)))[start : start + width] for start in range(0, len(self), width)]


def sweep(model: Model, inputs: Tensor, method: MethodLike, **options: Any) -> Sweep:
    """Explain with each value of a hyper-parameter and compare neighbours: `sweep(model, x, m, noise=[0.05, 0.1])`.

    Args:
        options: those of `explain`, where `layer` may be a list; every other name is a field of the method with its
            list of values. Two fields make a grid. A field of a part of the method is written with two underscores:
            `quadrature__n=[8, 16, 32]`, `inner__samples=[4, 8]`.

    Several inputs are swept over at once, each for its own class, and drawn as a grid, a row or more for each. Methods
    that differ in their fields share passes, and random numbers are the same for all. Raises ValueError for an
    unknown field, no field, or more than two, and TypeError for values that are no list.
    """
    (wanted,) = as_methods(method)
    over = {name: values for name, values in options.items() if name not in Options.__annotations__}
    rest: Any = {name: value for name, value in options.items() if name not in over}
    for name, values in over.items():
        require_list(name, values)
    swept = {name.replace("__", "."): tuple(values) for name, values in over.items()}
    layers: tuple[Any, ...] = (rest.pop(LAYER, None),)
    names = list(swept)
    if isinstance(layers[0], list | tuple):
        layers = tuple(layers[0])
        swept = {LAYER: layers, **swept}
    if not 1 <= len(swept) <= 2 or not all(swept.values()):
        raise ValueError(
            f"fields: {', '.join(swept) or 'none'}; sweep over one field or two, each with at least one value, such as "
            f"{next(iter(_paths(wanted)), LAYER).replace('.', '__')}=[...]"
        )
    methods = [
        with_fields(wanted, dict(zip(names, values, strict=True)))
        for values in itertools.product(*(swept[name] for name in names))
    ]
    with question_of(model, inputs, rest) as question:
        panels = [answer(replace(question, layer=layer), methods) for layer in layers]
    return Sweep(wanted, swept, [attribution for panel in panels for attribution in panel.values()])


def with_fields(method: Method, values: Mapping[str, Any]) -> Method:
    """Return the method with other values; a dotted name such as `quadrature.n` is a field of a part."""
    for path, value in values.items():
        if path not in _paths(method):
            known = list(_paths(method))
            near = difflib.get_close_matches(path, known, n=3) or known
            raise ValueError(f"fields: {method.kebab()} has no {path!r}; use {', '.join(near) or 'layer=[...]'}")
        method = _replaced(method, path.split("."), value)
    return method


def _replaced(part: Any, path: list[str], value: Any) -> Any:
    inner = _replaced(_part(part, path[0]), path[1:], value) if len(path) > 1 else value
    return replace(part, **{path[0]: inner})


def _part(whole: Any, name: str) -> Any:
    """Return a field, or what its None stands for."""
    found = getattr(whole, name)
    return whole.when_none.get(name) if found is None and isinstance(whole, Named) else found


def _paths(part: Any) -> dict[str, Any]:
    """Return the fields of a method and of its parts, by dotted name."""
    found: dict[str, Any] = {}
    for field in fields(part):
        found[field.name] = value = _part(part, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            found |= {f"{field.name}.{inner}": each for inner, each in _paths(value).items()}
    return found


def _labels(swept: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """Name each combination of values."""
    return distinct(
        ", ".join(f"{name}={_text(value)}" for name, value in zip(swept, values, strict=True))
        for values in itertools.product(*swept.values())
    )


def _plain(value: Any) -> Any:
    """Return a value as a table holds it: a number, text, True, False or None."""
    return value if value is None or isinstance(value, bool | int | float | str) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    return value if isinstance(value, str) else repr(value)
