"""Inputs of several parts, a tuple or a mapping of tensors: which of them rows hold, and how a call gets them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .baselines import Baseline, Constant, Samples
from .given import plain
from .per_example import for_examples, rebuilt
from .players import Segments
from .random_streams import Streams
from .registries import as_baseline


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts `(batch, *features)` of an input by name, or by place as "0", "1", ...

    `held`: those that rows are made of, the others go along with their example: several are flattened side by side,
    `(rows, features)`; one alone keeps its shape; with none the rows are the outputs of a layer, the `embedding`.
    `axes`: how the model takes the one part that is held, such as "NHWC"; rows have channels before space.
    `columns`: floating parts with a number for each example, `(batch,)` for the model and here `(batch, 1)`.
    """

    values: Mapping[str, Tensor]
    named: bool
    held: tuple[str, ...]
    embedding: str | None = None
    axes: str | None = None
    columns: frozenset[str] = frozenset()

    @staticmethod
    def of(inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor]) -> Parts:
        """Read the inputs; the floating parts are held. Raises TypeError or ValueError that names the part."""
        named = isinstance(inputs, Mapping)
        parts = {str(name): each for name, each in inputs.items()} if isinstance(inputs, Mapping) else {}
        if not named:
            several: Sequence[Any] = [inputs] if isinstance(inputs, Tensor) else list(inputs)
            parts = {str(place): each for place, each in enumerate(several)}
        if not parts:
            raise ValueError("inputs: an empty structure; give at least one tensor")
        first = next(iter(parts.values()))
        for name, each in parts.items():
            if not isinstance(each, Tensor):
                raise TypeError(
                    f"inputs: part {name!r} is a {type(each).__name__}, not a tensor; other values go into given="
                )
            if each.ndim < 1 or len(each) != len(first):
                raise ValueError(
                    f"inputs: part {name!r} has shape {tuple(each.shape)}, and the first part {len(first)} examples; "
                    "the first axis of every part is the batch"
                )
        values = {name: plain(each, f"inputs: part {name!r}") for name, each in parts.items()}
        floating = tuple(name for name, each in values.items() if each.is_floating_point())
        kinds = {(values[name].dtype, values[name].device) for name in floating}
        if len(kinds) > 1:
            found = ", ".join(f"{name!r} {values[name].dtype} on {values[name].device}" for name in floating)
            raise TypeError(f"inputs: parts of several kinds ({found}); give them one dtype and device")
        columns = frozenset(name for name in floating if values[name].ndim == 1)
        values = {name: each[:, None] if name in columns else each for name, each in values.items()}
        return Parts(values, named, floating, columns=columns)

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def flat(self) -> Tensor:
        """The held parts flattened side by side, `(batch, features)`."""
        return torch.cat([self.values[name].flatten(1) for name in self.held], 1)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Take rows of flattened parts `(..., features)` apart."""
        shapes = {name: self.values[name].shape[1:] for name in self.held}
        pieces = flat.split([shape.numel() for shape in shapes.values()], -1)
        return {
            name: piece.reshape(*flat.shape[:-1], *shape)
            for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
        }

    def arguments(self, rows: Tensor, examples: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the model's positional and named arguments for rows of these examples `(rows,)`."""
        own = {name: each[examples.to(each.device)] for name, each in self.values.items() if name not in self.held}
        if len(self.held) == 1:
            own[self.held[0]] = from_rows(rows, self.axes) if self.axes else rows
        elif self.held:
            own |= self.split(rows)
        ordered = {name: self.as_given(name, own[name]) for name in self.values}
        return ((), ordered) if self.named else (tuple(ordered.values()), {})

    def as_given(self, name: str, rows: Tensor) -> Tensor:
        """Return rows of a part, or what is known of them, with the axes that the part was given with."""
        return rows.squeeze(-1) if name in self.columns else rows

    def ranges(self, x: Tensor) -> Tensor:
        """Return the range of each example's values in each part `(batch, features)`, for every feature of x."""
        spans = [each.flatten(1).amax(1) - each.flatten(1).amin(1) for each in self.split(x).values()]
        sizes = [self.values[name][0].numel() for name in self.held]
        return torch.cat([span[:, None].expand(-1, size) for span, size in zip(spans, sizes, strict=True)], 1)

    def select(self, index: Tensor) -> Parts:
        """Return the parts of some of the examples; indices may repeat."""
        return replace(self, values={name: each[index.to(each.device)] for name, each in self.values.items()})

    def baseline(self, given: Any) -> Baseline:
        """Read the option `baseline`: one for all held parts, or a structure with one for each."""
        return OfParts(self, tuple(self.baselines(given).values()))

    def part_of(self, baseline: Any, name: str) -> Any:
        """Return the baseline of one part."""
        return baseline.each[self.held.index(name)] if isinstance(baseline, OfParts) else baseline

    def baselines(self, given: Any) -> dict[str, Baseline]:
        """Read the option `baseline` as one for each held part."""
        if isinstance(given, Mapping):
            each = {str(name): as_baseline(value) for name, value in given.items()}
        elif isinstance(given, Sequence) and not isinstance(given, str):
            each = dict(zip(self.held, map(as_baseline, given), strict=False))
            if len(given) != len(self.held):
                raise ValueError(
                    f"baseline: {len(given)} for {len(self.held)} explained parts; give one, or one a part"
                )
        else:
            each = dict.fromkeys(self.held, as_baseline(given))
        if set(each) != set(self.held):
            raise ValueError(f"baseline: for {', '.join(each)}; the explained parts are {', '.join(self.held)}")
        return {name: self._in_columns(name, each[name]) for name in self.held}

    def _in_columns(self, name: str, baseline: Baseline) -> Baseline:
        if name in self.columns:
            if isinstance(baseline, Constant) and isinstance(baseline.value, Tensor) and baseline.value.ndim == 1:
                return replace(baseline, value=baseline.value[:, None])
            if isinstance(baseline, Samples) and baseline.data.ndim == 1:
                return replace(baseline, data=baseline.data[:, None])
        return baseline

    def method(self, method: Any, name: str | None = None) -> Any:
        """Return a method whose segments, given as a structure with a map for each part, are of the flattened parts,
        or of the part `name` alone."""

        def flattened(part: Any) -> Any:
            if isinstance(part, Segments) and part.of_parts is not None:
                return Segments(self._labels(part.of_parts) if name is None else self._labels_of(part.of_parts, name))
            return part

        return rebuilt(method, flattened)

    def _labels_of(self, maps: Mapping[str, Tensor], name: str) -> Tensor:
        """Return labels `(1, *features)` or `(batch, *features)` of one part, `(*features)` for all of flat ones."""
        found = self._map(maps, name)
        return found[0] if found.ndim == 2 and len(found) == 1 else found

    def _map(self, maps: Mapping[str, Tensor], name: str) -> Tensor:
        if set(maps) != set(self.held):
            raise ValueError(f"players: segments for {', '.join(maps)}; the explained parts are {', '.join(self.held)}")
        shape, found = self.values[name].shape[1:], maps[name]
        if name in self.columns and found.ndim == 1:
            found = found[:, None]
        given = tuple(found.shape)
        try:
            found = found if found.ndim > len(shape) else found.expand(1, *shape)
            found = found.expand(len(found), *shape)
        except RuntimeError as error:
            raise ValueError(
                f"players: the map of part {name!r} has shape {given}; use {tuple(shape)}, or one for each example, "
                f"{(len(self), *shape)}"
            ) from error
        if len(found) not in (1, len(self)):
            one = "one map a part" if len(self.held) > 1 else "one map"
            raise ValueError(
                f"players: segments of {len(found)} examples for {len(self)}; give {one}, or one an example"
            )
        return found

    def _labels(self, maps: Mapping[str, Tensor]) -> Tensor:
        pieces = [self._map(maps, name).flatten(1) for name in self.held]
        most = max(map(len, pieces))
        joined = torch.cat([each.expand(most, -1) for each in pieces], 1)
        return joined[0] if most == 1 else joined


@dataclass(frozen=True, eq=False)
class OfParts(Baseline):
    """A baseline for each part of the inputs, flattened side by side."""

    parts: Parts = field(repr=False)
    each: tuple[Baseline, ...]

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        split = self.parts.split(inputs)
        # Examples of a data set keep their parts together: all parts draw them in one order.
        found = [
            baseline.references(part, streams if isinstance(baseline, Samples) else streams.fork(name))
            for baseline, (name, part) in zip(self.each, split.items(), strict=True)
        ]
        most = max(map(len, found))
        if any(len(each) not in (1, most) for each in found):
            raise ValueError(
                f"baseline: {', '.join(str(len(each)) for each in found)} references for the parts; give as many"
            )
        return torch.cat([each.expand(most, *each.shape[1:]).flatten(2) for each in found], 2)

    def for_examples(self, index: Sequence[int]) -> OfParts:
        values = self.parts.values
        each = [for_examples(own, index, values[name]) for own, name in zip(self.each, self.parts.held, strict=True)]
        return OfParts(self.parts.select(torch.as_tensor(index, dtype=torch.long)), tuple(each))


def to_rows(inputs: Tensor, axes: str) -> Tensor:
    """Order inputs with these axes as batch, channels, then the others; without channels there is one.

    Raises ValueError for axes that are not distinct letters of N, C, T, D, H, W that begin with N, or do not fit.
    """
    if not axes or axes[0] != "N" or set(axes) - set(AXES) or len(set(axes)) < len(axes):
        raise ValueError(f"axes: {axes!r}; use distinct letters of {AXES} from N, the batch, such as 'NHWC' or 'NTCHW'")
    if inputs.ndim != len(axes):
        raise ValueError(f"axes: {axes!r} for inputs of shape {tuple(inputs.shape)}; give a letter for each axis")
    if "C" not in axes:
        return inputs.unsqueeze(1)
    return inputs.movedim(axes.index("C"), 1).contiguous()


def from_rows(rows: Tensor, axes: str) -> Tensor:
    """Order rows as the model takes them; the reverse of `to_rows`."""
    return rows.squeeze(1) if "C" not in axes else rows.movedim(1, axes.index("C"))


AXES = "NCTDHW"
"""The letters of axes: batch, channels, time, depth, height, width."""
