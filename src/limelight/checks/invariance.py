"""Hard test: two networks that compute the same function deserve the same map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..base.named import require
from ..engine.runner import Runner
from ..engine.score import Score
from ..model_edits.rewrite import rewritten
from .base import Better, Check, Kind, Measured, NotApplicable, nan_where, relative_difference
from .case import Case

NEAR = 3  # random points around each example at which both networks have to agree too


@dataclass(frozen=True, eq=False)
class ImplementationInvariance(Check):
    r"""$\max|A_1 - A_2| / \max|A_1|$ between the model and an equal one written differently. [sundararajan2017]

    `other` is that network; None rewrites the model's own layers on a copy: linear layers split in two over permuted
    channels, relu(h) as h + relu(-h). That both agree is checked at the examples and at random points around them.
    """

    other: nn.Module | None = None
    tolerance: float = 1e-3
    kind: ClassVar[Kind] = "hard"
    better: ClassVar[Better | None] = "lower"
    needs_method: ClassVar[bool] = True
    meaning: ClassVar[str] = "how much the map changes when the same network is written differently"

    def __post_init__(self) -> None:
        require(self.tolerance > 0, self, "tolerance", "a positive share of the map's maximum")

    def maps(self) -> float:
        return 1.0

    def run(self, case: Case) -> Measured:
        if self.other is not None:
            return self._compare(case, self.other, ("a network that was given",))
        with rewritten(case.model, case.x) as (module, done):
            if not done:
                raise NotApplicable("no layer of the model could be rewritten (nn.Linear, nn.ReLU); pass other=")
            return self._compare(case, module, done)

    def _compare(self, case: Case, other: nn.Module, done: tuple[str, ...]) -> Measured:
        if case.target.layer is not None:
            raise NotApplicable("the target reads a layer, which a rewritten network need not have")
        found = case.explain(model=other)
        agree = _agree(case, other)
        apart = relative_difference(case.attribution.values, found.values)
        values, reasons = nan_where(apart, ~agree, "the two networks differ in score here, so their maps may too")
        return Measured(
            values, values <= self.tolerance, reasons=reasons, notes=tuple(f"rewritten: {each}" for each in done)
        )


def _agree(case: Case, other: nn.Module) -> Tensor:
    x = case.x
    near = [x + 0.1 * (2 * case.rng.uniform(f"near {k}", x.shape[1:], x) - 1) for k in range(NEAR)]
    ours = case.score.stream_values(iter([x, *near]))
    with Runner(other, x, case.score.rows_per_pass, None) as runner:
        theirs = Score(runner, case.target, case.score.examples).stream_values(iter([x, *near]))
    case.spent.forward_rows += runner.forward_rows
    tolerance = 1e-7 if x.dtype == torch.float64 else 1e-3
    scale = ours.abs().amax(0).clamp(min=1e-3)
    return ((ours - theirs).abs().amax(0) <= tolerance * scale) & torch.isfinite(theirs).all(0)
