r"""The two parts of a change: what raises a unit and what lowers it, $\Delta = \Delta^+ + \Delta^-$. [shrikumar2017]

They come from the affine operator that made the unit, by the linear rule: each term $w\,\Delta$ belongs to the part of
its own sign. Where a sum of two tensors made it, the parts are its two terms whatever their signs. Moves and batch norm
keep them; everywhere else the part is the one of the change's own sign.
"""

import torch
from torch import Tensor

from .affine import affine
from .call import Call
from .engine import Propagate
from .names import words
from .relevance import batch_norm_scale
from .ruled import passed_on

Parts = tuple[Tensor, Tensor]
# Operators that only move numbers, which both parts pass through unchanged.
_MOVES = words("""
    view reshape flatten unflatten permute transpose squeeze unsqueeze contiguous t movedim getitem select narrow flip
    roll swapaxes clone dropout dropout1d dropout2d dropout3d
""")


def maker(x: Tensor, propagate: Propagate) -> Call | None:
    """Return the affine operator or sum that made x, before any batch norm and moves."""
    made = propagate.producer(x)
    while made is not None and not (made.call.kind in ("affine", "sum") and made.call.reference):
        passes = made.call.kind == "batch_norm" or made.call.name in _MOVES
        if not (passes or (made.call.func is passed_on and propagate.propagation.part)):
            return None
        made = propagate.producer(made.call.args[0])
    return None if made is None else made.call


def parts(x: Tensor, x0: Tensor, propagate: Propagate) -> Parts:
    """Return the positive and negative parts of x - x0, as differentiable functions of what made x."""
    made = propagate.producer(x)
    if made is not None and made.call.func is passed_on and propagate.propagation.part:
        return _read(made.call.args[0], x0, propagate)
    if made is None or maker(x, propagate) is None:
        return _signs(x - x0)
    call = made.call
    if call.kind == "affine":
        return _linear_rule(call)
    if call.kind == "sum":
        return _sum_rule(call)
    up, down = parts(call.args[0], x0, propagate)
    if call.kind == "batch_norm":
        scale = batch_norm_scale(call)[0].view(-1, *[1] * (x.ndim - 2))
        plus, minus = scale.clamp(min=0), scale.clamp(max=0)  # a negative scale exchanges the parts
        return up * plus + down * minus, up * minus + down * plus
    return call.run(up), call.run(down)


def _read(unit: Tensor, x0: Tensor, propagate: Propagate) -> Parts:
    """Return the parts of a unit that is read as variables of their own, which its answer is made of."""
    up, down = (each.detach().requires_grad_() for each in parts(unit, x0, propagate))
    propagate.read.append((unit, (up, down)))
    return up, down


def change(unit: Tensor, reference: Tensor, propagate: Propagate) -> Parts:
    """Return the parts of a unit's change as numbers: a nonlinearity's by its rule, others as `parts` has them."""
    found = propagate.effects.get(id(unit))
    if found is not None and found[0] is unit:
        return found[1]
    up, down = parts(unit, reference, propagate)
    return up.detach(), down.detach()


def of_sign(positive: bool, each: Parts, multipliers: Parts) -> tuple[Tensor, Tensor]:
    r"""Return the contribution $C^\pm$ of the terms of one sign, and their multiplier $C^\pm / \Delta^\pm$."""
    signed = [term.clamp(min=0) if positive else term.clamp(max=0) for term in each]
    contribution, size = signed[0] * multipliers[0] + signed[1] * multipliers[1], signed[0] + signed[1]
    own = multipliers[0 if positive else 1]
    return contribution, torch.where(size == 0, own, contribution / torch.where(size == 0, 1.0, size))


def _signs(delta: Tensor) -> Parts:
    """Return the positive and negative parts of a difference; where it is zero, each has half of its derivative."""
    value = delta.detach()
    still = delta * (value == 0) / 2
    return delta * (value > 0) + still, delta * (value < 0) + still


def _sum_rule(call: Call) -> Parts:
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


def _linear_rule(call: Call) -> Parts:
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
