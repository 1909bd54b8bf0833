"""What `lineage.py` knows of tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Chain:
    """A tensor as a function of `source`, position by position, while the source's version is `version`.

    `scaled`: it is the source times a constant. `bent`: it is not linear in the source (or linear plus a constant).
    `exponential`: it is an exponential, scaled and shifted, as under the line of a gate. `arithmetic`: it consists of
    sums, products, powers and roots alone. `length`: how many operators `run` calls.
    """

    source: Tensor
    version: int
    run: Function
    scaled: bool = True
    bent: bool = False
    exponential: bool = False
    arithmetic: bool = True
    length: int = 0


@dataclass(frozen=True, eq=False)
class Total:
    """The sum of the exponentials `of` over these axes; `reciprocal`: one over it."""

    of: "Exponential"
    dims: tuple[int, ...]
    keepdim: bool
    reciprocal: bool = False


@dataclass(frozen=True, eq=False)
class At:
    """A tensor as it was at this version."""

    tensor: Tensor
    version: int

    @property
    def valid(self) -> bool:
        return self.tensor._version == self.version


@dataclass(frozen=True, eq=False)
class Shifted:
    """The tensor `x` minus its maximum over the axes that have size 1 (or none) in `shape`."""

    x: At
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Exponential:
    """$e^u$, with the values of u at the reference where they are known."""

    u: At
    reference: tuple[Tensor, ...]
    shifted: Shifted | None = None

    def same(self, other: "Exponential | None") -> bool:
        """Whether another is the exponential of the same tensor."""
        return other is not None and other.u.tensor is self.u.tensor and other.u.version == self.u.version


@dataclass(frozen=True, eq=False)
class Normal:
    """The operator `name` of x over `dim`: softmax, log_softmax, or logsumexp with the axis kept.

    `reference` holds x at the reference where it is known.
    """

    name: str
    x: At
    dim: Any
    reference: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Origin:
    """What is known of a tensor."""

    chain: Chain | None = None
    reciprocal: bool = False
    exponential: Exponential | None = None
    total: Total | None = None
    maximum_of: At | None = None
    shifted: Shifted | None = None
    normal: Normal | None = None
