"""Rows that a method really ran, ours and a peer's alike, counted by one forward hook on the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .scenes import Scene


@dataclass
class Passes:
    """Each call of the model: its rows, and how many of them a backward pass went through."""

    forward: list[int] = field(default_factory=list)
    backward: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{sum(self.forward)} / {sum(self.backward)}" if self.forward else "-"


@contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count the model's passes. The hook is a plain function, so a deep copy of the model counts here as well."""
    passes = Passes()

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        call = len(passes.forward)
        passes.forward.append(len(output))
        passes.backward.append(0)

        def on_gradient(gradient: Tensor) -> None:
            passes.backward[call] += len(gradient)

        if output.requires_grad:
            output.register_hook(on_gradient)

    handle = model.register_forward_hook(hook)
    try:
        yield passes
    finally:
        handle.remove()


def bare(scene: Scene, passes: Passes, channels_last: bool = False) -> Callable[[], None]:
    """The same passes by the model alone: frozen parameters, rows made beforehand.

    In the layout that ours runs in (contiguous for gradients, on a CPU channels-last without), or all channels-last.
    """
    model = copy.deepcopy(scene.model).requires_grad_(False)
    on_cpu = scene.x.device.type == "cpu"
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = []
    for rows, backward in zip(passes.forward, passes.backward, strict=True):
        fast = channels_last or (on_cpu and not backward)
        layout = torch.channels_last if fast else torch.contiguous_format
        batch = scene.x.repeat(rows, 1, 1, 1).contiguous(memory_format=layout)
        batches.append(batch.requires_grad_(backward > 0))

    def run() -> None:
        for rows in batches:
            with torch.set_grad_enabled(rows.requires_grad):
                score = model(rows)[:, scene.target].sum()
            if rows.requires_grad:
                torch.autograd.grad(score, rows)

    return run
