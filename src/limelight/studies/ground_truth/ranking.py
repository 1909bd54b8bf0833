"""A ranking of all methods and controls, with intervals, on scenes whose relevant object is known."""

from __future__ import annotations

from ...base.types import Progress
from ...checks import Check, Deletion, Insertion, PointingGame, RelevanceMass, RelevanceRank
from ...evaluation.evaluate import Evaluation, evaluate
from ...methods.backward import estimate_patterns
from .each import one_of_each
from .scenes import scenes
from .trained import Architecture, trained

CHECKS: tuple[Check, ...] = (
    RelevanceRank(),
    RelevanceMass(),
    PointingGame(),
    Deletion(fill=0.5, steps=32),
    Insertion(steps=32),
)


def rank_on_scenes(
    architecture: Architecture = "cnn",
    examples: int = 16,
    *,
    rows: int = 1024,
    baseline: float = 0.5,
    seed: int = 0,
    progress: bool | Progress = False,
) -> Evaluation:
    """Evaluate how well every method finds the red object, which alone decides the class, on new scenes.

    `rows`: the model rows for a scene, for methods with a choice of rows. Methods that do not apply to the architecture
    are in `refused` with the reason.
    """
    model = trained(architecture)
    shown = scenes(examples, seed=1000 + seed)
    patterns = estimate_patterns(model, scenes(512, seed=1).x.split(64))
    return evaluate(
        model,
        shown.x,
        one_of_each(patterns, shown.x.shape[-1], rows),
        CHECKS,
        target=shown.y,
        baseline=baseline,
        seed=seed,
        mask=shown.mask,
        progress=progress,
    )
