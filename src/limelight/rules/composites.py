"""Named propagations: which rule applies to which operator. `.prepend` puts a user's entries in front."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..base.notes import Note
from .affine import Affine
from .audit import source_line
from .backward import Propagated, multipliers
from .call import Call
from .engine import Entry, Native, OnUncovered, Propagate, Propagation
from .linear import AlphaBeta, Epsilon, Flat, Gamma, LinearRule, WhereActivated, WSquare, ZBox, Zero, ZPlus
from .maxima import Winners
from .multilinear import EqualShares
from .predicates import (
    constant_condition,
    convolution,
    dense,
    first,
    input_normalisation,
    is_kind,
    named,
    of_any_target,
    of_target,
    relu_like,
)
from .relevance import Constant, ConstantScale, Fold, Half, Numerator, Pass, Proportional, Taylor
from .ruled import Pulled, ruled_unary
from .shares import by_row

# Shared by LRP, deep Taylor and excitation backprop: activations pass relevance on, batch norm is folded, sums and
# averages split it in proportion, maxima give it to the winner, softmax has its first-order (Taylor) rule, operand
# times gradient. [bach2015] [achtibat2024]
BASE: tuple[Entry, ...] = (
    (is_kind("activation"), Pass()),
    (is_kind("batch_norm"), Fold()),
    (is_kind("sum"), Proportional()),
    (is_kind("max", "maximum"), Winners()),
    (is_kind("where", "order"), Native()),
    (is_kind("softmax"), Taylor()),
    (named("prod"), EqualShares()),
    (is_kind("product"), Half()),
    (is_kind("quotient"), Numerator()),
    (is_kind("normalisation"), ConstantScale()),
)


def _lrp(name: str, *entries: Entry) -> Propagation:
    return Propagation(f"LRP({name})", (*entries, *BASE), linear_nodes=False, fuses=True)


def _split(name: str, conv: LinearRule, *firsts: Entry) -> Propagation:
    return _lrp(name, *firsts, (convolution, conv), (dense, Epsilon()))


# Biases take no relevance where an activation follows, nor does the input's normalisation. In the linear chains between
# activations they take their share: without them the epsilon rule multiplies relevance where terms cancel.
_ACTIVATED_PLUS = _split(
    "activated-plus",
    WhereActivated(ZPlus(bias=False), Epsilon()),
    (input_normalisation, Proportional(bias=False)),
)

COMPOSITES: dict[str, Propagation] = {
    composite.name[4:-1]: composite
    for composite in (
        _ACTIVATED_PLUS,
        _lrp("zero", (is_kind("affine"), Zero())),
        _lrp("epsilon", (is_kind("affine"), Epsilon())),
        _lrp("gamma", (is_kind("affine"), Gamma())),
        _split("epsilon-plus", ZPlus()),
        _split("epsilon-plus-flat", ZPlus(), (first, Flat())),
        _split("epsilon-alpha2-beta1", AlphaBeta(2, 1)),
        _split("epsilon-alpha2-beta1-flat", AlphaBeta(2, 1), (first, Flat())),
        _split("epsilon-gamma-box", Gamma(), (first, ZBox())),
        _split("epsilon-gamma-flat", Gamma(), (first, Flat())),
    )
}


def composite(name: str, low: Any = 0.0, high: Any = 1.0) -> Propagation:
    """Return the composite of this name; `low` and `high` bound the model's input for the box rule.

    Raises ValueError for an unknown name.
    """
    if name not in COMPOSITES:
        raise ValueError(f"unknown composite {name!r}; there are {', '.join(COMPOSITES)}")
    if name == "epsilon-gamma-box":
        return _split(name, Gamma(), (first, ZBox(low, high)))
    return COMPOSITES[name]


def deep_taylor(low: Any = None, high: Any = None) -> Propagation:
    r"""Make Deep Taylor decomposition: $z^+$ without biases everywhere, at the first layer $w^2$, or the box rule where
    the input is bounded by `low` and `high`. [montavon2017]

    The score must be positive, as after a rectifier: a negative score has no decomposition.
    """
    rule: LinearRule = WSquare(bias=False) if low is None or high is None else ZBox(low, high)
    entries: tuple[Entry, ...] = ((first, rule), (is_kind("affine"), ZPlus(bias=False)), *BASE)
    return Propagation("DeepTaylor", entries, linear_nodes=False, fuses=True)


def without_biases(propagation: Propagation) -> Propagation:
    """Return AttnLRP or CP-LRP with rules in place of the derivative where biases are, which then take nothing."""
    unbiased: tuple[Entry, ...] = (
        (is_kind("affine"), Zero(bias=False)),
        (is_kind("sum", "batch_norm"), Proportional(bias=False)),
    )
    return propagation.tuned(bias=False).prepend(*unbiased)


_EXACT: tuple[Entry, ...] = (
    (is_kind("activation"), Pass()),
    (is_kind("affine", "sum", "batch_norm", "where", "order"), Native()),  # LRP-0 is the plain derivative
    (is_kind("max", "maximum"), Winners()),
    (named("prod"), EqualShares()),
    (is_kind("product"), Half()),
    (is_kind("quotient"), Numerator()),
    (is_kind("normalisation"), ConstantScale()),
)
ATTN_LRP = Propagation("AttnLRP", (*_EXACT, (is_kind("softmax"), Taylor())), linear_nodes=False, fuses=True)
"""Relevance through attention: softmax by its Taylor rule, products halved, scales constant. [achtibat2024]"""
CP_LRP = Propagation("CP-LRP", (*_EXACT, (is_kind("softmax"), Constant())), linear_nodes=False, fuses=True)
"""Conservative propagation: attention weights and normalisation scales are constants. [ali2022]"""


@dataclass(frozen=True)
class Deconv:
    r"""$m_x = \max(m_y, 0)$: the rectifier is applied to the multiplier. [zeiler2014]"""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        y = ruled_unary(call, lambda g: (g.clamp(min=0),))
        assert propagate.root is not None
        for row in (by_row((y.detach() != 0).to(y), len(propagate.root)) == 0).nonzero()[:, 0].tolist():
            text = (
                f"every unit of {call.name} is off ({source_line()}): no gradient passes there, but DeconvNet's signal"
            )
            propagate.note(Note("caution", text, row))
        return y


@dataclass(frozen=True)
class Guided:
    r"""$m_x = \max(m_y, 0)\,f'(x)$: for ReLU $\max(m_y, 0)\,[x > 0]$. [springenberg2015]

    Leaky and clipped relatives keep their own slope, of which ReLU's is the case 0 or 1.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        if call.name == "relu":
            return ruled_unary(call, lambda g, y: (torch.ops.aten.threshold_backward(g.clamp(min=0), y, 0),), keep=True)
        # Autograd keeps y for f', and the model may write into the tensor that it gets: that has to be another.
        apart = replace(call, args=(call.args[0].clone(), *call.args[1:])) if call.in_place else call
        y: Tensor = propagate.native(apart, covered=True)
        if y.requires_grad:
            y.register_hook(lambda g: g.clamp(min=0))  # goes with the graph, whose own derivative follows
        return y if call.in_place else y.clone()


# Operators for which these methods use the gradient by definition. Those that could implement a rectifier unseen
# (where, masks, TorchScript) are not among them and are refused. A target is no part of the network: its own
# arithmetic, such as the overlap of two boxes, is differentiated.
_TARGET: Entry = (of_target, Native())
_GRADIENT: tuple[Entry, ...] = (
    (is_kind("affine", "sum", "product", "quotient", "normalisation", "batch_norm", "softmax"), Native()),
    (is_kind("max", "maximum", "order", "activation"), Native()),
    (constant_condition, Native()),
    (of_any_target, Native()),
)
DECONVNET = Propagation(
    "DeconvNet", (_TARGET, (relu_like, Deconv()), *_GRADIENT), answer="multiplier", folds=True, own_rule=Deconv
)
GUIDED_BACKPROP = Propagation(
    "GuidedBackprop", (_TARGET, (relu_like, Guided()), *_GRADIENT), answer="multiplier", folds=True, own_rule=Guided
)


@dataclass(frozen=True)
class NegatedTop(ZPlus):
    """ZPlus with the weight of the topmost operator, the classifier, negated: the evidence for all other classes."""

    def pull(self, operator: Affine, value: Tensor, x: Tensor, call: Call, propagate: Propagate) -> Pulled:
        negated, take = replace(operator, weight=-operator.weight), propagate.taker(x)

        def pull(g: Tensor, value: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
            if propagate.topmost is None:  # the backward pass reaches the classifier first
                propagate.topmost = call
            return (self.multiplier(negated if propagate.topmost is call else operator, value, g, take),)

        return pull, [value.clone(), x]


EXCITATION = Propagation(
    "ExcitationBackprop",
    ((is_kind("affine"), ZPlus(bias=False)), *BASE),
    start="unit",
    linear_nodes=False,
    fuses=True,
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
    r"""Compute the marginal winning probability of each unit, $P_i = \sum_j P_j\,a_i w_{ij}^+ / \sum_k a_k w_{kj}^+$.

    `values` has one channel (summed over axis 1 where there are spatial axes). `contrastive` subtracts the pass with
    the classifier's weight negated and keeps the positive part, at the input or at the layer that `at()` names.
    """
    found = multipliers(forward, x, EXCITATION, at=at, on_uncovered=on_uncovered)
    values, notes = found.values, found.notes
    if contrastive:
        against = multipliers(forward, x, _CONTRAST, at=at, on_uncovered=on_uncovered)
        values, notes = values - against.values, tuple(dict.fromkeys((*notes, *against.notes)))
    values = values.sum(1, keepdim=True) if values.ndim > 2 else values
    if contrastive:  # a difference of two walks, of which the negative part is cut off, is no share of 1
        return replace(found, values=values.clamp(min=0), notes=notes, shares=None)
    assert found.shares is not None
    return replace(found, values=values, shares=found.shares.of_probability(values))
