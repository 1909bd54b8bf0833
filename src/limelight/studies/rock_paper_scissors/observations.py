"""What the published study saw, asked of our numbers: each sentence holds or does not, with the figures."""

from __future__ import annotations

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
DRIFT = 0.05  # of the relevance: below it nobody would speak of a drift


@dataclass(frozen=True)
class Observation:
    """A published sentence, whether it holds here (None: no figure to say), and the figures behind that."""

    claim: str
    holds: bool | None
    figures: str

    @property
    def verdict(self) -> str:
        return {True: "holds", False: "does not hold", None: "cannot be said"}[self.holds]


def observe(lines: Sequence[Shifted]) -> list[Observation]:
    """The published observations against the lines of STUDIED at the largest shift that left any picture its class."""
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
    return [
        Observation(CLAIMS[0], min(alike, key=lambda k: alike[k]) == INPUT_X_GRADIENT, f"{figures}: {_listed(alike)}"),
        Observation(CLAIMS[1], min(paths, key=lambda k: paths[k]) == BLACK, f"{figures}: {_listed(paths)}"),
        Observation(CLAIMS[2], max(paths, key=lambda k: paths[k]) == WHITE, f"{figures}: {_listed(paths)}"),
        Observation(
            CLAIMS[3],
            None if cam.drift != cam.drift else cam.drift > DRIFT,
            f"share of Grad-CAM's relevance on the hand at +{level:g} ({n} pictures): {cam.on_hand:.1%} before, "
            f"{cam.on_hand_shifted:.1%} after",
        ),
    ]


CLAIMS = (
    "Gradient x Input changes most of the maps compared",
    "Of the baselines of Integrated Gradients, black is the most sensitive to the shift",
    "Of the baselines of Integrated Gradients, white is the most stable",
    "Grad-CAM drifts from the hand to the background",
)


def _listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {figure:.3f}" for name, figure in figures.items())
