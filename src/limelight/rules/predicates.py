"""Predicates: which calls of operators a rule applies to."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .call import Call
from .engine import Propagate
from .names import CONVOLUTIONS, RELUS, Kind


@dataclass(frozen=True)
class Is:
    """Operators of one of these kinds."""

    kinds: tuple[Kind, ...]

    def __call__(self, call: Call, propagate: Propagate) -> bool:
        return call.kind in self.kinds


@dataclass(frozen=True)
class Named:
    """Operators of these canonical names."""

    names: frozenset[str]

    def __call__(self, call: Call, propagate: Propagate) -> bool:
        return call.name in self.names


def is_kind(*kinds: Kind) -> Is:
    return Is(kinds)


def named(*names: str) -> Named:
    return Named(frozenset(names))


def convolution(call: Call, propagate: Propagate) -> bool:
    """Match convolutions, transposed ones included, with constant weights."""
    return call.name in CONVOLUTIONS and call.kind == "affine"


def dense(call: Call, propagate: Propagate) -> bool:
    """Match linear layers and products with a constant matrix."""
    return call.name not in CONVOLUTIONS and call.kind == "affine"


def relu_like(call: Call, propagate: Propagate) -> bool:
    """Match ReLU, its leaky and clipped variants, and the spellings of them by `clamp`."""
    return call.name in RELUS and call.kind == "activation"


def first(call: Call, propagate: Propagate) -> bool:
    """Match affine operators that no other affine operator precedes on any path from the input."""
    return call.kind == "affine" and propagate.is_first(*call.operands)


@dataclass(frozen=True)
class weight_of:
    """The operator that uses this module's weight, also in a copy that shares its storage."""

    module: torch.nn.Module = field(hash=False)

    def __call__(self, call: Call, propagate: Propagate) -> bool:
        weight = getattr(self.module, "weight", None)
        if not isinstance(weight, Tensor):
            raise ValueError(f"weight_of({self.module!r}): the module has no weight tensor")
        return any(
            isinstance(a, Tensor) and a.data_ptr() == weight.data_ptr() and a.shape == weight.shape for a in call.args
        )
