"""A hard check: a constant added to all class scores changes no map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..base.arithmetic import rounding_of
from ..base.named import require
from ..model_edits.output_shift import output_shifted
from ..question.targets import ClassTarget, Confidence, LogProbability
from .base import Measured, NotApplicable, Tolerated, relative_difference
from .case import Case
from .equal_networks import scores_around

SATURATED = 1e-4  # in float32 a probability this close to 1 has a slope of which rounding is a thousandth or more


@dataclass(frozen=True)
class LogitShift(Tolerated):
    r"""$\max|A_1 - A_2| / \max|A_1|$ between the model and one with `shift` added to all class scores.

    Softmax, margins and centred logits do not change by it, and a logit grows by c at every input, which changes no
    slope and no difference of scores: the same map is due. That the score changes by the same
    number at the examples and at random points around them is checked first; where it does not, the reason says so.

        limelight.check(net, x, "rise", limelight.LogitShift(10.0), target=0)[0].value
    """

    shift: float = 1.0
    tolerance: float = 1e-3
    meaning: ClassVar[str] = "how much the map changes when all class scores grow by the same constant"
    brief: ClassVar[tuple[str, str]] = ("unmoved by a constant on all scores", "moved by a constant on all scores")
    passes: ClassVar[str] = "a constant added to all class scores changes nothing in the map"
    fails: ClassVar[str] = "a constant added to all class scores moves the map, although no probability changes"

    def __post_init__(self) -> None:
        require(self.shift != 0, self, "shift", "a number other than 0")
        require(self.tolerance > 0, self, "tolerance", "a positive share of the map's maximum")

    def maps(self) -> float:
        return 1.0

    def run(self, case: Case) -> Measured:
        self._require_class_scores(case)
        with case.edited(("output shifted", self.shift), lambda: output_shifted(case.model, self.shift)) as module:
            constant = self._grows_alike(case, module)
            values = relative_difference(case.attribution.values, case.explain(model=module).values)
        found = self.judged_maps(values, case)
        found = found.unknown_where(~constant, "the score does not change by one constant, so its map may change too")
        return found.unknown_where(
            _saturates(case),
            "the probability is 1 up to the rounding of float32, which alone moves its map; use float64",
        )

    def _require_class_scores(self, case: Case) -> None:
        """Raise NotApplicable where the outputs are no class scores to which a constant could be added."""
        if case.target.layer is not None:
            raise NotApplicable("the target reads a layer, and the constant is added to the outputs")
        outputs, kinds = case.attribution.outputs, set(case.attribution.output_kinds)
        if not isinstance(case.target, ClassTarget):
            return
        if read := kinds & {"probabilities", "sigmoids", "labels"}:
            raise NotApplicable(f"the model returns {read.pop()}: a constant added to them is no shift of logits")
        if isinstance(case.target, Confidence) and outputs is not None and outputs.ndim == 2 and outputs.shape[1] < 2:
            raise NotApplicable("the probability of a single output changes with a constant added to it")

    def _grows_alike(self, case: Case, module: nn.Module) -> Tensor:
        """Whether the score of each example `(n,)` changes by the same number there and at random points around it."""
        ours, theirs = scores_around(case, module)
        change, outputs = (theirs - ours).double(), case.attribution.outputs
        scale = ours.abs().amax(0).double() + abs(self.shift)
        if outputs is not None:
            scale = scale + outputs.abs().flatten(1).amax(1)
        return (change - change[:1]).abs().amax(0) <= rounding_of(case.x.dtype, scale)


def _saturates(case: Case) -> Tensor:
    score = case.attribution.score.double()
    if case.x.dtype == torch.float64 or not isinstance(case.target, Confidence):
        return torch.zeros_like(score, dtype=torch.bool)
    probability = score.exp() if isinstance(case.target, LogProbability) else score
    return probability > 1 - SATURATED
