"""Excitation backprop: a winner-take-all probability, propagated through excitatory connections. [zhang2018]"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from .affine import Affine
from .backward import Propagated, multipliers
from .call import Call
from .composites import BASE
from .engine import OnUncovered, Propagate, Propagation, Pull
from .linear import ZPlus
from .predicates import is_kind


@dataclass(frozen=True)
class NegatedTop(ZPlus):
    """ZPlus with the weight of the topmost operator, the classifier, negated: the evidence for all other classes."""

    def pull(
        self, operator: Affine, value: Tensor, x: Tensor, call: Call, propagate: Propagate
    ) -> tuple[Pull, list[Tensor]]:
        negated = replace(operator, weight=-operator.weight)

        def pull(g: Tensor, value: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
            if propagate.topmost is None:  # the backward pass reaches the classifier first
                propagate.topmost = call
            return (self.multiplier(negated if propagate.topmost is call else operator, value, g),)

        return pull, [value.clone(), x]


EXCITATION = Propagation(
    "ExcitationBackprop", ((is_kind("affine"), ZPlus(bias=False)), *BASE), start="unit", linear_nodes=False
)
_CONTRAST = replace(EXCITATION, entries=((is_kind("affine"), NegatedTop(bias=False)), *BASE))


def excitation(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    contrastive: bool = False,
    at: Callable[[], Tensor] | None = None,
    on_uncovered: OnUncovered = "error",
) -> Propagated:
    r"""The marginal winning probability of every unit, $P_i = \sum_j P_j\,a_i w_{ij}^+ / \sum_k a_k w_{kj}^+$.

    `values` has one channel (summed over axis 1 where there are spatial axes). `contrastive` subtracts the pass with
    the classifier's weight negated and keeps the positive part, at the input or at the layer that `at()` names.
    """
    found = multipliers(forward, x, EXCITATION, at=at, on_uncovered=on_uncovered)
    values, notes = found.values, found.notes
    if contrastive:
        against = multipliers(forward, x, _CONTRAST, at=at, on_uncovered=on_uncovered)
        values, notes = values - against.values, tuple(dict.fromkeys((*notes, *against.notes)))
    values = values.sum(1, keepdim=True) if values.ndim > 2 else values
    return replace(found, values=values.clamp(min=0) if contrastive else values, notes=notes)
