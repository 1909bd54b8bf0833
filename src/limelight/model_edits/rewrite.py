"""Other ways to write the same network, on a copy: what a user could have written and would not have noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..base.errors import NotApplicable
from ..engine.model_copy import frozen_copy
from ..engine.runner import Model


class SplitLinear(nn.Module):
    """A linear layer as the sum of two, each of half the weights, on inputs whose channels are permuted.

    Called and read as the layer is: `input` by place or name, `weight`, `bias`, `in_features`, `out_features`.
    """

    order: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        order = torch.arange(layer.in_features, device=layer.weight.device).flip(0)
        self.register_buffer("order", order, persistent=False)
        half = layer.in_features // 2
        weight = layer.weight.detach()[:, order]
        self.halves = nn.ParameterList(
            nn.Parameter(part.clone(), requires_grad=False) for part in (weight[:, :half], weight[:, half:])
        )
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The layer's own weights, for a parent that reads them."""
        return torch.cat([*self.halves], 1)[:, self.order.argsort()]

    def forward(self, input: Tensor) -> Tensor:
        turned = input[..., self.order]
        first, second = turned.split([len(part.T) for part in self.halves], -1)
        rest: Tensor = nn.functional.linear(second, self.halves[1], self.bias)
        return rest + nn.functional.linear(first, self.halves[0])


class ReluTwice(nn.Module):
    """relu(h) = h + relu(-h)."""

    def forward(self, input: Tensor) -> Tensor:
        return input + torch.relu(-input)


@contextmanager
def rewritten(model: Model, x: Tensor) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """A functionally identical copy of the model and what was rewritten in it; nothing, where nothing could be.

    Raises NotApplicable where the copy does not run on `x`: the model asks of a layer what only the layer can do.
    """
    if not isinstance(model, nn.Module):
        raise ValueError("model: a black box cannot be rewritten")
    with frozen_copy(model) as twin:
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
        require_runs(twin.module, x, ", ".join(done))
        yield twin.module, tuple(done)


def require_runs(module: nn.Module, x: Tensor, change: str) -> None:
    """Raise NotApplicable, with what went wrong, for a changed copy that does not run on the first of `x`."""
    try:
        with torch.enable_grad():
            module(x[:1].clone().requires_grad_())
    except Exception as error:  # whatever a user's model raises; the model itself has run on x
        message = f"the copy with {change} does not run: {type(error).__name__}: {error}"
        raise NotApplicable(message) from error
