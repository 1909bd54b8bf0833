"""Backward rules at operator level: DeconvNet to DeepLIFT, LRP, patterns and transformers, on unmodified models.

`multipliers(forward, x, propagation)` runs any of the propagations: `DECONVNET`, `GUIDED_BACKPROP`, `DEEPLIFT[rule]`,
`composite(name)`, `deep_taylor(low, high)`, `ATTN_LRP`, `CP_LRP`, `EXCITATION`, `pattern_net(patterns)`,
`pattern_attribution(patterns)`, or one of your own.
"""

from limelight.rules.audit import UncoveredOperator
from limelight.rules.backward import Propagated, multipliers
from limelight.rules.call import Call
from limelight.rules.composites import ATTN_LRP, COMPOSITES, CP_LRP, composite, deep_taylor
from limelight.rules.engine import Propagate
from limelight.rules.excitation import EXCITATION, excitation
from limelight.rules.guided import DECONVNET, GUIDED_BACKPROP
from limelight.rules.linear import AlphaBeta, Epsilon, Flat, Gamma, LinearRule, WSquare, ZBox, Zero, ZPlus
from limelight.rules.patterns import Patterns, estimate_patterns, pattern_attribution, pattern_net
from limelight.rules.propagation import (
    Native,
    Propagation,
    Rule,
    convolution,
    dense,
    first,
    is_kind,
    named,
    relu_like,
    weight_of,
)
from limelight.rules.relevance import Constant, ConstantScale, Fold, Half, Numerator, Pass, Proportional, Taylor
from limelight.rules.reveal import DEEPLIFT, RevealCancel
from limelight.rules.tape import OtherPath

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
