"""Repairs of an autograd graph, before a gradient is taken through it."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import Node


def make_batch_norms_exact(scores: Tensor) -> None:
    """Have each batch norm in the graph of `scores` receive its gradient in contiguous memory.

    torch 2.13's CPU kernel permutes the gradient of an evaluating batch norm with frozen parameters when it normalised
    a single row and the gradient arrives in channels-last strides, as after `bn(conv(x)).flatten(2).transpose(1, 2)`.
    The graph is repaired and not the modules, so that `F.batch_norm` and exported programs are covered. The hooks go
    with the graph.
    """
    if scores.grad_fn is None or scores.device.type != "cpu":
        return
    seen: set[Node] = {scores.grad_fn}
    to_do = [scores.grad_fn]
    while to_do:
        node = to_do.pop()
        if "BatchNorm" in node.name():
            node.register_prehook(_contiguous)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                to_do.append(following)


def _contiguous(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each if each is None else each.contiguous() for each in gradients)
