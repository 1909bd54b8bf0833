"""audit(): does a model look at one place in the pictures of a class, whatever they show?"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..checks import Check
from ..explain import MethodLike, as_methods
from .bundle import write_audit
from .job import LABEL
from .running import run
from .surprise import SHUFFLES, TOLERANCE
from .verdicts import ALPHA, Audit, audit_of

METHODS = ("integrated-gradients", "grad-cam")
CHECKS = ("completeness",)


def audit(
    images: str | os.PathLike[str],
    model: str | nn.Module,
    methods: MethodLike | Sequence[MethodLike] = METHODS,
    checks: Sequence[Check | type[Check] | str] = CHECKS,
    *,
    output: str | os.PathLike[str],
    alpha: float = ALPHA,
    tolerance: float = TOLERANCE,
    shuffles: int = SHUFFLES,
    **settings: Any,
) -> Audit:
    """Explain every picture of `images`, and judge whether the maps of a class stay in one place.

    A shortcut (a tag, a border, a watermark in the pictures of one class) keeps the model's evidence where the picture
    never changes, while objects move. The most compact group of maps of each class is compared with those of classes
    whose labels were shuffled; see `surprise.py`. All files are written to `output` and listed in its `bundle.json`
    with their SHA-256. The same call again resumes an audit that was interrupted.

    Args:
        images: as for `run`; pictures need labels: a folder of class folders, or a table with a column `label`.
        model, methods, checks, output: as for `run`. Two methods miss less than one.
        alpha: the rate of false alarms of the whole audit, between 0 and 1, where labels say nothing of the maps.
        tolerance: how much more compact than a shuffled class a class may be, as a correlation: real classes differ
            in where their objects lie. 0 tests chance alone.
        shuffles: the number of shuffles; p is at least 1 / (shuffles + 1), times the number of methods.
        settings: the other arguments of `run`. `target` is "label" and `store` "heatmap-float16" unless given.

    Raises ValueError for wrong arguments, where no picture has a label, and where all pictures fail.

        audit = ll.audit("photos/", model, output="out/")
        audit.outcome, audit.sentence
        for each in audit.found:
            print(each.sentence, each.ids)
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha}; use a rate between 0 and 1, such as 0.05")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance: {tolerance}; use a correlation from 0 to below 1, such as {TOLERANCE}")
    if settings.setdefault("store", "heatmap-float16") == "scores":
        raise ValueError("store: 'scores' keeps no maps, which an audit compares; use 'heatmap-float16' or 'values'")
    settings.setdefault("target", LABEL)
    chosen = as_methods(methods)
    needed = math.ceil(len(chosen) / alpha) - 1
    if shuffles < needed:
        raise ValueError(
            f"shuffles: {shuffles}; with {len(chosen)} methods p cannot reach alpha={alpha:g}; use {needed} or more"
        )
    done = run(images, model, chosen, checks, output=output, **settings)
    judged = audit_of(done, alpha, tolerance, shuffles)
    write_audit(judged)
    return judged
