"""Backward rules at operator level: DeconvNet to DeepLIFT, LRP, patterns and transformers, on unmodified models.

`multipliers(forward, x, propagation)` runs any of the propagations: `DECONVNET`, `GUIDED_BACKPROP`, `DEEPLIFT[rule]`,
`composite(name)`, `deep_taylor(low, high)`, `ATTN_LRP`, `CP_LRP`, `EXCITATION`, `pattern_net(patterns)`,
`pattern_attribution(patterns)`, or one of your own.
"""

from .audit import UncoveredOperator
from .backward import Propagated, multipliers
from .call import Call
from .composites import ATTN_LRP, COMPOSITES, CP_LRP, composite, deep_taylor
from .engine import Native, Propagate, Propagation, Rule
from .excitation import EXCITATION, excitation
from .guided import DECONVNET, GUIDED_BACKPROP
from .linear import AlphaBeta, Epsilon, Flat, Gamma, LinearRule, WSquare, ZBox, Zero, ZPlus
from .patterns import Patterns, estimate_patterns, pattern_attribution, pattern_net
from .predicates import convolution, dense, first, is_kind, named, relu_like, weight_of
from .relevance import Constant, ConstantScale, Fold, Half, Numerator, Pass, Proportional, Taylor
from .reveal import DEEPLIFT, RevealCancel
from .tape import OtherPath

__all__ = [
    "ATTN_LRP",
    "COMPOSITES",
    "CP_LRP",
    "DECONVNET",
    "DEEPLIFT",
    "EXCITATION",
    "GUIDED_BACKPROP",
    "AlphaBeta",
    "Call",
    "Constant",
    "ConstantScale",
    "Epsilon",
    "Flat",
    "Fold",
    "Gamma",
    "Half",
    "LinearRule",
    "Native",
    "Numerator",
    "OtherPath",
    "Pass",
    "Patterns",
    "Propagate",
    "Propagated",
    "Propagation",
    "Proportional",
    "RevealCancel",
    "Rule",
    "Taylor",
    "UncoveredOperator",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "composite",
    "convolution",
    "deep_taylor",
    "dense",
    "estimate_patterns",
    "excitation",
    "first",
    "is_kind",
    "multipliers",
    "named",
    "pattern_attribution",
    "pattern_net",
    "relu_like",
    "weight_of",
]
