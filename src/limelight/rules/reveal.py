r"""RevealCancel: positive and negative changes of a nonlinearity's input are propagated separately. [shrikumar2017]

$$\Delta y^+ = \tfrac12\big[f(x_0 + \Delta^+) - f(x_0) + f(x_0 + \Delta^+ + \Delta^-) - f(x_0 + \Delta^-)\big]$$

and $\Delta y^-$ with the signs exchanged; $m^\pm = \Delta y^\pm / \Delta^\pm$. $\Delta^\pm$ come from the affine
operator that made the input, by the linear rule: each term $w\,\Delta$ belongs to the part of its own sign. Where a
sum of two tensors made it, the parts are its two terms whatever their signs: the rule is then their Shapley value.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .affine import affine
from .call import Call
from .deeplift import RESCALE, Rescale
from .engine import Propagate, Propagation
from .maxima import MaxShapley
from .names import AFFINE, CONVOLUTIONS, POWERS, SUMS, words
from .predicates import is_kind
from .relevance import batch_norm_scale
from .ruled import ruled

Streams = tuple[Tensor, Tensor]
# Operators that only move numbers, which both streams pass through unchanged.
_MOVES = words("""
    view reshape flatten unflatten permute transpose squeeze unsqueeze contiguous t movedim getitem select narrow flip
    roll swapaxes clone dropout dropout1d dropout2d dropout3d
""")


@dataclass(frozen=True)
class RevealCancel:
    """The rule above for elementwise operators whose affine producer is of one of these kinds, Rescale elsewhere.

    Powers, roots and reciprocals have Rescale: they make statistics, so that a normalisation written out is one.
    `convolutions=False` is DeepLIFT's recommendation for genomics: Rescale after convolutions, this after dense layers.
    """

    convolutions: bool = True

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,), (x0,) = call.operands, call.reference
        maker = _maker(x, propagate)
        if call.name in POWERS or call.name == "arithmetic":
            return Rescale()(call, propagate)
        if not self.convolutions and (maker is None or maker.kind != "affine" or maker.name in CONVOLUTIONS):
            return Rescale()(call, propagate)
        streams = _streams(x, x0, propagate)
        up, down = (stream.detach() for stream in streams)
        f0, f_up, f_down = call.run(x0.expand_as(x)), call.run(x0 + up), call.run(x0 + down)
        y = call.run(x.detach())
        m_up = _slope(call, up, ((f_up - f0) + (y - f_down)) / 2, (x0, x0 + down))
        m_down = _slope(call, down, ((f_down - f0) + (y - f_up)) / 2, (x0, x0 + up))
        return ruled(y, lambda g, a, b: (g * a, g * b), list(streams), [m_up, m_down])


def _slope(call: Call, change: Tensor, effect: Tensor, starts: tuple[Tensor, Tensor]) -> Tensor:
    """Return effect / change, or its limit, the mean derivative at the starts, where the change vanishes."""
    scale = torch.maximum(starts[0].abs(), starts[1].abs())
    near = (change.abs() <= torch.finfo(change.dtype).eps ** (2 / 3) * scale) | (change == 0)
    slope = effect / change.masked_fill(near, 1.0)
    if near.any():
        with torch.enable_grad():
            points = [(start.expand_as(change) + change / 2).detach().requires_grad_() for start in starts]
            derivatives = torch.autograd.grad(sum(call.run(p).sum() for p in points), points)
        limits = [each.nan_to_num(0.0, 0.0, 0.0) for each in derivatives]  # sqrt at 0: infinite, times nothing
        slope = torch.where(near, (limits[0] + limits[1]) / 2, slope)
    return slope


def _maker(x: Tensor, propagate: Propagate) -> Call | None:
    """Return the affine operator or sum that made x, before any batch norm and moves."""
    made = propagate.producer(x)
    while made is not None and not (made.call.kind in ("affine", "sum") and made.call.reference):
        if made.call.kind != "batch_norm" and made.call.name not in _MOVES:
            return None
        made = propagate.producer(made.call.args[0])
    return None if made is None else made.call


def _streams(x: Tensor, x0: Tensor, propagate: Propagate) -> Streams:
    """Return the positive and negative parts of x - x0, as differentiable functions of what made x."""
    made = propagate.producer(x)
    if made is None or _maker(x, propagate) is None:
        return _signs(x - x0)
    call = made.call
    if call.kind == "affine":
        return _linear_rule(call)
    if call.kind == "sum":
        return _sum_rule(call)
    up, down = _streams(call.args[0], x0, propagate)
    if call.kind == "batch_norm":
        # A negative scale exchanges the parts, but the rule treats both parts alike.
        scale = batch_norm_scale(call)[0].view(-1, *[1] * (x.ndim - 2))
        return up * scale, down * scale
    return call.run(up), call.run(down)


def _signs(delta: Tensor) -> Streams:
    """Return the positive and negative parts of a difference; where it is zero, each has half of its derivative."""
    value = delta.detach()
    still = delta * (value == 0) / 2
    return delta * (value > 0) + still, delta * (value < 0) + still


def _sum_rule(call: Call) -> Streams:
    """Divide a sum of two tensors into its two terms, whose effects are then their Shapley values; others by sign."""
    deltas = [operand - operand0 for operand, operand0 in zip(call.operands, call.reference, strict=True)]
    if call.name not in ("add", "sub", "rsub"):
        up, down = _signs(deltas[0])
        return call.run(up), call.run(down)  # an average: all its weights are positive
    alpha = call.kwargs.get("alpha", 1)
    factors = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[call.name]
    terms = [delta * factors[place] for place, delta in zip(call.positions, deltas, strict=True)]
    if len(terms) == 1:  # plus or minus a number, which is no operand
        return _signs(terms[0])
    first, second = torch.broadcast_tensors(*terms)
    return first, second


def _linear_rule(call: Call) -> Streams:
    """Split terms by the sign of w * delta; an unchanged input gets half of each part's multiplier."""
    operator = affine(call)
    index = next(i for i, operand in enumerate(call.operands) if operand.requires_grad)
    delta = (call.operands[index] - call.reference[index]).to(operator.weight.dtype)  # lower under autocast
    value, w = delta.detach(), operator.weight
    plus, minus = w.clamp(min=0), w.clamp(max=0)
    above, below = delta * (value > 0), delta * (value < 0)
    # Zero-valued; only its derivative w / 2 in each stream counts.
    still = operator.forward(delta * (value == 0), w / 2, None)
    up = operator.forward(above, plus, None) + operator.forward(below, minus, None) + still
    down = operator.forward(above, minus, None) + operator.forward(below, plus, None) + still
    return up, down


def _reveal(rule: RevealCancel) -> Propagation:
    return replace(RESCALE, taped=RESCALE.taped | AFFINE | SUMS, producers=True, fuses=True).prepend(
        (is_kind("activation"), rule)
    )


REVEAL_CANCEL = _reveal(RevealCancel()).prepend((is_kind("max", "maximum"), MaxShapley()))
GENOMICS = _reveal(RevealCancel(convolutions=False))
DEEPLIFT = {"rescale": RESCALE, "reveal-cancel": REVEAL_CANCEL, "genomics": GENOMICS}
