"""Relevance rules for operators that are not affine layers. Relevance is operand times multiplier, R = x m."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .audit import source_line
from .call import Call, active
from .deeplift import normalised, product_pull, scaled_pull
from .engine import Propagate
from .linear import Folding
from .ruled import ratio, ruled, stabilised
from .shares import BIASES, CONSTANTS, EPSILON, SOFTMAX, ZEROS, constant_part


@dataclass(frozen=True)
class Pass:
    r"""Elementwise operators pass their relevance on: $m_x = m_y\,y / x$ (0 at x = 0). [bach2015]"""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,) = call.operands
        value, dtype = x.detach(), x.dtype  # x in the closure would make a circle where the operator writes into it
        y = call.run(value) if call.value is None else call.value
        found = ruled(y, lambda g, slope: ((g * slope).to(dtype),), [x], [ratio(y, value)])
        at_zero = None if call.name == "relu" else torch.where(value == 0, y, 0.0)
        if at_zero is not None and bool(at_zero.any()):
            propagate.counted(found, at_zero, ZEROS)
        return found


@dataclass(frozen=True)
class Proportional:
    r"""Sums and averages: each term gets its share of the total, whose multiplier is the derivative. [bach2015]

    `bias=False` shares among the terms that vary alone, $m_x = m_y\,y / (y - c)$ for a constant part c.
    `relative=False` is zennit's form, $m_x = m_y\,y / (y + \epsilon\,\mathrm{sign}(y))$ after the first layer.
    """

    epsilon: float = 1e-6
    bias: bool = True
    relative: bool = True

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        constant = None if self.bias else constant_part(call)
        if constant is None and (self.relative or not propagate.entered):
            return propagate.native(call)
        y = call.run(*call.operands)
        if constant is None:
            propagate.counted(y, constant_part(call), BIASES)
            share = y.detach() / stabilised(y.detach(), self.epsilon)
            return _scaled(y, y.detach(), share, propagate, EPSILON)
        return _among_varying(y, constant, propagate) if propagate.entered else _past_normalisation(y, propagate)


def _among_varying(y: Tensor, constant: Tensor, propagate: Propagate) -> Tensor:
    """Give all relevance of y = rest + constant to the rest, m = g y / rest; where it is 0 the constant keeps it."""
    rest = y.detach() - constant
    share = torch.where(rest == 0, 0.0, y.detach() / stabilised(rest, 1e-12 * constant.abs()))
    return _scaled(y, rest, share, propagate, CONSTANTS)


def _scaled(y: Tensor, rest: Tensor, share: Tensor, propagate: Propagate, name: str) -> Tensor:
    """Multiply the multiplier by a share, and count the relevance that y - share * rest stands for.

    A masked attention score is -inf and carries no relevance.
    """
    value, take = y.detach(), propagate.taker(y)
    lost = torch.where(value.isfinite(), value - share * rest, 0.0)

    def pull(g: Tensor, share: Tensor, lost: Tensor) -> tuple[Tensor | None, ...]:
        take(name, g * lost)
        return (g * share,)

    return ruled(value, pull, [y], [torch.where(value.isfinite(), share, 0.0), lost])


def _past_normalisation(y: Tensor, propagate: Propagate) -> Tensor:
    """Hand the relevance of a normalised input to the input itself, to its zeros too, which no multiplier can do."""
    propagate.keeps_graph = True

    def pull(g: Tensor, value: Tensor) -> tuple[Tensor | None, ...]:
        if not propagate.propagating:  # a pass that maps relevance from here, or from a first layer, to the input
            return (g,)
        propagate.first_relevances.append((y, g * value))
        return (None,)

    return ruled(y.detach(), pull, [y], [y.detach().clone()])


@dataclass(frozen=True)
class Fold:
    r"""Batch norm in evaluation mode is folded into the affine operator before it, with scaled weights, under its rule.

    Only the weights of the rule are scaled; the operator's output stays. Without an affine operator directly before
    it, batch norm is a diagonal operator, for which Proportional is used.
    """

    bias: bool = True
    relative: bool = True

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        (x,) = call.operands
        made = propagate.producer(x)
        folding = None if made is None else made.detail
        alone = Proportional(bias=self.bias, relative=self.relative)
        # A dense layer's outputs are its last axis, which is the batch norm's only where there are just two.
        if not isinstance(folding, Folding) or folding.operator.channel is None:
            return alone(call, propagate)
        if folding.operator.weight.ndim == 2 and x.ndim > 2:
            return alone(call, propagate)
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
        y = ruled(call.run(*values), product_pull(call, 0.5), call.operands, values)
        if call.bias is not None:
            propagate.counted(y, constant_part(call), BIASES)
        return y

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
    r"""Layer, group, instance and RMS norm with the scale $\sigma$ held constant. [ali2022]

    `bias=False` shares without the norm's own bias, whose part is otherwise lost.
    """

    bias: bool = True
    relative: bool = True

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        norm = normalised(call)
        if norm is None:  # running statistics: a diagonal affine operator
            return Proportional(bias=self.bias, relative=self.relative)(call, propagate)
        (x,) = call.operands
        sigma = norm.scale(norm.centre(norm.rows(x.detach())))

        def pull(g: Tensor, sigma: Tensor) -> tuple[Tensor | None, ...]:
            h = norm.rows(g if norm.weight is None else g * norm.weight) / sigma
            return (norm.centre(h).reshape(g.shape),)

        y, constant = ruled(call.run(x.detach()), pull, [x], [sigma]), constant_part(call)
        if constant is None:
            return y
        if not self.bias:
            return _among_varying(y, constant, propagate)
        propagate.counted(y, constant, BIASES)
        return y


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
        take = propagate.taker(x)

        def pull(g: Tensor, z: Tensor) -> tuple[Tensor | None, ...]:
            (found,) = torch.autograd.grad(y, z, g)
            kept = torch.where(z.isfinite(), z * found, 0.0)  # a masked score is -inf and has no relevance
            take(SOFTMAX, (g * y.detach()).nan_to_num(0.0, 0.0, 0.0))
            take(SOFTMAX, -kept)
            return (found,)

        return ruled(y.detach().clone(), pull, [x], [z])


@dataclass(frozen=True)
class Constant:
    """The operator's output counts as a constant: nothing is propagated through it. [ali2022]"""

    def __call__(self, call: Call, propagate: Propagate) -> Any:
        propagate.constants[f"{call.name} ({source_line()})"] = None
        with torch.no_grad():
            return call.run(*call.operands)
