"""TARGETS, BASELINES and PLAYERS by name, and the forms in which a user may give a target or a baseline."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.named import Registry
from .baselines import Baseline, Black, Blur, Constant, Mean, Minimum, Noise, Samples, White
from .detectors import Box, Detection
from .output_targets import Neuron, Region, Similarity
from .players import Features, Felzenszwalb, Grid, Pixels, Players, SegmentMean, Segments, Slic
from .sequence_baselines import Frequencies, Shuffle
from .targets import CentredLogit, Function, Logit, LogProbability, Margin, Probability, Target

TARGETS: Registry[Target] = Registry(
    "target",
    Target,
    (Logit, Probability, LogProbability, Margin, CentredLogit, Region, Box, Detection, Similarity, Neuron, Function),
    "margin(281, other=285)",
)
"""All targets. A class listed here is read from text, saved, tested, and offered by the command line and the page."""

BASELINES: Registry[Baseline] = Registry(
    "baseline",
    Baseline,
    (Black, White, Noise, Blur, Minimum, Constant, Mean, Samples, SegmentMean, Frequencies, Shuffle),
    "blur(5)",
)
"""All baselines."""

PLAYERS: Registry[Players] = Registry(
    "players", Players, (Features, Pixels, Grid, Slic, Felzenszwalb, Segments), "grid(7)"
)
"""All ways to divide an input into players."""

_MOST_CANDIDATES = 12  # labels that an error lists


def as_baseline(baseline: Any) -> Baseline:
    """Return the Baseline for a number, a tensor, a Baseline or its class, or text such as `"0.5"` or `"blur(5)"`.

    Raises ValueError for text that names no baseline, TypeError for other types.
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

    A text fits a label if it is the whole label, else a word in it, else a part of it. Raises ValueError with the
    nearest labels or names.
    """
    name = text.partition("(")[0].strip()
    if "(" in text or (name.lower().replace("_", "-") in TARGETS.names and not _fits(text, labels)):
        return TARGETS.read(text)
    return Logit(class_of(text, labels))


def _fits(text: str, labels: Sequence[str]) -> bool:
    return any(text.strip().casefold() in label.casefold() for label in labels)


def class_of(text: str, labels: Sequence[str]) -> int:
    """Return the class given by its number, or by text that fits one label; see `read_target`. Raises ValueError."""
    words = text.strip().casefold()
    if re.fullmatch(r"[-+]?\d+", words):
        index = int(words)
        if index < 0 or (labels and index >= len(labels)):
            most = f"0 to {len(labels) - 1}" if labels else "0 or more"
            raise ValueError(f"target: {index} is not a class of the model; use {most}, or a label")
        return index
    if not labels:
        raise ValueError(
            f"target: {text!r}: this model has no labels; use the number of a class, or a target such as 'margin(281)'"
        )
    if not words:
        raise ValueError("target: an empty label; use the number of a class or its label")
    folded = [label.casefold() for label in labels]
    whole_word = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)")
    for found in (
        [i for i, label in enumerate(folded) if words in (label, *(part.strip() for part in label.split(",")))],
        [i for i, label in enumerate(folded) if whole_word.search(label)],
        [i for i, label in enumerate(folded) if words in label],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(f"{i} {labels[i]}" for i in found[:_MOST_CANDIDATES])
            more = f" and {len(found) - _MOST_CANDIDATES} more" if len(found) > _MOST_CANDIDATES else ""
            raise ValueError(f"target: {text!r} fits {len(found)} classes; use a number: {shown}{more}")
    near = difflib.get_close_matches(words, folded, n=4, cutoff=0.5)
    hint = "; nearest: " + ", ".join(f"{folded.index(each)} {labels[folded.index(each)]}" for each in near)
    raise ValueError(f"target: no class is called {text!r}{hint if near else ''}")


def as_target(target: Any, batch: int, labels: Sequence[str] = ()) -> Target:
    """Return the Target for what a user gives as `target=`, checked against the number of examples.

    `read_target` reads text, with the model's `labels`. Raises ValueError or TypeError.
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
