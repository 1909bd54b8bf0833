"""What an autograd graph is checked for, and repaired, before a gradient is taken through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge


def make_exact(scores: Tensor) -> None:
    """Have each batch norm in the graph of `scores` receive its gradient in contiguous memory.

    Raises ValueError for a reentrant checkpoint, through which torch takes no gradient at chosen tensors.

    torch 2.13's CPU kernel permutes the gradient of an evaluating batch norm with frozen parameters when it normalised
    a single row and the gradient arrives in channels-last strides, as after `bn(conv(x)).flatten(2).transpose(1, 2)`.
    The graph is repaired and not the modules, so that `F.batch_norm` and exported programs are covered. The hooks go
    with the graph.
    """
    for node in _nodes(scores):
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                "model: it checkpoints activations with use_reentrant=True, through which torch takes no gradient at "
                "chosen tensors; use use_reentrant=False, or switch checkpointing off"
            )
        if "BatchNorm" in node.name() and scores.device.type == "cpu":
            node.register_prehook(_contiguous)


# Where a derivative is zero everywhere, by the names of autograd's nodes.
_FLAT = ("Round", "Floor", "Ceil", "Trunc", "Sign", "Sgn", "Heaviside", "FloorDivide")


def carries_gradient(scores: Tensor, sources: Sequence[Tensor]) -> bool:
    """Whether the scores depend on one of the sources by operators with a derivative.

    Not, where an operator without one lies in the graph: torch marks it, and gives a part of the gradient, or zeros.
    Nor where all ways to the sources lead through operators whose derivative is zero everywhere, such as rounding.
    """
    if not scores.requires_grad:
        return False
    names = {node: node.name().removesuffix("Backward0") for node in _nodes(scores)}
    if any("NotImplemented" in name for name in names.values()):
        return False
    flat = {node for node, name in names.items() if name in _FLAT}
    if not flat:
        return True
    wanted = {get_gradient_edge(source).node for source in sources if source.requires_grad}
    return any(node in wanted for node in _nodes(scores, flat))


def _nodes(scores: Tensor, stop: set[Node] | None = None) -> Iterator[Node]:
    """Yield the nodes of autograd that lead to the scores, each once; what leads to those of `stop` is left out."""
    if scores.grad_fn is None:
        return
    seen: set[Node] = {scores.grad_fn}
    to_do = [scores.grad_fn]
    while to_do:
        node = to_do.pop()
        yield node
        for following, _ in () if stop and node in stop else node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                to_do.append(following)


def _contiguous(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each if each is None else each.contiguous() for each in gradients)
