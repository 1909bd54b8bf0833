"""Layers: finding one by name, and reading or replacing its activation on the copy of the model."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base.second_run import counted
from ..base.types import LayerLike, OneLayer
from ..rules.ruled import passed_on
from .copying import hidden_modules
from .frames import FoldedRows, Frames
from .layer_maps import Grid
from .occurrences import Occurrence, default_path, element, elements, shapes_of, with_element
from .operator_calls import Capture, counting, is_operator
from .programs import without_layers

Modules = Mapping[str, nn.Module]  # by dotted name
FramesByName = Mapping[str, Frames | None]  # what layers have in their rows, as far as that was asked
COMPILED = "_orig_mod"  # the name that torch.compile gives to the module that it was called with


def modules_of(model: nn.Module, hidden: Mapping[str, nn.Module] | None = None) -> dict[str, nn.Module]:
    """Return a model's modules by dotted name, itself under ""; a compiled module counts as the one it was made of.

    `hidden`: the modules that it has elsewhere than as its children, if they are known.
    """
    found = {original_name(name): module for name, module in model.named_modules()}
    for name, root in (hidden_modules(found.values()) if hidden is None else hidden).items():
        found.update((f"{name}.{inner}" if inner else name, module) for inner, module in root.named_modules())
    return found


def original_name(name: str) -> str:
    """Return the name that a layer has in the model before it was compiled: "body.0" for "_orig_mod.body.0"."""
    return ".".join(part for part in name.split(".") if part != COMPILED) if COMPILED in name else name


@dataclass(frozen=True)
class Linear:
    """The classifier z = weight a + bias, where a model has only global average pooling and this after a layer."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, pooled: Tensor) -> Tensor:
        return F.linear(pooled, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer to read: its dotted name, the grid of its output's map, and the linear classifier if there is one.

    Where the output holds no map, `grid` is None and `no_map` gives the reason.
    """

    name: str
    grid: Grid | None
    linear: Linear | None = None
    no_map: str = ""

    def maps(self, output: Tensor) -> Tensor:
        """View the layer's output as maps `(rows, channels, *space)`. Raises ValueError where it holds none."""
        if self.grid is None:
            raise ValueError(f"layer: {self.name!r} {self.no_map}")
        return self.grid.maps(output)


def layer_name(modules: Modules, layer: OneLayer) -> str:
    """Return the name of a layer, given by name or as a module. Raises ValueError with the nearest names.

    A name is a module's dotted one, with `#k` for its k-th run and `[key]` for an element of its output where there are
    several, or `add#k` for the k-th call of an operator. Names are those of the model before it was compiled;
    torch.compile's `_orig_mod.` is accepted and left out.
    """
    names: dict[str, nn.Module] = {name: module for name, module in modules.items() if name}
    if isinstance(layer, nn.Module):
        wanted = dict(layer.named_children()).get(COMPILED, layer)
        for name, module in names.items():
            if module is wanted:
                return name
        raise ValueError(f"layer: this {type(layer).__name__} is not a module of the model")
    if original_name(str(layer)) in names:
        return original_name(str(layer))
    read = Occurrence.read(str(layer))
    if read is not None:
        read = replace(read, of=original_name(read.of))
        if read.of in names or (read.run is not None and is_operator(read.of)):
            return str(read)
    near = difflib.get_close_matches(str(layer), names, n=4, cutoff=0.3) or list(names)[-4:]
    raise ValueError(f"layer: {layer!r} is not a module of the model; nearest: {', '.join(near) or 'it has none'}")


def layer_names(modules: Modules, layer: LayerLike) -> tuple[str, ...]:
    """Return the dotted names of a layer, or of several: a sequence of them, or names separated by commas.

    Raises ValueError as `layer_name` does, and for an empty sequence or a layer that is named twice.
    """
    if isinstance(layer, str) and original_name(layer) not in modules:
        layers: Sequence[OneLayer] = [name.strip() for name in layer.split(",")]
    else:
        layers = [layer] if isinstance(layer, str | int | nn.Module) else layer
    names = tuple(layer_name(modules, each) for each in layers)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"layer: {layer!r}; name one layer or several different ones")
    return names


def without_batch_axis(modules: Modules, inputs: Tensor) -> str:
    """Return an error message for inputs with as many axes as one example of the model's convolutions; else "".

    Not an error by itself: a convolution accepts a single example too, and the model may reshape its input.
    """
    space = {len(module.kernel_size) for module in modules.values() if isinstance(module, nn.modules.conv._ConvNd)}
    if inputs.ndim - 1 not in space or inputs.ndim - 2 in space:
        return ""
    shape = tuple(inputs.shape)
    return f"inputs: shape {shape} fails in the model, whose examples have {inputs.ndim} axes; use inputs[None]"


Hook = Callable[[str, nn.Module, tuple[Any, ...], Any], Any]


@contextmanager
def hooked(modules: Modules, hook: Hook) -> Iterator[None]:
    """Register `hook(name, module, args, output)` as forward hook of each submodule; TorchScript accepts no hooks."""
    handles = [
        child.register_forward_hook(partial(hook, name))
        for name, child in modules.items()
        if name and not isinstance(child, torch.jit.ScriptModule)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def captured(modules: Modules, names: tuple[str, ...], rows: int, frames: FramesByName) -> Iterator[dict[str, Tensor]]:
    """Collect the tensors of the named occurrences in one forward pass of the copy over so many rows.

    The model goes on with a copy of each, so an in-place operation that follows cannot overwrite what was captured.
    Frames in the rows of a layer are an axis of their own. Raises ValueError for an occurrence that does not come, and
    for the name alone of a layer that runs more than once; FoldedRows for one whose rows are to be explained first.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> Tensor:
        found.setdefault(name, output)
        return passed_on(output)

    with replacing(modules, names, rows, keep, frames):
        yield found


@contextmanager
def replacing(
    modules: Modules, names: Sequence[str], rows: int, keep: Callable[[str, Tensor], Tensor], frames: FramesByName
) -> Iterator[None]:
    """Replace the tensors of the named occurrences by `keep(name, tensor)` in one forward pass over so many rows.

    Raises ValueError as `captured` does.
    """
    read = {name: _read(name) for name in names}
    of_modules = [each.of for each in read.values() if each.of in modules]
    calls = {(each.of, each.run or 0): name for name, each in read.items() if each.of not in modules}
    runs: Counter[str] = Counter()
    seen: set[str] = set()

    def hook(of: str, child: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        for name, each in read.items():
            if each.of == of and each.run in (None, runs[of]):
                path = default_path(shapes_of(output), rows) if each.path is None else each.path
                tensor = None if path is None else element(output, path)
                if path is None or tensor is None:
                    raise ValueError(f"layer: {name!r} {_no_tensor(output, each)}")
                seen.add(name)
                output = with_element(output, path, by_rows(name, tensor))
        runs[of] += 1
        return output

    def by_rows(name: str, tensor: Tensor) -> Tensor:
        return kept_by_rows(name, tensor, rows, frames, partial(keep, name))

    def keep_call(name: str, tensor: Tensor) -> Tensor:
        seen.add(name)
        return by_rows(name, tensor)

    mode = Capture(calls, keep_call)
    chosen = _readable(modules, of_modules)
    with hooked(chosen, hook), counting(mode, modules) if calls else nullcontext(), counted(runs), counted(mode.counts):
        yield
    for name, each in read.items():
        count = runs[each.of] if each.of in modules else mode.counts[each.of]
        several = ", ".join(f"{each.of}#{run}" for run in range(min(count, 4))) + ", ..." * (count > 4)
        if name not in seen:
            why = without_layers(modules) if each.of in modules else ""
            ran = f": {each.of} runs {count} time{'s' * (count > 1)}, as {several}" if count else why and f": {why}"
            raise ValueError(f"layer: {name!r} did not run in the forward pass{ran}")
        if each.run is None and count > 1:
            raise ValueError(f"layer: {name!r} runs more than once in a forward pass; choose one of {several}")


def kept_by_rows(
    name: str, tensor: Tensor, rows: int, frames: FramesByName, keep: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return `keep(tensor)` of a layer's tensor with the rows as its first axis, in the tensor's own layout.

    Raises FoldedRows where the layer returned several rows for each and it is not known what these are.
    """
    if not tensor.ndim or len(tensor) <= rows or len(tensor) % rows:
        return keep(tensor)
    if name not in frames:
        raise FoldedRows(name)
    found = frames[name]
    if found is None or len(tensor) != rows * found.count:
        return keep(tensor)
    return found.folded(keep(found.unfolded(tensor)))


def _readable(modules: Modules, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return the named modules. Raises ValueError for one whose output cannot be read."""
    chosen = {name: modules[name] for name in names}
    for name, child in chosen.items():
        if isinstance(child, torch.jit.ScriptModule):
            raise ValueError(f"layer: {name!r} is TorchScript, whose output cannot be read; pass the eager module")
    return chosen


def _read(name: str) -> Occurrence:
    read = Occurrence.read(name)
    assert read is not None, name
    return read


def _no_tensor(output: Any, wanted: Occurrence) -> str:
    """Say why an output has no such element."""
    paths = [str(Occurrence(wanted.of, wanted.run, path)) for path, each in elements(output) if path]
    returns = f"returns {type(output).__name__}"
    if wanted.path is not None:
        return f"does not fit: {wanted.of} {returns}; use {', '.join(paths) or wanted.of}"
    return f"{returns} without a floating tensor; choose a layer inside it"


@contextmanager
def captured_runs(
    modules: Modules, names: Sequence[str], rows: int, frames: FramesByName
) -> Iterator[dict[str, Tensor]]:
    """Collect the output of every run of the named modules in one forward pass with gradients, in order.

    The k-th run of a module, counted from 0, is found under `name#k`, an occurrence under its name and `#0`; a module
    that does not run, or whose output does not depend on the rows, is left out. The model goes on with a copy of each
    output, and frames are as in `captured`.
    """
    found: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()

    def keep(name: str, output: Tensor) -> Tensor:
        if not output.requires_grad:
            return output
        found[f"{name}#{runs[name]}"] = output
        runs[name] += 1
        return output.clone()

    def by_rows(name: str, output: Tensor) -> Tensor:
        return kept_by_rows(name, output, rows, frames, partial(keep, name))

    of_modules = [name for name in names if name in modules]
    occurrences = [name for name in names if name not in modules]
    with _hooked(modules, of_modules, by_rows), replacing(modules, occurrences, rows, keep, frames), counted(runs):
        yield found


@contextmanager
def _hooked(modules: Modules, names: Sequence[str], keep: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Replace the outputs of the named modules by `keep(name, output)`. Raises ValueError for one without a tensor."""

    def hook(name: str, child: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(f"layer: {name!r} returns {type(output).__name__}, not a tensor; choose one inside it")
        return keep(name, output)

    with hooked(_readable(modules, names), hook):
        yield


@dataclass(frozen=True, eq=False)
class LayerInput:
    """Run the whole model on each row's own `inputs` `(n, *features)`, with the output of `layer` replaced by the row.

    Paths around the layer (a skip connection) therefore keep their values at those inputs.
    """

    layer: str
    inputs: Tensor

    def at(self, places: Tensor) -> LayerInput:
        """Return the layer input for rows that belong to `inputs[places]`."""
        return LayerInput(self.layer, self.inputs[places])

    @contextmanager
    def replaced(self, modules: Modules, rows: Tensor, frames: FramesByName) -> Iterator[None]:
        """Make the layer return a copy of `rows` `(n, *layer)` in one forward pass.

        Raises ValueError where the layer runs more than once, not at all, or returns another shape.
        """

        def filled(name: str, output: Tensor) -> Tensor:
            if output.shape != rows.shape:
                got = tuple(output.shape)
                raise ValueError(f"layer: {self.layer!r} returned {got}; rows to replace it are {tuple(rows.shape)}")
            return rows.clone()  # an in-place operation may follow

        with replacing(modules, (self.layer,), len(rows), filled, frames):
            yield
