"""Backward passes that change only the rectifiers: DeconvNet and Guided Backpropagation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .call import Call
from .engine import Native, Propagate, Propagation, ruled
from .names import ACTIVATIONS, RELUS
from .predicates import is_kind, named, relu_like


@dataclass(frozen=True)
class Deconv:
    r"""$m_x = \max(m_y, 0)$: the rectifier is applied to the multiplier. [zeiler2014]"""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,) = call.operands
        return ruled(call.run(x.detach()), lambda g: (g.clamp(min=0),), [x])


@dataclass(frozen=True)
class Guided:
    r"""$m_x = \max(m_y, 0)\,f'(x)$: for ReLU $\max(m_y, 0)\,[x > 0]$. [springenberg2015]

    Leaky and clipped relatives keep their own slope, of which ReLU's is the case 0 or 1.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,) = call.operands
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_()
            y = call.run(z)
            (slope,) = torch.autograd.grad(y.sum(), z)
        return ruled(y, lambda g, slope: (g.clamp(min=0) * slope,), [x], [slope])


# Operators for which these methods use the gradient by definition. Operators that could implement a rectifier
# (maximum, where, masks, TorchScript) are not among them and are refused.
_GRADIENT = (
    (is_kind("affine", "sum", "product", "quotient", "normalisation", "batch_norm", "softmax", "max"), Native()),
    (named(*(ACTIVATIONS - RELUS), "clamp_max"), Native()),
)
DECONVNET = Propagation("DeconvNet", ((relu_like, Deconv()), *_GRADIENT), answer="multiplier", own_rule=Deconv)
GUIDED_BACKPROP = Propagation(
    "GuidedBackprop", ((relu_like, Guided()), *_GRADIENT), answer="multiplier", own_rule=Guided
)
