"""Rectified backward passes: deconvolution, guided backpropagation and its product with Grad-CAM."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from .. import rules
from ..base.named import LATER, require
from ..engine.score import Score
from ..question.random_streams import Streams
from ..rules import Propagation
from .backward import Backward
from .base import Estimate, Method, Needs
from .cam import GradCAM


@dataclass(frozen=True)
class DeconvNet(Backward):
    r"""The gradient with ReLU applied to the backward message, $m_x = \max(m_y, 0)$. [zeiler2014]

    >>> ll.explain(model, x, ll.DeconvNet(), target=2).values.shape
    torch.Size([2, 3, 16, 16])
    """

    per_unit: ClassVar[bool] = True
    no_sum: ClassVar[str | None] = "DeconvNet shows what excites the score, its values are no shares of it"
    propagation: ClassVar[Propagation] = rules.DECONVNET


@dataclass(frozen=True)
class GuidedBackprop(Backward):
    r"""The gradient with both rectifications, $m_x = \max(m_y, 0)\,[x > 0]$. [springenberg2015]

    The map hardly depends on the top layers, nor on the class: compare it with that of a randomised model.

    >>> ll.explain(model, x, ll.GuidedBackprop(), target=2).values.shape
    torch.Size([2, 3, 16, 16])
    """

    per_unit: ClassVar[bool] = True
    no_sum: ClassVar[str | None] = "guided backpropagation shows what excites the score, its values are no shares of it"
    propagation: ClassVar[Propagation] = rules.GUIDED_BACKPROP


@dataclass(frozen=True)
class GuidedGradCAM(Backward):
    """Guided backpropagation times the upsampled Grad-CAM map. [selvaraju2017]

    `inner` may be any other method of the input's positions, such as `IntegratedGradients()`: the lens through which
    the region that Grad-CAM finds is seen.

    >>> a = ll.explain(model, x, ll.GuidedGradCAM(inner=ll.IntegratedGradients(8)), target=2)
    >>> a.values.shape, a.layer
    (torch.Size([2, 3, 16, 16]), '3')
    """

    by_part: ClassVar[bool] = True
    per_unit: ClassVar[bool] = True
    inner: Method | None = field(default=None, kw_only=True, metadata=LATER)

    no_sum: ClassVar[str | None] = "a product of two maps promises no sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.inner is None or (isinstance(self.inner, Method) and not self.inner.needs.layer)
        require(fits, self, "inner", "a method that reads no layer, such as IntegratedGradients()")

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return replace(self._lens.needs, gradients=True, at_inputs=True, layer=True, own_scores=False)

    @property
    def _lens(self) -> Method:
        return self.inner or GuidedBackprop(on_uncovered=self.on_uncovered)

    def rows(self, features: torch.Size) -> int | None:
        inner = self._lens.rows(features)
        return None if inner is None else 1 + inner

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        where = GradCAM().run(score, x, baseline, rng)
        what = self._lens.run(score, x, baseline, rng)
        return Estimate(what.values * where.values, raw=where.raw, notes=what.notes)
