r"""RevealCancel: positive and negative changes of a nonlinearity's input are propagated separately. [shrikumar2017]

$$\Delta y^+ = \tfrac12\big[f(x_0 + \Delta^+) - f(x_0) + f(x_0 + \Delta^+ + \Delta^-) - f(x_0 + \Delta^-)\big]$$

and $\Delta y^-$ with the signs exchanged; $m^\pm = \Delta y^\pm / \Delta^\pm$, with the input's parts of `parts.py`.
Where a sum of two tensors made it, these are its two terms: the rule is then their Shapley value.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .call import Call
from .deeplift import RESCALE, Rescale, divided_difference
from .engine import Propagate, Propagation
from .maxima import MaxShapley
from .names import AFFINE, CONVOLUTIONS, POWERS, SUMS
from .parts import maker, parts
from .predicates import is_kind
from .ruled import ruled


@dataclass(frozen=True)
class RevealCancel:
    """The rule above for elementwise operators whose affine producer is of one of these kinds, Rescale elsewhere.

    Powers, roots and reciprocals have Rescale: they make statistics, so that a normalisation written out is one.
    `convolutions=False` is DeepLIFT's recommendation for genomics: Rescale after convolutions, this after dense layers.
    """

    convolutions: bool = True

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,), (x0,) = call.operands, call.reference
        made_by = maker(x, propagate)
        if call.name in POWERS or call.name == "arithmetic":
            return RescaleInParts()(call, propagate)
        if not self.convolutions and (made_by is None or made_by.kind != "affine" or made_by.name in CONVOLUTIONS):
            return RescaleInParts()(call, propagate)
        streams = parts(x, x0, propagate)
        up, down = (stream.detach() for stream in streams)
        f0, f_up, f_down = call.run(x0.expand_as(x)), call.run(x0 + up), call.run(x0 + down)
        y = call.run(x.detach())
        m_up = _slope(call, up, ((f_up - f0) + (y - f_down)) / 2, (x0, x0 + down))
        m_down = _slope(call, down, ((f_down - f0) + (y - f_up)) / 2, (x0, x0 + up))
        found = ruled(y, lambda g, a, b: (g * a, g * b), list(streams), [m_up, m_down])
        if propagate.propagation.part:
            propagate.effects[id(found)] = (found, (up * m_up, down * m_down))
        return found


@dataclass(frozen=True)
class RescaleInParts(Rescale):
    """Rescale that keeps the parts of the output's change, where one of them is asked for."""

    def __call__(self, call: Call, propagate: Propagate) -> Tensor:
        (x,), (x0,) = call.operands, call.reference
        if not propagate.propagation.part:
            return super().__call__(call, propagate)
        up, down = (each.detach() for each in parts(x, x0, propagate))
        _, slope = divided_difference(call, x.detach(), x0)
        found = super().__call__(call, propagate)
        propagate.effects[id(found)] = (found, (up * slope, down * slope))
        return found


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


def _reveal(rule: RevealCancel) -> Propagation:
    return replace(RESCALE, taped=RESCALE.taped | AFFINE | SUMS, producers=True, fuses=True).prepend(
        (is_kind("activation"), rule)
    )


REVEAL_CANCEL = _reveal(RevealCancel()).prepend((is_kind("max", "maximum"), MaxShapley()))
GENOMICS = _reveal(RevealCancel(convolutions=False))
DEEPLIFT = {"rescale": RESCALE, "reveal-cancel": REVEAL_CANCEL, "genomics": GENOMICS}


def of_part(rule: str, part: Literal["positive", "negative"]) -> Propagation:
    """Return a rule of DEEPLIFT whose answer is the contribution of one part of the change of what is explained."""
    found = DEEPLIFT[rule]
    if found is RESCALE:
        found = replace(found, taped=found.taped | AFFINE | SUMS, producers=True).prepend(
            (is_kind("activation"), RescaleInParts())
        )
    return replace(found, part=part)
