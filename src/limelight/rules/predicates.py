"""Predicates: which calls of operators a rule applies to."""

from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..base.contexts import setting
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
    """Match the operators of these kinds, as `rules/names.py` lists them."""
    return Is(kinds)


def named(*names: str) -> Named:
    """Match the operators of these names, such as "prod"."""
    return Named(frozenset(names))


def convolution(call: Call, propagate: Propagate) -> bool:
    """Match convolutions, transposed ones included, with constant weights."""
    return call.name in CONVOLUTIONS and call.kind == "affine"


def dense(call: Call, propagate: Propagate) -> bool:
    """Match linear layers and products with a constant matrix."""
    return call.name not in CONVOLUTIONS and call.kind == "affine"


def relu_like(call: Call, propagate: Propagate) -> bool:
    """Match ReLU, its leaky and clipped variants, and the spellings of them by `clamp`, unless it clips above alone."""
    if call.name == "clamp" and (call.args[1] if len(call.args) > 1 else call.kwargs.get("min")) is None:
        return False
    return call.name in RELUS and call.kind == "activation"


def constant_condition(call: Call, propagate: Propagate) -> bool:
    """Match `where` by a condition that does not depend on the input, which is linear in what it selects."""
    return call.kind == "where" and not propagate.is_made_constant(call.args[0])


def of_target(call: Call, propagate: Propagate) -> bool:
    """Match what a target of limelight's own computes from the model's outputs."""
    return _target.get() == "own"


def of_any_target(call: Call, propagate: Propagate) -> bool:
    """Match what any target computes from the model's outputs, a callable of the user's too."""
    return _target.get() is not None


_target: ContextVar[Literal["own", "user's"] | None] = ContextVar("whose target is being computed", default=None)


def computing_target(own: bool) -> AbstractContextManager[None]:
    """While this is open, operators are the target's: limelight's `own`, or a callable of the user's."""
    return setting(_target, "own" if own else "user's")


def first(call: Call, propagate: Propagate) -> bool:
    """Match affine operators that no other affine operator precedes on any path from the input."""
    return call.kind == "affine" and propagate.is_first(*call.operands)


def input_normalisation(call: Call, propagate: Propagate) -> bool:
    """Match sums and batch norms before the first affine operator, where only the input's normalisation lies."""
    return call.kind in ("sum", "batch_norm") and not propagate.entered


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
