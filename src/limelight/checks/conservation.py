"""How much of the score a relevance map keeps, and how much of the map cancels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ..methods import LRP, AtLayer, DeepTaylor, ExcitationBackprop
from ..methods.backward import TransformerLRP
from .base import Check, Kind, Measured, NotApplicable
from .case import Case


def divided_by(method: Any) -> Literal["score", "1"] | None:
    """Return what a relevance method divides among the inputs, the score or a probability of 1; None for others."""
    if isinstance(method, AtLayer):
        return divided_by(method.inner)
    if isinstance(method, ExcitationBackprop):
        return None if method.contrastive else "1"  # the positive part of a difference of two walks divides nothing
    return "score" if isinstance(method, LRP | DeepTaylor | TransformerLRP) else None


@dataclass(frozen=True)
class ConservedShare(Check):
    r"""The share of the score that a relevance map keeps, $\sum_i A_i \,/\, f(x)$; 1 keeps all of it. [bach2015]

    Biases, stabilisers and softmax took the rest, as the map's notes say, which caution below a tenth. `detail["size"]`
    is $\sum_i |A_i| \,/\, |f(x)|$: far above the share, what is drawn are large values that cancel. For excitation
    backprop both are shares of the probability 1. Methods that divide nothing among the inputs have no figure.

        limelight.check(net, x, "lrp", "conserved-share", target=0)[0].detail["size"]
    """

    kind: ClassVar[Kind] = "complexity"
    meaning: ClassVar[str] = "share of the score that the values add up to; the rest went to biases and stabilisers"

    def run(self, case: Case) -> Measured:
        # A finished map has no method to explain with again, but knows by which it was made.
        divided = divided_by(case.method or case.attribution.method)
        if divided is None:
            raise NotApplicable(
                "the method promises no share of the score: this is about relevance methods such as LRP"
            )
        values = case.attribution.values.double().flatten(1)
        score = case.attribution.score.double()
        total = score if divided == "score" else torch.ones_like(score)
        found = Measured(values.sum(1) / total, detail={"size": values.abs().sum(1) / total.abs()})
        return found.unknown_where(total == 0, "the score is 0: no share of nothing")
