"""Path methods of a layer's units, along the straight line of inputs from the baseline to x."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..base.named import require_whole
from ..engine.score import Score, result_dtype, sum_dtype
from ..question.random_streams import Streams
from .at_layer import placed, read_layer
from .base import Estimate, Method, Needs
from .quadrature import GaussLegendre, OverNodes, Quadrature

Visit = tuple[int, Tensor, Tensor, Tensor]  # step, examples, the layer's outputs and the gradients of the scores there


@dataclass(frozen=True)
class LayerPath(Method):
    """Base of the methods that read a layer along the path of inputs. `layer` None is that of `explain(layer=...)`."""

    layer: str | int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.layer, int):  # the layers of a Sequential have numbers for names
            object.__setattr__(self, "layer", str(self.layer))

    @property
    def needs(self) -> Needs:
        return Needs(baseline=True, value=True, layer=self.layer is None)

    @abstractmethod
    def units(self, visits: Iterator[Visit], x: Tensor) -> Tensor:
        """Return a value for each unit, `(n, *layer)`, from the visits of the path in order."""

    @abstractmethod
    def times(self) -> Sequence[float]:
        """Return the points of the path, from 0 at the baseline to 1 at x."""

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        layer, grid = read_layer(self.layer, score)
        values = self.units(_visits(score, x, baseline, layer, self.times()), x).to(result_dtype(x))
        return replace(placed(Estimate(values), x, layer, grid, ()), layer=layer)


def _visits(score: Score, x: Tensor, baseline: Tensor, layer: str, times: Sequence[float]) -> Iterator[Visit]:
    """Yield the layer at the points of each example's path in order; the rows of all steps are packed into passes."""
    flat = [(step, example) for step in range(len(times)) for example in range(len(x))]
    start = 0
    while start < len(flat):
        group = torch.tensor(flat[start : start + score.rows_per_pass], device=x.device)
        start += len(group)
        steps, examples = group.unbind(1)
        rows = torch.stack([torch.lerp(baseline[i], x[i], times[step]) for step, i in group.tolist()])
        for found in score.select(examples).gradients_at(rows, [layer]):
            runs = found.runs[layer]
            if len(runs) != 1:
                often = f"runs {len(runs)} times in a forward pass"
                how = often if runs else "does not run, or does not depend on the inputs"
                raise ValueError(f"layer: {layer!r} {how}; choose a module that runs once")
            ((outputs, gradients),) = runs
            for step in dict.fromkeys(steps[found.position].tolist()):
                mine = steps[found.position] == step
                yield step, examples[found.position][mine], outputs[mine], gradients[mine]


@dataclass(frozen=True)
class Conductance(LayerPath):
    r"""The part of the score's change that flows through each unit of a layer, along the path of inputs.

    $$A_h = \int_0^1 \frac{\partial f}{\partial h}(x_t)\, \frac{\mathrm{d} h(x_t)}{\mathrm{d} t}\,\mathrm{d}t,
      \quad x_t = b + t\,(x - b)$$

    by the trapezoid rule in `steps` equal steps: the mean of the gradients at both ends of a step times the change of
    the unit. Complete where all paths run through the layer: the values sum to f(x) - f(b) up to that rule's error, of
    order steps^-2 where the network is smooth. With skip connections around the layer they sum to what runs through
    it, and the caution INCOMPLETE says how much is missing. Integrated Gradients at a layer (`AtLayer`) goes along
    the straight line of the layer's outputs instead. `raw` holds a value per unit `(n, *layer)`, `values` place it as
    `AtLayer` does. [dhamdhere2019]

    >>> a = ll.explain(model, x, ll.Conductance(), target=2, layer="1")
    >>> a.values.shape, a.layer
    (torch.Size([2, 1, 16, 16]), '1')
    """

    steps: int = 32

    other_names: ClassVar[Mapping[str, str]] = {"n_steps": "steps"}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, "steps", 1)

    def rows(self, features: torch.Size) -> int | None:
        return self.steps + 1

    def times(self) -> Sequence[float]:
        return [step / self.steps for step in range(self.steps + 1)]

    def units(self, visits: Iterator[Visit], x: Tensor) -> Tensor:
        total, before, slope = (torch.zeros(0) for _ in range(3))
        for step, examples, outputs, gradients in visits:
            if not len(total):
                total = torch.zeros((len(x), *outputs.shape[1:]), dtype=sum_dtype(x), device=x.device)
                before, slope = torch.zeros_like(total), torch.zeros_like(total)
            now, at = outputs.to(total), gradients.to(total)
            if step:
                total[examples] += (slope[examples] + at) / 2 * (now - before[examples])
            before[examples], slope[examples] = now, at
        return total


@dataclass(frozen=True)
class InternalInfluence(OverNodes, LayerPath):
    r"""The average gradient of the score at a layer's units, along the path of inputs from the baseline to x.

    $$A_h = \int_0^1 \frac{\partial f}{\partial h}\big(b + t\,(x - b)\big)\,\mathrm{d}t$$

    in units of the score per unit of the layer's output; it promises no sum. `quadrature` is a rule such as
    `Midpoint(50)`, or a number of nodes of Gauss-Legendre. `raw` holds a value per unit `(n, *layer)`, `values` place
    it as `AtLayer` does. [leino2018]

    >>> ll.explain(model, x, ll.InternalInfluence(), target=2, layer="1").values.shape
    torch.Size([2, 1, 16, 16])
    """

    quadrature: Quadrature | int = GaussLegendre(32)

    no_sum: ClassVar[str | None] = "an average gradient says how fast the score changes, not how much each unit gave"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.read_quadrature()

    def rows(self, features: torch.Size) -> int | None:
        return self.rule.n

    def times(self) -> Sequence[float]:
        return [time for time, _ in self.rule]

    def units(self, visits: Iterator[Visit], x: Tensor) -> Tensor:
        total, weights = torch.zeros(0), [weight for _, weight in self.rule]
        for step, examples, _, gradients in visits:
            if not len(total):
                total = torch.zeros((len(x), *gradients.shape[1:]), dtype=sum_dtype(x), device=x.device)
            total[examples] += weights[step] * gradients.to(total)
        return total
