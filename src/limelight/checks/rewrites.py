"""Other ways to write the same network, on a copy: what a user could have written and would not have noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..passes import Model
from ..twin import twin_of


class SplitLinear(nn.Module):
    """A linear layer as the sum of two, each of half the weights, on inputs whose channels are permuted."""

    order: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        order = torch.arange(layer.in_features, device=layer.weight.device).flip(0)
        self.register_buffer("order", order, persistent=False)
        half = layer.in_features // 2
        weight = layer.weight.detach()[:, order]
        self.halves = nn.ParameterList(
            nn.Parameter(part.clone(), requires_grad=False) for part in (weight[:, :half], weight[:, half:])
        )
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    def forward(self, h: Tensor) -> Tensor:
        turned = h[..., self.order]
        first, second = turned.split([len(part.T) for part in self.halves], -1)
        rest: Tensor = nn.functional.linear(second, self.halves[1], self.bias)
        return rest + nn.functional.linear(first, self.halves[0])


class ReluTwice(nn.Module):
    """relu(h) = h + relu(-h)."""

    def forward(self, h: Tensor) -> Tensor:
        return h + torch.relu(-h)


@contextmanager
def rewritten(model: Model) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """A functionally identical copy of the model and what was rewritten in it; nothing, where nothing could be."""
    if not isinstance(model, nn.Module):
        raise ValueError("model: a black box cannot be rewritten")
    with twin_of(model) as twin:
        if twin.module is model:
            raise ValueError("model: it cannot be copied, and the user's own is never edited")
        linear, relu = 0, 0
        for parent in list(twin.module.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Linear and child.in_features > 1:
                    setattr(parent, name, SplitLinear(child))
                    linear += 1
                elif type(child) is nn.ReLU:
                    setattr(parent, name, ReluTwice())
                    relu += 1
        done = [f"{linear} linear layers split in two over permuted channels"] if linear else []
        done += [f"{relu} times relu(h) as h + relu(-h)"] if relu else []
        yield twin.module, tuple(done)
