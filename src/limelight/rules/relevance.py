"""Relevance rules for operators that are not affine layers. Relevance is operand times multiplier, R = x m."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .audit import source_line
from .call import Call, active
from .deeplift import normalised, product_pull, scaled_pull
from .engine import Propagate, ratio, ruled, stabilised
from .linear import Folding


@dataclass(frozen=True)
class Pass:
    r"""Elementwise operators pass their relevance on: $m_x = m_y\,y / x$ (0 at x = 0). [bach2015]"""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,) = call.operands
        value = x.detach()
        y = call.run(value) if call.value is None else call.value
        return ruled(y, lambda g, slope: ((g * slope).to(x.dtype),), [x], [ratio(y, value)])


@dataclass(frozen=True)
class Proportional:
    r"""Sums and averages: each term gets its share of the total, $m_x = m_y\,y / \mathrm{st}(y)$. [bach2015]

    Before the first layer, where there is only the input's normalisation, plain autograd is used (epsilon 0).
    """

    epsilon: float = 1e-6

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        if not propagate.entered:
            return propagate.native(call)
        y = call.run(*call.operands)
        value = y.detach()
        # A masked attention score is -inf and carries no relevance.
        share = torch.where(value.isfinite(), value / stabilised(value, self.epsilon), 0.0)
        return ruled(value, lambda g, share: (g * share,), [y], [share])


@dataclass(frozen=True)
class Fold:
    r"""Batch norm in evaluation mode is folded into the affine operator before it, with scaled weights, under its rule.

    Only the weights of the rule are scaled; the operator's output stays. Without an affine operator directly before
    it, batch norm is a diagonal operator, for which Proportional is used.
    """

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        (x,) = call.operands
        made = propagate.producer(x)
        folding = None if made is None else made.detail
        # A dense layer's outputs are its last axis, which is the batch norm's only where there are just two.
        if not isinstance(folding, Folding) or folding.operator.channel is None:
            return Proportional()(call, propagate)
        if folding.operator.weight.ndim == 2 and x.ndim > 2:
            return Proportional()(call, propagate)
        scale, shift = batch_norm_scale(call)
        operator = folding.operator.scaled(scale, shift)
        return folding.rule.attach(operator, call.run(x.detach()), folding.x, call, propagate)


def batch_norm_scale(call: Call) -> tuple[Tensor, Tensor]:
    """Read batch norm in evaluation mode as `scale * x + shift` per channel."""
    given = call.bound()
    scale = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
    scale = scale if given.get("weight") is None else scale * given["weight"]
    shift = -given["running_mean"] * scale
    return scale, shift if given.get("bias") is None else shift + given["bias"]


@dataclass(frozen=True)
class Half:
    """Products of two activations: each gets half of the relevance. [achtibat2024]"""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        values = [operand.detach() for operand in call.operands]
        if call.inverted:
            return self._inverted(call, *values)
        if call.in_place:
            values[0] = values[0].clone()
        return ruled(call.run(*values), product_pull(call, 0.5), call.operands, values)

    def _inverted(self, call: Call, a: Tensor, b: Tensor) -> Tensor:
        """Attach the rule to a / b as a product of a and 1 / b, which passes its relevance on to b."""
        y = call.run(a, b)

        def pull(g: Tensor, half: Tensor, share: Tensor) -> tuple[Tensor | None, ...]:
            return (g * half).sum_to_size(a.shape), (g * share).sum_to_size(b.shape)

        return ruled(y, pull, call.operands, [0.5 / b, y / b / 2])


@dataclass(frozen=True)
class Numerator:
    """Quotients, and products with a reciprocal: the numerator gets all relevance, the denominator counts as a
    constant scale. [achtibat2024]"""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        if call.reciprocal is not None:
            values = [operand.detach() for operand in call.operands]
            scale = values[call.reciprocal]
            return ruled(call.run(*values), scaled_pull(call), call.operands, [scale])
        a, b = call.operands
        y = call.run(a.detach(), b.detach())
        if active(a):
            return ruled(y, lambda g, b: ((g / b).sum_to_size(a.shape), None), [a, b], [b.detach()])
        slope = y / stabilised(b.detach(), 1e-12)  # a constant over an activation: an elementwise operator of it
        return ruled(y, lambda g, slope: (None, (g * slope).sum_to_size(b.shape)), [a, b], [slope])


@dataclass(frozen=True)
class ConstantScale:
    r"""Layer, group, instance and RMS norm with the scale $\sigma$ held constant. [ali2022]"""

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        norm = normalised(call)
        if norm is None:  # running statistics: a diagonal affine operator
            return Proportional()(call, propagate)
        (x,) = call.operands
        sigma = norm.scale(norm.centre(norm.rows(x.detach())))

        def pull(g: Tensor, sigma: Tensor) -> tuple[Tensor | None, ...]:
            h = norm.rows(g if norm.weight is None else g * norm.weight) / sigma
            return (norm.centre(h).reshape(g.shape),)

        return ruled(call.run(x.detach()), pull, [x], [sigma])


@dataclass(frozen=True)
class Taylor:
    r"""Softmax by its first-order expansion, $R_i = x_i (R^y_i - s_i \sum_j R^y_j)$: operand times gradient.

    The expansion's constant term absorbs the rest, $\sum_i R^y_i - \sum_i R_i$, which is counted. [achtibat2024]
    """

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,) = call.operands
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_()
            y = call.run(z)

        def pull(g: Tensor, z: Tensor) -> tuple[Tensor | None, ...]:
            (found,) = torch.autograd.grad(y, z, g)
            kept = torch.where(z.isfinite(), z * found, 0.0)  # a masked score is -inf and has no relevance
            propagate.absorbed += float((g * y.detach()).sum() - kept.sum())
            return (found,)

        return ruled(y.detach().clone(), pull, [x], [z])


@dataclass(frozen=True)
class Constant:
    """The operator's output counts as a constant: nothing is propagated through it. [ali2022]"""

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        propagate.constants[f"{call.name} ({source_line()})"] = None
        with torch.no_grad():
            return call.run(*call.operands)
