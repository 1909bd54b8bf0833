"""Named composites: which LRP rule applies to which operator. `.prepend` puts a user's entries in front."""

from typing import Any

from .engine import Entry, Native, Propagation
from .linear import AlphaBeta, Epsilon, Flat, Gamma, LinearRule, WSquare, ZBox, Zero, ZPlus
from .predicates import convolution, dense, first, is_kind
from .relevance import Constant, ConstantScale, Fold, Half, Numerator, Pass, Proportional, Taylor

# Shared by all: activations pass relevance on, batch norm is folded, sums and averages split it in proportion, maxima
# give it to the winner, softmax has its first-order (Taylor) rule, operand times gradient. [bach2015] [achtibat2024]
BASE: tuple[Entry, ...] = (
    (is_kind("activation"), Pass()),
    (is_kind("batch_norm"), Fold()),
    (is_kind("sum"), Proportional()),
    (is_kind("max", "maximum", "where"), Native()),
    (is_kind("softmax"), Taylor()),
    (is_kind("product"), Half()),
    (is_kind("quotient"), Numerator()),
    (is_kind("normalisation"), ConstantScale()),
)


def _lrp(name: str, *entries: Entry) -> Propagation:
    return Propagation(f"LRP({name})", (*entries, *BASE), linear_nodes=False)


def _split(name: str, conv: LinearRule, *firsts: Entry) -> Propagation:
    return _lrp(name, *firsts, (convolution, conv), (dense, Epsilon()))


COMPOSITES: dict[str, Propagation] = {
    composite.name[4:-1]: composite
    for composite in (
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
    """The composite of this name; `low` and `high` bound the model's input for the box rule.

    Raises ValueError for an unknown name.
    """
    if name not in COMPOSITES:
        raise ValueError(f"unknown composite {name!r}; there are {', '.join(COMPOSITES)}")
    if name == "epsilon-gamma-box":
        return _split(name, Gamma(), (first, ZBox(low, high)))
    return COMPOSITES[name]


def deep_taylor(low: Any = None, high: Any = None) -> Propagation:
    r"""Deep Taylor decomposition: $z^+$ without biases everywhere, and at the first layer $w^2$, or the box rule where
    the input is bounded by `low` and `high`. [montavon2017]

    The score must be positive, as after a rectifier: a negative score has no decomposition.
    """
    rule: LinearRule = WSquare(bias=False) if low is None or high is None else ZBox(low, high)
    entries: tuple[Entry, ...] = ((first, rule), (is_kind("affine"), ZPlus(bias=False)), *BASE)
    return Propagation("DeepTaylor", entries, linear_nodes=False)


_EXACT: tuple[Entry, ...] = (
    (is_kind("activation"), Pass()),
    (is_kind("affine", "sum", "batch_norm", "max", "maximum", "where"), Native()),  # LRP-0 is the plain derivative
    (is_kind("product"), Half()),
    (is_kind("quotient"), Numerator()),
    (is_kind("normalisation"), ConstantScale()),
)
ATTN_LRP = Propagation("AttnLRP", (*_EXACT, (is_kind("softmax"), Taylor())), linear_nodes=False)
"""Relevance through attention: softmax by its Taylor rule, products halved, scales constant. [achtibat2024]"""
CP_LRP = Propagation("CP-LRP", (*_EXACT, (is_kind("softmax"), Constant())), linear_nodes=False)
"""Conservative propagation: attention weights and normalisation scales are constants. [ali2022]"""
