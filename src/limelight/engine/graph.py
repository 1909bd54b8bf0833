"""What an autograd graph is checked for, and repaired, before a gradient is taken through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from ..base.checkpoints import refuse_reentrant

# Where a derivative is zero everywhere, by the names of autograd's nodes.
_FLAT = frozenset(("Round", "Floor", "Ceil", "Trunc", "Sign", "Sgn", "Heaviside", "FloorDivide"))


@dataclass(frozen=True)
class Inspected:
    """What one walk through the graph of some scores found.

    `lacks`: a node without a derivative, for which torch gives a part of the gradient, or zeros. `flat`: nodes whose
    derivative is zero everywhere, such as rounding.
    """

    scores: Tensor
    lacks: bool
    flat: frozenset[Node]

    def carries_gradient(self, sources: Sequence[Tensor]) -> bool:
        """Whether the scores depend on one of the sources by operators whose derivative is not zero everywhere."""
        if not self.scores.requires_grad or self.lacks:
            return False
        if not self.flat:
            return True
        wanted = {get_gradient_edge(source).node for source in sources if source.requires_grad}
        return any(node in wanted for node in _nodes(self.scores, self.flat))


def make_exact(scores: Tensor) -> Inspected:
    """Have each batch norm in the graph of `scores` receive its gradient in contiguous memory; say what else is there.

    Raises ValueError for a reentrant checkpoint, through which torch takes no gradient at chosen tensors.

    torch 2.13's CPU kernel permutes the gradient of an evaluating batch norm with frozen parameters when it normalised
    a single row and the gradient arrives in channels-last strides, as after `bn(conv(x)).flatten(2).transpose(1, 2)`.
    The graph is repaired and not the modules, so that `F.batch_norm` and exported programs are covered. The hooks go
    with the graph.
    """
    lacks, flat = False, []
    on_cpu = scores.device.type == "cpu"
    for node in _nodes(scores):
        name = node.name()
        refuse_reentrant([node])
        if on_cpu and "BatchNorm" in name:
            node.register_prehook(_contiguous)
        lacks = lacks or "NotImplemented" in name
        if name.removesuffix("Backward0") in _FLAT:
            flat.append(node)
    return Inspected(scores, lacks, frozenset(flat))


_OF_ARITHMETIC = ("BatchNorm", "Convolution", "Clone", "_Packed")


def operators(scores: Tensor) -> Counter[str]:
    """Count the operators that lead to the scores by name, without those that depend on how rows are computed."""
    names = (node.name() for node in _nodes(scores))
    return Counter(name for name in names if not any(each in name for each in _OF_ARITHMETIC))


def _nodes(scores: Tensor, stop: Set[Node] = frozenset()) -> Iterator[Node]:
    """Yield the nodes of autograd that lead to the scores, each once; what leads to those of `stop` is left out."""
    if scores.grad_fn is None:
        return
    seen: set[Node] = {scores.grad_fn}
    to_do = [scores.grad_fn]
    while to_do:
        node = to_do.pop()
        yield node
        for following, _ in () if node in stop else node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                to_do.append(following)


def _contiguous(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each if each is None else each.contiguous() for each in gradients)
