"""The observations of the published study, checked against our figures: each one holds or does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .shifting import Shifted

BLACK, WHITE, RANDOM = (
    "integrated-gradients, black",
    "integrated-gradients, white",
    "integrated-gradients, random",
)
INPUT_X_GRADIENT, GRAD_CAM = "input-x-gradient", "grad-cam"
STUDIED = (INPUT_X_GRADIENT, BLACK, WHITE, RANDOM, GRAD_CAM)
DRIFT = 0.05  # of the relevance; a smaller change does not count as a drift


CLAIMS = (
    "Gradient x Input changes most of the maps compared",
    "Of the baselines of Integrated Gradients, black is the most sensitive to the shift",
    "Of the baselines of Integrated Gradients, white is the most stable",
    "Grad-CAM drifts from the hand to the background",
)


@dataclass(frozen=True)
class Observation:
    """A published sentence, whether it holds here (None: there is no figure), and the figures for that."""

    claim: str
    holds: bool | None
    figures: str

    @property
    def verdict(self) -> str:
        return {True: "holds", False: "does not hold", None: "cannot be said"}[self.holds]


def observe(lines: Sequence[Shifted]) -> list[Observation]:
    """Check the published observations at the largest shift where any picture kept its class.

    `lines` holds the figures of STUDIED at each level.
    """
    levels = [line.level for line in lines if line.n]
    if not levels:
        return [Observation(claim, None, "no picture kept its class at any shift") for claim in CLAIMS]
    level = max(levels)
    at = {line.name: line for line in lines if line.level == level}
    alike = {name: at[name].spearman for name in STUDIED}
    paths = {name: alike[name] for name in (BLACK, WHITE, RANDOM)}
    n = at[BLACK].n
    figures = f"rank correlation with the unshifted map at +{level:g} ({n} pictures)"
    cam = at[GRAD_CAM]
    most, least_stable, most_stable, drifts = CLAIMS
    drift = f"{cam.on_hand:.1%} before, {cam.on_hand_shifted:.1%} after"
    return [
        Observation(most, min(alike, key=alike.__getitem__) == INPUT_X_GRADIENT, f"{figures}: {_listed(alike)}"),
        Observation(least_stable, min(paths, key=paths.__getitem__) == BLACK, f"{figures}: {_listed(paths)}"),
        Observation(most_stable, max(paths, key=paths.__getitem__) == WHITE, f"{figures}: {_listed(paths)}"),
        Observation(
            drifts,
            None if math.isnan(cam.drift) else cam.drift > DRIFT,
            f"share of Grad-CAM's relevance on the hand at +{level:g} ({n} pictures): {drift}",
        ),
    ]


def _listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {figure:.3f}" for name, figure in figures.items())
