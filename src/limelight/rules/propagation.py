"""Propagations: which rule answers for which operator. Ordered (predicate, rule) pairs; the first match wins."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from .call import Call, Kind
from .names import ACTIVATIONS, CONVOLUTIONS, MATRIX_PRODUCTS, MAX_POOLS, NORMALISATIONS, RELUS, SOFTMAXES

if TYPE_CHECKING:
    from .engine import Propagate


class Rule(Protocol):
    """What a backward rule is: given a call, return the operator's value with the rule as its backward."""

    def __call__(self, call: Call, propagate: "Propagate") -> Any: ...


Predicate = Callable[[Call, "Propagate"], bool]
Entry = tuple[Predicate, Rule]


@dataclass(frozen=True)
class Native:
    """Plain autograd, chosen on purpose: the propagation's definition leaves this operator's derivative alone."""

    def __call__(self, call: Call, propagate: "Propagate") -> Any:
        return propagate.native(call, covered=True)


@dataclass(frozen=True)
class Is:
    """Operators of one of these kinds."""

    kinds: tuple[Kind, ...]

    def __call__(self, call: Call, propagate: "Propagate") -> bool:
        return call.kind in self.kinds


@dataclass(frozen=True)
class Named:
    """Operators of these canonical names."""

    names: frozenset[str]

    def __call__(self, call: Call, propagate: "Propagate") -> bool:
        return call.name in self.names


def is_kind(*kinds: Kind) -> Is:
    return Is(kinds)


def named(*names: str) -> Named:
    return Named(frozenset(names))


def convolution(call: Call, propagate: "Propagate") -> bool:
    """Convolutions, transposed ones included, with constant weights."""
    return call.name in CONVOLUTIONS and call.kind == "affine"


def dense(call: Call, propagate: "Propagate") -> bool:
    """Linear layers and products with a constant matrix."""
    return call.name not in CONVOLUTIONS and call.kind == "affine"


def relu_like(call: Call, propagate: "Propagate") -> bool:
    """ReLU, its leaky and clipped relatives, and `clamp` as a way of spelling them."""
    return call.name in RELUS and call.kind == "activation"


def first(call: Call, propagate: "Propagate") -> bool:
    """Affine operators that no other affine operator precedes on any path from the input."""
    return call.kind == "affine" and propagate.is_first(*call.operands)


@dataclass(frozen=True)
class weight_of:
    """The operator that uses this module's weight, also in a copy that shares its storage."""

    module: torch.nn.Module = field(hash=False)

    def __call__(self, call: Call, propagate: "Propagate") -> bool:
        weight = getattr(self.module, "weight", None)
        if not isinstance(weight, Tensor):
            raise ValueError(f"weight_of({self.module!r}): the module has no weight tensor")
        return any(
            isinstance(a, Tensor) and a.data_ptr() == weight.data_ptr() and a.shape == weight.shape for a in call.args
        )


@dataclass(frozen=True)
class Propagation:
    """A backward method as data: its name, its rules in order, and how its answer is read.

    `answer`: `"multiplier"` returns what arrives at the input; `"relevance"` returns it times (input - reference),
    plus the relevance of rules that hand over relevance itself.
    `start`: the score carries itself downwards, or `"unit"` relevance (excitation backprop's probability).
    `taped`: names of the operators whose operands are recorded in the reference run.
    `linear_nodes`: whether a native linear node in the graph is this method's own rule.
    `own_rule`: the one rule that tells the method from the plain gradient; where it never acts, the answer says so.
    """

    name: str
    entries: tuple[Entry, ...]
    answer: Literal["multiplier", "relevance"] = "relevance"
    start: Literal["score", "unit"] = "score"
    taped: frozenset[str] = frozenset()
    linear_nodes: bool = True
    producers: bool = False
    own_rule: type | None = None

    @property
    def needs_reference(self) -> bool:
        return bool(self.taped)

    def prepend(self, *entries: Entry) -> "Propagation":
        """The same propagation with the user's rules in front of its own."""
        return replace(self, entries=(*entries, *self.entries))

    def rule(self, call: Call, propagate: "Propagate") -> Rule | None:
        return next((rule for predicate, rule in self.entries if predicate(call, propagate)), None)


# Every operator whose value depends nonlinearly on what varies: what a method with a reference must record.
NONLINEAR = (
    ACTIVATIONS
    | MAX_POOLS
    | NORMALISATIONS
    | SOFTMAXES
    | MATRIX_PRODUCTS
    | {"mul", "div", "maximum", "minimum", "max", "min", "amax", "amin", "where"}
)
AFFINE = CONVOLUTIONS | MATRIX_PRODUCTS | {"linear"}
