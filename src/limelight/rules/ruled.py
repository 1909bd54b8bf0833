"""Operators whose value is the model's own and whose backward is a rule, and the divisions that rules share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..base.checkpoints import refuse_reentrant
from . import audit
from .call import Call

Pull = Callable[..., tuple["Tensor | None", ...]]
Pulled = tuple[Pull, list[Tensor]]
"""A rule's backward function, and the tensors to save for it."""


class Ruled(torch.autograd.Function):
    """An operator whose value is the model's own and whose backward is a rule."""

    @staticmethod
    def forward(ctx: Any, value: list[Tensor], pull: Pull, saved: Sequence[Tensor], *operands: Tensor) -> Tensor:
        ctx.pull = pull
        # Saved by autograd rather than in the closure: a later in-place write to one of them is then an error.
        ctx.save_for_backward(*saved)
        return value.pop()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, *ctx.pull(grads[0], *ctx.saved_tensors))


def ruled(value: Tensor, pull: Pull, operands: Sequence[Tensor], saved: Sequence[Tensor] = ()) -> Tensor:
    """Attach a rule: `pull(multiplier of the output, *saved)` returns one multiplier (or None) per operand."""
    # In a list and as `.data`: a tensor argument, or a view, passed through could not be written to in place later.
    out: Tensor = Ruled.apply([value.data], pull, tuple(saved), *operands)  # type: ignore[no-untyped-call]
    return out


class RuledInPlace(torch.autograd.Function):
    """An operator that writes into its operand, whose backward is a rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, write: Callable[[], Any], pull: Pull, keep: bool) -> Tensor:
        write()
        ctx.mark_dirty(x)
        ctx.pull = pull
        ctx.save_for_backward(*([x.clone()] if keep else []))  # a copy: the model may write into x again
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.pull(grads[0], *ctx.saved_tensors), None, None, None)


def ruled_unary(call: Call, pull: Pull, keep: bool = False) -> Tensor:
    """Run an operator of one operand and attach a rule: `pull(multiplier of the output)`, with `keep` also its value.

    One that writes into its operand does so here too, without the copies that `ruled` would need.
    """
    (x,) = call.operands
    if call.in_place and x is call.args[0] and not x.is_leaf:
        out: Tensor = RuledInPlace.apply(x, lambda: call.func(*call.args, **call.kwargs), pull, keep)  # type: ignore[no-untyped-call]
        return out
    y = call.run(x.detach())
    return ruled(y, pull, [x], [y.clone()] if keep else [])


def passed_on(output: Tensor) -> Tensor:
    """Return a copy of a layer's output that is read, for the model to go on with; rules see it as one call."""
    if has_torch_function_unary(output):
        copy: Tensor = handle_torch_function(passed_on, (output,), output)
        return copy
    # Not clone(): rules that look for what made an operand pass through that, and would pass by what is read here.
    return output.to(output.dtype, copy=True)


def stabilised(z: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return z + epsilon * sign(z), with sign(0) = +1, so that it can be divided by."""
    return torch.where(z < 0, z - epsilon, z + epsilon)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 0 where whole is 0."""
    return torch.where(whole == 0, 0.0, part / torch.where(whole == 0, 1.0, whole))


def jvp(at: Tensor, root: Tensor, tangent: Tensor) -> Tensor:
    """Return the derivative of `at` along a tangent of `root`, both in one graph, by differentiating its vjp."""
    refuse_reentrant(audit.graph([at]))
    with torch.enable_grad():
        u = torch.zeros_like(at).requires_grad_()
        (pulled,) = torch.autograd.grad(at, root, u, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, u, tangent, retain_graph=True)
    return pushed
