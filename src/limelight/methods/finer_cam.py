"""Class activation maps of what sets a class apart from those most like it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import require, require_number, require_whole
from ..engine.score import Score
from ..question.random_streams import Streams
from ..question.targets import ClassTarget, Logit
from .base import Estimate, Method, Needs
from .cam import ActivationMap, GradCAM, GradientMap, require_gradient


@dataclass(frozen=True)
class _Lead(ClassTarget):
    r"""$f = z_c - \alpha z_k$, k the other class whose score is the `rank`-th highest at the row itself."""

    alpha: float = 1.0
    rank: int = 1

    def _scores(self, logits: Tensor, index: Tensor) -> Tensor:
        own = F.one_hot(index[:, 0], logits.shape[1]).bool()
        others = logits.masked_fill(own, -torch.inf).topk(self.rank, dim=1).values
        return logits - self.alpha * others[:, -1:]


@dataclass(frozen=True)
class FinerCAM(Method):
    r"""The mean of a class activation map of the differences from the most similar classes, Finer-CAM.

    $$A = \frac1n \sum_{k=1}^n \mathrm{CAM}\big(z_c - \alpha z_{c_k}\big)$$

    with $c_1, \dots, c_n$ the `classes` other classes of the highest scores at x, all others where the model has fewer.
    `inner` is the map by gradient of each difference, with its own ReLU before the mean. `alpha=0` gives `inner` of
    the class alone; `Margin(c, other=k)` under any map compares with a class of your choice. One forward and one
    backward row for each of the classes. Raises ValueError for a target other than a class's `Logit`, for a model of
    a single output, and where no difference has a gradient at the layer. [zhang2025]

        import torch, limelight as ll
        from torch import nn

        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        ll.explain(net.eval(), torch.rand(2, 3, 8, 8), ll.FinerCAM(ll.LayerCAM(), classes=2), target=1)

    >>> ll.explain(model, x, ll.FinerCAM(), target=2).values.shape
    torch.Size([2, 1, 16, 16])
    """

    inner: GradientMap = field(default_factory=GradCAM)
    alpha: float = 1.0
    classes: int = 3

    needs: ClassVar[Needs] = Needs(layer=True)
    by_part: ClassVar[bool] = True
    rows_at_most: ClassVar[bool] = True  # fewer where the model has fewer classes
    no_sum: ClassVar[str | None] = ActivationMap.no_sum

    def __post_init__(self) -> None:
        require(isinstance(self.inner, GradientMap), self, "inner", "an activation map by gradient such as GradCAM()")
        require_number(self, "alpha", lambda alpha: alpha >= 0, "0 or a positive number")
        require_whole(self, "classes", 1)

    def rows(self, features: torch.Size) -> int | None:
        return self.classes

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        target = score.target
        if type(target) is not Logit:
            raise ValueError(
                f"target: FinerCAM compares the logits of classes, not {target!r}; use a class or Logit(c)"
            )
        assert score.classes is not None  # because the target is a class's
        others = min(self.classes, score.classes - 1)
        if others == 0:
            raise ValueError(f"target: the model has one output, and FinerCAM compares classes; use {self.inner!r}")
        unknown = score.select(range(len(x)))  # what is known of x is of the class alone
        targets = [_Lead(target.index, self.alpha, rank) for rank in range(1, others + 1)]
        leads = [replace(unknown, target=each) for each in targets]
        layers = [lead.activations(x) for lead in leads]
        require_gradient(layers, leads[0], x)  # a class with the same score everywhere has a map of zeros
        found = [
            self.inner.placed([self.inner.map(layer, lead, x, rng) for layer in read], x)
            for lead, read in zip(leads, layers, strict=True)
        ]
        raws = [each.raw for each in found if each.raw is not None]
        values = torch.stack([each.values for each in found]).mean(0)
        return Estimate(values, raw=torch.stack(raws).mean(0) if raws else None)
