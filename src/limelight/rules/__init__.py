"""Backward rules at operator level: DeconvNet to DeepLIFT, LRP, patterns and transformers, on unmodified models.

`multipliers(forward, x, propagation)` runs any of the propagations: `DECONVNET`, `GUIDED_BACKPROP`, `DEEPLIFT[rule]`,
`composite(name)`, `deep_taylor(low, high)`, `ATTN_LRP`, `CP_LRP`, `EXCITATION`, `pattern_net(patterns)`,
`pattern_attribution(patterns)`, or one of your own.
"""

from .audit import UncoveredOperator as UncoveredOperator
from .backward import Propagated as Propagated, multipliers as multipliers
from .call import Call as Call
from .composites import (
    ATTN_LRP as ATTN_LRP,
    COMPOSITES as COMPOSITES,
    CP_LRP as CP_LRP,
    DECONVNET as DECONVNET,
    EXCITATION as EXCITATION,
    GUIDED_BACKPROP as GUIDED_BACKPROP,
    composite as composite,
    deep_taylor as deep_taylor,
    excitation as excitation,
    without_biases as without_biases,
)
from .engine import (
    Native as Native,
    Propagate as Propagate,
    Propagation as Propagation,
    Rule as Rule,
)
from .linear import (
    AlphaBeta as AlphaBeta,
    Epsilon as Epsilon,
    Flat as Flat,
    Gamma as Gamma,
    LinearRule as LinearRule,
    Sharing as Sharing,
    WhereActivated as WhereActivated,
    WSquare as WSquare,
    ZBox as ZBox,
    Zero as Zero,
    ZPlus as ZPlus,
)
from .patterns import (
    Patterns as Patterns,
    estimate_patterns as estimate_patterns,
    pattern_attribution as pattern_attribution,
    pattern_net as pattern_net,
)
from .predicates import (
    convolution as convolution,
    dense as dense,
    first as first,
    input_normalisation as input_normalisation,
    is_kind as is_kind,
    named as named,
    relu_like as relu_like,
    weight_of as weight_of,
)
from .relevance import (
    Constant as Constant,
    ConstantScale as ConstantScale,
    Fold as Fold,
    Half as Half,
    Numerator as Numerator,
    Pass as Pass,
    Proportional as Proportional,
    Taylor as Taylor,
)
from .reveal import DEEPLIFT as DEEPLIFT, RevealCancel as RevealCancel, of_part as of_part
from .shares import Shares as Shares
from .tape import OtherPath as OtherPath
