"""TARGETS, BASELINES and PLAYERS by name, and what a user may write for a target or a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.named import Registry
from .baselines import Baseline, Black, Blur, Constant, Mean, Minimum, Noise, Samples, White
from .class_labels import class_of
from .output_targets import Box, Neuron, Region, Similarity
from .players import Features, Felzenszwalb, Grid, Pixels, Players, SegmentMean, Segments, Slic
from .sequence_baselines import Frequencies, Shuffle
from .targets import CentredLogit, Function, Logit, LogProbability, Margin, Probability, Target

TARGETS: Registry[Target] = Registry(
    "target",
    Target,
    (Logit, Probability, LogProbability, Margin, CentredLogit, Region, Box, Similarity, Neuron, Function),
    "margin(281, other=285)",
)
"""Every target; a class listed here is read, saved, tested, and offered by the command line and the page."""

BASELINES: Registry[Baseline] = Registry(
    "baseline",
    Baseline,
    (Black, White, Noise, Blur, Minimum, Constant, Mean, Samples, SegmentMean, Frequencies, Shuffle),
    "blur(5)",
)
"""Every baseline, as TARGETS."""

PLAYERS: Registry[Players] = Registry(
    "players", Players, (Features, Pixels, Grid, Slic, Felzenszwalb, Segments), "grid(7)"
)
"""Every way to divide an input into players."""


def as_baseline(baseline: Any) -> Baseline:
    """Read what a user may write as `baseline=`: a number, a tensor, a Baseline, or the text of one or a number.

    Raises ValueError for text that names no baseline, TypeError for anything else.
    """
    if isinstance(baseline, str):
        number = _number(baseline)
        return BASELINES.read(baseline) if number is None else Constant(number)
    if isinstance(baseline, Tensor) or (isinstance(baseline, int | float) and not isinstance(baseline, bool)):
        return Constant(baseline)
    if isinstance(baseline, Baseline) or (isinstance(baseline, type) and issubclass(baseline, Baseline)):
        return BASELINES.coerce(baseline)
    raise TypeError(f"baseline: {baseline!r} is not a number, a tensor or a Baseline such as Black() or Blur(10)")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if not abs(number) < float("inf"):
        raise ValueError(f"baseline: {text!r} is not finite; use a finite number, or a baseline such as blur(5)")
    return number


def read_target(text: str, labels: Sequence[str] = ()) -> Target:
    """Read a target from text: the number or label of a class, or a target such as `"margin(281, other=285)"`.

    A label is found by the whole of it, else by a word in it, else by a part of it. Raises ValueError with the nearest
    labels or names.
    """
    name = text.partition("(")[0].strip()
    if "(" in text or (name.lower().replace("_", "-") in TARGETS.names and not _fits(text, labels)):
        return TARGETS.read(text)
    return Logit(class_of(text, labels))


def _fits(text: str, labels: Sequence[str]) -> bool:
    return any(text.strip().casefold() in label.casefold() for label in labels)


def as_target(target: Any, batch: int, labels: Sequence[str] = ()) -> Target:
    """Read what a user may write as `target=`, and check it against the batch before any model runs.

    Text is a class or a target by name, see `read_target`; `labels` are the model's. Raises ValueError or TypeError.
    """
    if isinstance(target, Target):
        read = target
    elif isinstance(target, type) and issubclass(target, Target):
        read = TARGETS.coerce(target)
    elif isinstance(target, str):
        read = read_target(target, labels)
    elif isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool or target.ndim > 2:
            raise TypeError(
                f"target: a tensor of classes holds integers, (examples,) or (examples, classes), not {target.dtype} "
                f"{tuple(target.shape)}"
            )
        read = Logit(tuple(target.tolist()) if target.ndim else int(target))
    elif target is None or hasattr(target, "__index__"):
        read = Logit(target)
    elif isinstance(target, Sequence) and not isinstance(target, str):
        read = Logit(tuple(class_of(each, labels) if isinstance(each, str) else each for each in target))
    elif callable(target):
        read = Function(target)
    else:
        raise TypeError(
            f"target: {target!r} is not an int, a sequence or tensor of ints, a Target, its text, or a callable "
            "outputs -> (rows,)"
        )
    if read.per_example not in (None, batch):
        raise ValueError(f"target: {read.per_example} targets for a batch of {batch}; give one, or one per example")
    return read
