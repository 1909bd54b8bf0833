"""Copies of a network that compute the same function by other operators."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..base.errors import NotApplicable
from ..base.types import Model
from ..engine.as_written import eagerly
from ..engine.carried import arguments
from ..engine.model_copy import editable_copy
from ..engine.programs import rows_taken
from .positive_part import Rectified, between_rectifiers, rectify


class SplitLinear(nn.Module):
    """A linear layer as the sum of two, each of half the weights, on inputs whose channels are permuted.

    It has the layer's interface: `input` by position or name, `weight`, `bias`, `in_features`, `out_features`.
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
        """The layer's weight `(out, in)`, for a parent module that reads it."""
        return torch.cat([*self.halves], 1)[:, self.order.argsort()]

    def forward(self, input: Tensor) -> Tensor:
        turned = input[..., self.order]
        first, second = turned.split([len(part.T) for part in self.halves], -1)
        rest: Tensor = nn.functional.linear(second, self.halves[1], self.bias)
        return rest + nn.functional.linear(first, self.halves[0])


class ReluTwice(nn.Module):
    """Compute relu(h) as h + relu(-h)."""

    def forward(self, input: Tensor) -> Tensor:
        return input + torch.relu(-input)


@contextmanager
def rewritten(model: Model, x: Tensor, read: Collection[str] = ()) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Yield a functionally identical copy of the model and the rewrites made in it, which may be none.

    A layer between two rectifiers becomes `Rectified`, other linear layers `SplitLinear`, an nn.ReLU `ReluTwice`. The
    outputs of the layers in `read`, which a map is made of, stay as they are. Raises ValueError for a black box or a
    model that cannot be copied; NotApplicable where the copy does not run on `x` because the model reads a replaced
    layer instead of calling it.
    """
    with editable_copy(model, "cannot be rewritten") as copied:
        between = between_rectifiers(copied, x[:1], read)
        rectify(copied, between)
        linear, relu = 0, 0
        for parent in [each for each in copied.modules() if not isinstance(each, Rectified)]:
            for name, child in parent.named_children():
                if type(child) is nn.Linear and child.in_features > 1:
                    setattr(parent, name, SplitLinear(child))
                    linear += 1
                elif type(child) is nn.ReLU:
                    setattr(parent, name, ReluTwice())
                    relu += 1
        done = [f"{len(between)} layers between rectifiers as relu(u) - v"] if between else []
        done += [f"{linear} linear layers split in two over permuted channels"] if linear else []
        done += [f"{relu} times relu(h) as h + relu(-h)"] if relu else []
        require_runs(copied, x, ", ".join(done))
        yield copied, tuple(done)


def require_runs(module: nn.Module, x: Tensor, change: str) -> None:
    """Raise NotApplicable, with the error, if a changed copy does not run on the first example of `x`."""
    try:
        with torch.enable_grad():
            placed, named = arguments(x[:1].clone().requires_grad_())
            module(*placed, **named)
    except Exception as error:  # whatever a user's model raises; the model itself has run on x
        raise NotApplicable(f"the copy with {change} does not run: {type(error).__name__}: {error}") from error


def run_with_hook(module: nn.Module, x: Tensor, names: Iterable[str], hook: Callable[..., None]) -> None:
    """Run the module on `x`; `hook(name, layer, args, kwargs)` is called before each of the named layers runs."""
    layers = [(name, module.get_submodule(name)) for name in names]
    if not layers:
        return
    handles = [layer.register_forward_pre_hook(partial(hook, name), with_kwargs=True) for name, layer in layers]
    try:
        with torch.no_grad(), eagerly():
            rows = rows_taken(dict(module.named_modules())).padded(x)
            placed, named = arguments(rows)
            module(*placed, **named)
    finally:
        for handle in handles:
            handle.remove()
