"""Copies of a model with randomised layers. The user's parameters are not changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..base.errors import NoGradient
from ..base.types import Model
from ..engine.model_copy import editable_copy
from ..engine.score import Score
from ..rules.audit import tensors
from .rewrite import run_with_hook

Init = Literal["moments", "permute", "identity"]
Replaced = Sequence[tuple[nn.Parameter, Tensor]]  # the parameters that a redraw filled anew, with what they held
Drawn = dict[tuple[nn.Parameter, int, str], Tensor]  # what was drawn for a parameter, by what it held and how


@contextmanager
def redrawable(model: Model, x: Tensor) -> Iterator[tuple[nn.Module, list[str]]]:
    """Yield a copy of the model whose parameters may be replaced, and its layers with varying parameters, top first.

    Layers are ordered by when a forward pass last reads their parameters, whichever module reads them: a weight that is
    used again at the end belongs to the top. One whose reading is not seen, as in TorchScript, is ordered by when the
    layer last starts, and a layer that is not called itself as its parent. Raises ValueError for a black box or a
    model that cannot be copied.
    """
    with editable_copy(model, "has no parameters to randomise") as copied:
        yield copied, _layers(copied, x)


class _Reads(TorchFunctionMode):
    """Notes when each of some tensors, by id, is last an argument of an operator: `last`, counted with `tick`."""

    def __init__(self, watched: set[int], tick: Callable[[], int]) -> None:
        super().__init__()
        self.watched, self.tick, self.last = watched, tick, dict[int, int]()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        for each in tensors((*args, *given.values())):
            if id(each) in self.watched:
                self.last[id(each)] = self.tick()
        return func(*args, **given)


def _layers(module: nn.Module, x: Tensor) -> list[str]:
    started: dict[str, int] = {}
    moments = iter(range(1, 2**63))

    def note(name: str, *_: object) -> None:
        started[name] = next(moments)

    own = {
        name: varying
        for name, child in module.named_modules()
        if (varying := [each for each in child.parameters(recurse=False) if varies(each)])
    }
    reads = _Reads({id(each) for some in own.values() for each in some}, lambda: next(moments))
    with reads:
        run_with_hook(module, x[:1], [name for name, _ in module.named_modules()], note)

    def last(name: str) -> int:
        read = [reads.last[id(each)] for each in own[name] if id(each) in reads.last]
        while name and name not in started:
            name = name.rpartition(".")[0]
        return max(read) if read else started.get(name, 0)

    found = sorted(own, key=last, reverse=True)
    if not found:
        raise ValueError("model: it has no parameters to randomise: none, or each of equal numbers only")
    return found


def varies(parameter: Tensor) -> bool:
    """Whether the entries differ: a single number or equal numbers have no spread to draw from."""
    return parameter.is_floating_point() and bool((parameter != parameter.flatten()[:1]).any())


def redraw(module: nn.Module, layer: str, init: Init, seed: int, drawn: Drawn | None = None) -> Replaced:
    """Fill the own parameters of one layer of the copy anew; those of its children stay.

    "moments" draws each tensor from a normal distribution of its own mean and standard deviation, so that activations
    keep their scale; "permute" shuffles its entries; "identity" inserts an equal copy, as a control. The parameters are
    the same objects with other memory: tied weights stay tied, what a run proved of the copy still holds, and the
    memory that it shares with the model is not written. `drawn` keeps what is drawn, for further maps of the same copy.
    Returns what was replaced, for `put_back`.
    """
    known = {} if drawn is None else drawn
    replaced = []
    for name, parameter in module.get_submodule(layer).named_parameters(recurse=False):
        label = f"{seed} {layer} {name}"
        # A tied weight may hold what was drawn for another layer. All that it held is alive, so that addresses differ.
        key = parameter, parameter.data_ptr(), f"{init} {label}"
        if key not in known:
            known[key] = _drawn(parameter.detach(), init, label)
        replaced.append((parameter, parameter.data))
        parameter.data = known[key]
    return replaced


def put_back(replaced: Replaced) -> None:
    """Undo a `redraw`; of several, the last first."""
    for parameter, held in reversed(replaced):
        parameter.data = held


def layers_read(
    score: Score, x: Tensor, module: nn.Module, layers: list[str], changed: Callable[[], Tensor], seed: int
) -> Tensor:
    """Find which of `layers` the score of each example reads, `(layers, n)`.

    A layer is read where the score has a gradient with respect to a parameter of it, whether or not the user's model
    trains it. Where there is none, as behind `no_grad` or a unit that is off, the layer is drawn anew: it is read where
    that changes the score, `changed() (n,)`. `score` runs a copy of `module`, the one in which layers are redrawn.
    Costs n forward and n backward rows, and the rows of `changed` for each layer without a gradient.
    """
    read = torch.tensor([_with_gradient(score, x, i, layers) for i in range(len(x))], dtype=torch.bool).T
    for k, layer in enumerate(layers):
        if not bool(read[k].all()):
            replaced = redraw(module, layer, "moments", seed)
            read[k] |= changed().cpu()
            put_back(replaced)
    return read


def _with_gradient(score: Score, x: Tensor, example: int, layers: list[str]) -> list[bool]:
    """Return of each layer whether the score of one example has a gradient other than 0 at its own parameters."""
    runner, own = score.runner, [example]
    copy = runner.copy.module
    held = {layer: list(copy.get_submodule(layer).parameters(recurse=False)) for layer in layers}
    floating = [each for some in held.values() for each in some if each.is_floating_point()]

    def run(rows: Tensor, examples: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            _, scores, _ = runner.scored(rows, examples, score.target)
        if not scores.requires_grad:
            return (None,) * len(floating)
        runner.backward_rows += len(rows)
        return torch.autograd.grad(scores.sum(), floating, allow_unused=True)

    for each in floating:
        each.requires_grad_(True)
    try:
        (slopes,) = runner.safely(x[own], score.examples[own], run)
    except (RuntimeError, NoGradient):  # a model without a backward pass: each layer is drawn
        return [False] * len(layers)
    finally:
        for each in floating:
            each.requires_grad_(False)
    reached = {id(each) for each, slope in zip(floating, slopes, strict=True) if slope is not None and slope.any()}
    return [any(id(each) in reached for each in held[layer]) for layer in layers]


def _drawn(tensor: Tensor, init: Init, label: str) -> Tensor:
    if init == "identity" or not tensor.is_floating_point():
        return tensor.clone()
    key = int.from_bytes(blake2b(label.encode(), digest_size=16).digest(), "little")
    generator = np.random.Generator(np.random.Philox(key=key))
    if init == "permute":
        order = torch.from_numpy(generator.permutation(tensor.numel())).to(tensor.device)
        return tensor.flatten()[order].reshape(tensor.shape).clone()
    noise = torch.from_numpy(generator.standard_normal(tuple(tensor.shape))).to(tensor)
    if tensor.numel() == 1:
        return tensor.abs() * noise  # one number has no spread of its own
    return tensor.mean() + tensor.std() * noise
