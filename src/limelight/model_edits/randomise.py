"""Copies of a model with randomised layers. The user's parameters are not changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..base.types import Model
from ..engine.model_copy import editable_copy
from .rewrite import run_with_hook

Init = Literal["moments", "permute", "identity"]


@contextmanager
def redrawable(model: Model, x: Tensor) -> Iterator[tuple[nn.Module, list[str]]]:
    """Yield a copy of the model whose parameters may be replaced, and its layers with varying parameters, top first.

    Layers are ordered by when they start in a forward pass. A layer that is not called itself, such as a projection
    that its attention layer reads, is ordered as its parent. Raises ValueError for a black box or a model that cannot
    be copied.
    """
    with editable_copy(model, "has no parameters to randomise") as copied:
        yield copied, _layers(copied, x)


def _layers(module: nn.Module, x: Tensor) -> list[str]:
    started: dict[str, int] = {}

    def note(name: str, *_: object) -> None:
        started.setdefault(name, len(started))

    run_with_hook(module, x[:1], [name for name, _ in module.named_modules()], note)

    def start(name: str) -> int:
        while name and name not in started:
            name = name.rpartition(".")[0]
        return started.get(name, 0)

    own = [name for name, child in module.named_modules() if any(map(_varies, child.parameters(recurse=False)))]
    found = sorted(own, key=start, reverse=True)
    if not found:
        raise ValueError("model: it has no parameters to randomise: none, or each of equal numbers only")
    return found


def _varies(parameter: Tensor) -> bool:
    """Whether the entries differ: a single number or equal numbers have no spread to draw from."""
    return parameter.is_floating_point() and bool((parameter != parameter.flatten()[:1]).any())


def redraw(module: nn.Module, layer: str, init: Init, seed: int) -> None:
    """Replace the own parameters of one layer of the copy; those of its children stay.

    "moments" draws each tensor from a normal distribution of its own mean and standard deviation, so that activations
    keep their scale; "permute" shuffles its entries; "identity" inserts an equal copy, as a control.
    """
    child = module.get_submodule(layer)
    for name, parameter in child.named_parameters(recurse=False):
        fresh = _drawn(parameter.detach(), init, f"{seed} {layer} {name}")
        setattr(child, name, nn.Parameter(fresh, requires_grad=False))


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
