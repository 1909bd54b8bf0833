"""Occurrences: a tensor among those that a forward pass makes, by module or operator, run and element."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_FORM = re.compile(r"(?P<of>[^#\[\]]+)(?:#(?P<run>\d+))?(?P<path>(?:\[[^\[\]]+\])*)")
Path = tuple[str, ...]  # keys, field names or places in nested containers; () is the output itself


@dataclass(frozen=True)
class Occurrence:
    """The output of a module or operator `of` at its `run`, counted from 0, and there the element at `path`.

    `run` None is the only run. `path` None is the element that `default_path` picks. Written `name#run[element]`, the
    last two where they are needed: `encoder.layer.1`, `backbone.layer4#1`, `lstm[1][0]`, `add#12`.
    """

    of: str
    run: int | None = None
    path: Path | None = None

    @staticmethod
    def read(text: str) -> Occurrence | None:
        """Read an occurrence as it is written; None for other text."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        run, path = found["run"], found["path"]
        return Occurrence(
            found["of"], None if run is None else int(run), tuple(path[1:-1].split("][")) if path else None
        )

    def __str__(self) -> str:
        return self.of + ("" if self.run is None else f"#{self.run}") + "".join(f"[{key}]" for key in self.path or ())


def elements(output: Any) -> Iterator[tuple[Path, Tensor]]:
    """Yield the tensors of an output with their paths: a tensor itself, or those in nested containers, in order."""
    if isinstance(output, Tensor):
        yield (), output
        return
    for key, value in _items(output):
        for path, tensor in elements(value):
            yield (key, *path), tensor


def default_path(shapes: Sequence[tuple[Path, tuple[int, ...], bool]], rows: int) -> Path | None:
    """Return the path of the element that a layer's name alone stands for; None where there is none.

    The first floating tensor of three axes or more whose first are the rows, else the first of rows, else the first.
    `shapes` are the elements' paths and shapes, and whether they are floating.
    """
    fitting = [(path, shape) for path, shape, floating in shapes if floating and shape and shape[0] == rows]
    fitting += [(path, shape) for path, shape, floating in shapes if floating][:1]
    maps = (path for path, shape in fitting if len(shape) > 2 and shape[0] == rows)
    return next(maps, fitting[0][0] if fitting else None)


def shapes_of(output: Any) -> list[tuple[Path, tuple[int, ...], bool]]:
    """Describe the elements of an output for `default_path`."""
    return [(path, tuple(each.shape), each.is_floating_point()) for path, each in elements(output)]


def element(output: Any, path: Path) -> Tensor | None:
    """Return the tensor at a path; None where there is none."""
    for key in path:
        items = dict(_items(output))
        places = [*items.values()]
        if key not in items and not (key.isdigit() and int(key) < len(places)):
            return None
        output = items[key] if key in items else places[int(key)]
    return output if isinstance(output, Tensor) else None


def with_element(output: Any, path: Path, value: Tensor) -> Any:
    """Return the output with another tensor at a path; containers on the way are made anew."""
    if not path:
        return value
    keys = [key for key, _ in _items(output)]
    place = keys.index(path[0]) if path[0] in keys else int(path[0])
    inside = [each for _, each in _items(output)]
    inside[place] = with_element(inside[place], path[1:], value)
    if isinstance(output, Mapping):
        made: Any = {key: each for key, each in zip(output, inside, strict=True)}
        return made if type(output) is dict else type(output)(**made)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*inside)
    if isinstance(output, list | tuple):
        return type(output)(inside)
    return dataclasses.replace(output, **dict(zip(keys, inside, strict=True)))


def _items(output: Any) -> list[tuple[str, Any]]:
    if isinstance(output, Mapping):
        return [(str(key), value) for key, value in output.items()]
    if isinstance(output, list | tuple):
        names = getattr(output, "_fields", range(len(output)))
        return [(str(key), value) for key, value in zip(names, output, strict=True)]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(each.name, getattr(output, each.name)) for each in dataclasses.fields(output) if each.init]
    return []
