"""audit(): does a model need one place in the pictures of a class, whatever they show?"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..base.progress import reporting
from ..base.urls import Url
from ..checks import Check
from ..explain import MethodLike, as_methods
from ..models.text import TextModel
from .bundle import write_audit
from .job import LABEL, keeping, loaded
from .running import as_run_model, run
from .storage import as_place
from .surprise import SHUFFLES
from .tables import need
from .verdicts import ALPHA, Audit, audit_of

METHODS = ("integrated-gradients", "grad-cam")
CHECKS = ("completeness", "randomisation(stages=1, draws=1)")
"""Completeness costs no rows; the network's last layer redrawn once costs a second map, and tells most for that."""


def audit(
    images: str | os.PathLike[str],
    model: str | nn.Module,
    methods: MethodLike | Sequence[MethodLike] = METHODS,
    checks: Sequence[Check | type[Check] | str] = CHECKS,
    *,
    output: str | os.PathLike[str],
    alpha: float = ALPHA,
    shuffles: int = SHUFFLES,
    on_place: Callable[[str], None] | None = None,
    **settings: Any,
) -> Audit:
    """Explain every picture of `images`, and judge whether the model needs one place in the pictures of a class.

    A shortcut (a tag, a border, a watermark in the pictures of one class) keeps the model's evidence where the picture
    never changes, while objects move. The most compact group of maps of each class is compared with those of classes
    whose labels were shuffled (`surprise.py`). Where it stands out, the place of the maps is covered, and the
    predictions that change are counted, against other places and other classes (`covering.py`). Found is what passes
    both. All files are written to `output` and listed in its `bundle.json` with their SHA-256. The same call again
    resumes an audit that was interrupted.

    Args:
        images: as for `run`; pictures need labels: a folder of class folders, or a table with a column `label`.
        model, methods, checks, output: as for `run`. Two methods miss less than one.
        alpha: the rate of false alarms of the whole audit, between 0 and 1, where labels say nothing of the maps.
        shuffles: the number of shuffles of the maps; p is at least 1 / (shuffles + 1), times the number of methods.
        on_place: called with a sentence before each place that is covered, after the run.
        settings: the other arguments of `run`. `target` is "label" and `store` "heatmap-float16" unless given.

    Raises ValueError for wrong arguments, where no picture has a label, and where all pictures fail, ImportError where
    the extra `report` is missing.

        audit = ll.audit("photos/", model, output="out/")
        audit.outcome, audit.sentence
        for each in audit.found:
            print(each.sentence, each.ids)
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha}; use a rate between 0 and 1, such as 0.05")
    if isinstance(as_place(output), Url):
        raise ValueError(f"output: {str(output)!r}; an audit lists and hashes its files in a folder of this machine")
    if settings.get("text_column") is not None:
        raise ValueError("text_column: an audit compares places in pictures; limelight run explains texts")
    if settings.setdefault("store", "heatmap-float16") == "scores":
        raise ValueError("store: 'scores' keeps no maps, which an audit compares; use 'heatmap-float16' or 'values'")
    settings.setdefault("target", LABEL)
    chosen = as_methods(methods)
    needed = math.ceil(len(chosen) / alpha) - 1
    if shuffles < needed:
        raise ValueError(
            f"shuffles: {shuffles}; with {len(chosen)} methods p cannot reach alpha={alpha:g}; use {needed} or more"
        )
    need("sklearn.cluster", "report", "the report of an audit")  # said before hours of work
    with reporting(settings.pop("progress", None)) as progress:
        done = run(images, model, chosen, checks, output=output, progress=progress, **settings)
        given = as_run_model(model)
        assert not isinstance(given, TextModel)  # which run() refuses without text_column
        device, declared = str(settings.get("device", "cpu")), settings.get("declared")
        with keeping(given):
            judged = audit_of(
                done, loaded(given, settings.get("weights"), device, declared), alpha, shuffles, progress, on_place
            )
    write_audit(judged)
    return judged
