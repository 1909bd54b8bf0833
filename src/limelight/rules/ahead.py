"""What follows an operator: unknown when it is called, known in the backward pass."""

from dataclasses import dataclass

from .call import Call
from .names import POWERS


@dataclass(eq=False)
class Ahead:
    """Whether an activation reads an affine operator's output before another affine operator does."""

    activated: bool = False


def mark_activated(call: Call) -> None:
    """Mark the affine operators that this activation reads, directly or through sums, norms, maxima and moves.

    Powers and roots are no activations here: norms that are written out consist of them.
    """
    if call.name in POWERS or call.name == "arithmetic":
        return
    todo, seen = [operand.grad_fn for operand in call.operands], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        ahead = getattr(getattr(node, "pull", None), "ahead", None)
        if isinstance(ahead, Ahead):
            ahead.activated = True
        else:
            todo.extend(parent for parent, _ in node.next_functions)
