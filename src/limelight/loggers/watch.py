"""What is computed of a model in training: maps of fixed pictures, and the figures of checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from ..base.attribution import Panel
from ..engine.prepared import Prepared, prepare
from ..evaluation.check import ChecksLike, check
from ..evaluation.findings import Findings
from ..explain import MethodLike, explain

if TYPE_CHECKING:
    from PIL.Image import Image

Network = nn.Module | Callable[[Tensor], Any]


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of a model after an epoch: the maps of all pictures, and findings by the map's name."""

    epoch: int
    panel: Panel
    findings: Mapping[str, Findings]

    def figures(self) -> dict[str, float]:
        """Return the mean of each check over the pictures, under `map/check`; those without a figure are left out."""
        named = {f"{name}/{each.name}": each.mean for name, found in self.findings.items() for each in found}
        return {name: value for name, value in named.items() if not math.isnan(value)}

    def drawings(self) -> dict[str, Image]:
        """Return a panel of all maps for each picture, under `picture 0`, `picture 1` and so on."""
        return {f"picture {k}": self.panel.show(k) for k in range(len(self.panel[0].score))}


class Writer(Protocol):
    """What takes what was seen to its place; it computes nothing."""

    def write(self, seen: Seen) -> None:
        """Write figures and drawings of an epoch."""


@dataclass(frozen=True, eq=False)
class Watch:
    """Look at a model in training: explain fixed pictures every few epochs, check the maps, and write both.

        watch = Watch(pictures, ["gradient", "grad-cam"], target=labels, checks="completeness", to=[TensorBoard(board)])
        for epoch in range(epochs):
            train(model)
            watch.after_epoch(model, epoch)

    `pictures`: inputs `(n, channels, H, W)`, the same each time. `methods`: one or several, as `explain` takes them.
    `checks`: as `check` takes them; none by default. `target`: as in `explain`, such as the pictures' labels; None is
    the class that is on top at the time, which may change from epoch to epoch. `every`: epochs from one look to the
    next; the first is at epoch 0. `to`: writers. `options`: others of `explain`, such as `{"baseline": "blur(5)"}`.

    A snapshot of the weights is explained, in eval mode. The model keeps its mode, gradients and buffers, and the
    generators of random numbers their state, so that training goes on as it would have. Raises ValueError for
    `every` below 1.
    """

    pictures: Tensor
    methods: MethodLike | Sequence[MethodLike] = ("gradient", "grad-cam")
    target: Any = None
    checks: ChecksLike = ()
    every: int = 1
    to: Sequence[Writer] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every: {self.every!r}; use a number of epochs, 1 or more")

    def after_epoch(self, model: Network, epoch: int) -> None:
        """Look at the model and write what is seen, if the epoch's turn has come."""
        if epoch % self.every == 0:
            seen = self.look(model, epoch)
            for writer in self.to:
                writer.write(seen)

    def look(self, model: Network, epoch: int) -> Seen:
        """Explain and check the pictures with the model's present weights."""
        options: dict[str, Any] = {"target": self.target, **self.options}
        subject = _snapshot(model)
        single = isinstance(self.methods, str | type) or not isinstance(self.methods, Sequence)
        methods: list[Any] = [self.methods] if single else [*self.methods]  # type: ignore[misc]
        panel = explain(subject, self.pictures, methods, **options)
        wanted = not isinstance(self.checks, Sequence) or len(self.checks) > 0
        tested = {
            name: check(subject, self.pictures, each.method, self.checks, **options)
            for name, each in (panel.items() if wanted else ())
        }
        return Seen(epoch, panel, tested)


def _snapshot(model: Network) -> Prepared | Network:
    """Return a snapshot of the present weights, which all calls share; the model itself where it cannot be prepared."""
    try:
        return prepare(model)
    except ValueError:
        return model
