"""The flow of a pass from the input to the scores: which tensors all of it goes through, which lie on a branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node

_SELECTS = ("Select", "Slice", "Index", "Gather", "Unbind")


@dataclass(frozen=True)
class Flow:
    """For each node of autograd between the input and the scores, sets of nodes as the bits of a number.

    `before`: those that every path from the input to the node goes through. `after`: those that every path from the
    node to the scores goes through. `consumers`: those that are reached from it. A node is in its own sets.
    """

    number: Mapping[Node, int]
    before: Mapping[Node, int]
    after: Mapping[Node, int]
    reached: Mapping[Node, int]
    scores: Node

    @staticmethod
    def of(scores: Tensor) -> Flow | None:
        """Read the graph of some scores; None where they have none."""
        if scores.grad_fn is None:
            return None
        order = _from_input(scores.grad_fn)
        number = {node: place for place, node in enumerate(order)}
        before: dict[Node, int] = {}
        users: dict[Node, list[Node]] = {node: [] for node in order}
        for node in order:
            sources = [each for each, _ in node.next_functions if each in number]
            common = -1 if sources else 0
            for each in sources:
                common &= before[each]
                users[each].append(node)
            before[node] = common | 1 << number[node]
        after: dict[Node, int] = {}
        reached: dict[Node, int] = {}
        for node in reversed(order):
            common, found = (-1 if users[node] else 0), 0
            for user in users[node]:
                common &= after[user]
                found |= reached[user]
            after[node], reached[node] = common | 1 << number[node], found | 1 << number[node]
        return Flow(number, before, after, reached, scores.grad_fn)

    def passes(self, node: Node | None) -> bool:
        """Whether the scores were computed from a node's tensor."""
        return node in self.number

    def carries_all(self, node: Node | None, to: Node | None = None) -> bool:
        """Whether every path from the input to the node `to`, the scores by default, goes through a node."""
        return (
            node is not None and node in self.number and bool(self.before[to or self.scores] >> self.number[node] & 1)
        )

    def gathers(self, gatherer: Node | None, node: Node | None) -> bool:
        """Whether all that leaves a node goes through `gatherer`, which the input reaches around the node too."""
        if gatherer is node or gatherer is None or node is None or not (self.passes(gatherer) and self.passes(node)):
            return False
        return bool(self.after[node] >> self.number[gatherer] & 1) and not self.carries_all(node, gatherer)

    def selects(self, node: Node, outputs: Node | None) -> bool:
        """Whether entries are picked from what follows a node, before the model's outputs where those are known."""
        until = self.before[outputs] | self._ancestors(outputs) if outputs in self.number and outputs else -1
        between = self.reached[node] & until
        return any(
            between >> place & 1 and each.name().startswith(_SELECTS) and each is not node
            for each, place in self.number.items()
        )

    def _ancestors(self, node: Node) -> int:
        mine = 1 << self.number[node]
        return sum(1 << place for each, place in self.number.items() if self.reached[each] & mine)


def _from_input(last: Node) -> list[Node]:
    """Return the nodes that lead from the input to `last` in the order of the pass; parameters are left out."""
    order: list[Node] = []
    leads: dict[Node, bool] = {}
    waiting: list[tuple[Node, bool]] = [(last, False)]
    while waiting:
        node, is_done = waiting.pop()
        if is_done:
            inputs = [each for each, _ in node.next_functions if each is not None]
            leads[node] = any(leads[each] for each in inputs) or (
                not inputs and not isinstance(getattr(node, "variable", None), nn.Parameter)
            )
            if leads[node]:
                order.append(node)
        elif node not in leads:
            leads[node] = False
            waiting.append((node, True))
            waiting += [(each, False) for each, _ in node.next_functions if each is not None and each not in leads]
    return order
