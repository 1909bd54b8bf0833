"""Convolutions whose weights were laid out before, for whoever sees the model's operators.

The engine enters them for the time of a pass. In a pass by rules the mode then runs the model's calls of `conv2d` on
them, and the rules' linear operators use them wherever they work with the call's own weights.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..base.contexts import setting


class Convolution(Protocol):
    """A convolution with weights of its own, forward and transposed to an input of a spatial size."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def conv2d(self, x: Tensor, **settings: Any) -> Tensor: ...

    def backward(self, gradient: Tensor, size: tuple[int, int]) -> Tensor: ...


_entered: ContextVar[Mapping[int, Convolution]] = ContextVar("packed convolutions", default={})  # noqa: B039  never written to


def entered(convolutions: Mapping[int, Convolution]) -> AbstractContextManager[None]:
    """Use these convolutions while this is open, by the id of the weight that the model calls `conv2d` with."""
    return setting(_entered, convolutions)


def of_weight(weight: object) -> Convolution | None:
    """Return the convolution that was entered for this very weight."""
    return _entered.get().get(id(weight))


@dataclass(frozen=True, eq=False)
class Conv2d:
    """`conv2d` that runs the weight and bias of one call as they were laid out, and all others by `func`."""

    convolution: Convolution
    func: Callable[..., Any]
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *settings: Any, **named: Any) -> Any:
        return self.convolution(x) if self.has(weight, bias) else self.func(x, weight, bias, *settings, **named)

    def has(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether these are the call's own, and no gradient to them is asked for."""
        return _same(weight, self.weight) and _same(bias, self.bias)

    def transpose(self, weight: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor | None:
        """Return the transposed convolution of v; None for other weights than the call's own."""
        return self.convolution.backward(v, size) if _same(weight, self.weight) and v.dtype == weight.dtype else None


def packed(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """Return what runs a call of `conv2d` whose weight was entered; `func` itself for all others."""
    weight = args[1] if len(args) > 1 else kwargs.get("weight")
    convolution = of_weight(weight)
    if convolution is None or not isinstance(weight, Tensor):
        return func
    return Conv2d(convolution, func, weight, args[2] if len(args) > 2 else kwargs.get("bias"))


def _same(tensor: Tensor | None, own: Tensor | None) -> bool:
    if tensor is None or own is None:
        return tensor is own
    return tensor is own or (
        not tensor.requires_grad
        and (tensor.data_ptr(), tensor.shape, tensor.stride()) == (own.data_ptr(), own.shape, own.stride())
    )
