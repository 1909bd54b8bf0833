"""TARGETS, BASELINES and PLAYERS by name, and the forms in which a user may give a target or a baseline."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.named import Registry
from ..base.requirements import shown
from ..models.text_outputs import OWN_LANGUAGE_MODEL
from .baselines import Baseline, Black, Blur, Constant, Mean, Median, Minimum, Noise, Samples, White
from .column_players import Columns
from .detectors import Box, Detection
from .given import as_tensor
from .no_rows import as_a_tensor
from .output_targets import Function, Neuron, PredictiveEntropy, Region, Similarity
from .players import Features, Felzenszwalb, Grid, Pixels, Players, SegmentMean, Segments, Slic
from .sequence_baselines import Frequencies, Shuffle
from .series_baselines import ChannelMean, CircularShift, Interpolation
from .series_players import Channels, Windows
from .targets import CentredLogit, Logit, LogProbability, Margin, Probability, Target
from .text_baselines import Cut, MeanToken, Pad, Token, WrongWords
from .text_players import Sentences, Tokens, Words
from .text_targets import Continuation, NextToken

TARGETS: Registry[Target] = Registry(
    "target",
    Target,
    (
        *(Logit, Probability, LogProbability, Margin, CentredLogit, PredictiveEntropy, NextToken, Continuation),
        *(Region, Box, Detection, Similarity, Neuron, Function),
    ),
    "margin(281, other=285)",
)
"""All targets. A class listed here is read from text, saved, tested, and offered by the command line and the page."""

BASELINES: Registry[Baseline] = Registry(
    "baseline",
    Baseline,
    (
        *(Black, White, Noise, Blur, Minimum, Constant, Mean, Median, Samples, SegmentMean, Frequencies, Shuffle),
        *(ChannelMean, Interpolation, CircularShift),
        *(Token, Pad, MeanToken, Cut, WrongWords),
    ),
    "blur(5)",
)
"""All baselines."""

PLAYERS: Registry[Players] = Registry(
    "players",
    Players,
    (
        *(Features, Pixels, Grid, Slic, Felzenszwalb, Segments, Windows, Channels, Columns),
        *(Tokens, Words, Sentences),
    ),
    "grid(7)",
)
"""All ways to divide an input into players."""

_CLASS_FIELDS = ("index", "other", "label")  # of targets: what they hold are classes, or positions in a layer
_MOST_CANDIDATES = 40  # labels that an error lists
_NEAREST = 4
_FEW = 10  # labels that are listed where none is near


def as_baseline(baseline: Any) -> Baseline:
    """Return the Baseline for a number, a tensor, a Baseline or its class, or text such as `"0.5"` or `"blur(5)"`.

    Raises ValueError for text that names no baseline, TypeError for other types.
    """
    if isinstance(baseline, str):
        number = _number(baseline)
        return BASELINES.read(baseline) if number is None else Constant(number)
    if isinstance(baseline, Tensor) or (isinstance(baseline, int | float) and not isinstance(baseline, bool)):
        with _naming("baseline"):
            return Constant(baseline)
    if isinstance(baseline, Baseline) or (isinstance(baseline, type) and issubclass(baseline, Baseline)):
        return BASELINES.coerce(baseline)
    raise TypeError(
        f"baseline: {shown(baseline)} is not a number, a tensor or a Baseline such as Black() or Blur(10)"
        f"{as_a_tensor('baseline', baseline)}"
    )


@contextmanager
def _naming(argument: str) -> Iterator[None]:
    """Begin a ValueError with the argument of the user's call that it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{argument}: {str(error).removeprefix(f'{argument}: ')}") from error


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if not abs(number) < float("inf"):
        raise ValueError(f"baseline: {text!r} is not finite; use a finite number, or a baseline such as blur(5)")
    return number


def read_target(text: str, labels: Sequence[str] = ()) -> Target:
    """Read a target from text: the number of a class, a target such as `"margin(281, other=285)"`, or a label.

    They are tried in this order; see `class_of` for labels, which may stand for classes inside a target too, as in
    `"margin('tabby', other='tiger cat')"`. A name without its settings, such as `"box"`, is a label where one fits.
    Raises ValueError with the nearest labels or names.
    """
    name, bracket, _ = text.partition("(")
    kind = TARGETS.kind_of(name)
    fits = any(text.strip().casefold() in label.casefold() for label in labels)
    if (kind is not None and (bracket or kind.has_defaults())) or ((kind is not None or bracket) and not fits):
        return with_classes(TARGETS.read(text), labels)
    return Logit(class_of(text, labels))


def with_classes(target: Target, labels: Sequence[str]) -> Target:
    """Return the target with the number of each class that its fields give by a label. Raises as `class_of` does."""

    def number(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(number, value))
        if isinstance(value, str) and isinstance(target, NextToken):
            if not labels:
                raise ValueError(f"target: next-token({value!r}): the model names no tokens; {OWN_LANGUAGE_MODEL}")
            value = next((each for each in (f" {value}", value) if each in labels), value)
        return class_of(value, labels) if isinstance(value, str) else value

    given = {name: value for name, value in vars(target).items() if name in _CLASS_FIELDS}
    found = {name: number(value) for name, value in given.items()}
    return target if found == given else replace(target, **found)  # type: ignore[type-var]  # targets are dataclasses


def class_of(text: str, labels: Sequence[str]) -> int:
    """Return the class given by its number, or by text that fits one label.

    A text fits the labels that it equals, or that have it between their commas (`"tabby, tabby cat"`); if there are
    none, without regard to case; if there are none, those in which it stands as whole words. Raises ValueError with
    all labels that it fits if these are several, and with the nearest labels and targets if there is none.
    """
    if labels.count(text) == 1 and not re.fullmatch(r"\s*[-+]?\d+\s*", text):
        return labels.index(text)  # with its spaces, which tell tokens apart
    words = text.strip()
    if re.fullmatch(r"[-+]?\d+", words):
        index = int(words)
        if index < 0 or (labels and index >= len(labels)):
            most = f"0 to {len(labels) - 1}" if labels else "0 or more"
            raise ValueError(f"target: {index} is not a class of the model; use {most}, or a label")
        return index
    if not labels:
        such = ", ".join(TARGETS.nearest(words)) or "'margin(281)'"
        raise ValueError(
            f"target: {text!r}: this model has no labels; use the number of a class, or a target such as {such}"
        )
    if not words:
        raise ValueError("target: an empty label; use the number of a class or its label")
    for found in _fitting(words, labels):
        if len(found) == 1:
            return found[0]
        if found:
            shown = _numbered(found[:_MOST_CANDIDATES], labels)
            more = f" and {len(found) - _MOST_CANDIDATES} more" if len(found) > _MOST_CANDIDATES else ""
            raise ValueError(f"target: {text!r} fits {len(found)} classes; use a number: {shown}{more}")
    folded = [label.casefold() for label in labels]
    parts = [i for i, label in enumerate(folded) if words.casefold() in label][:_NEAREST]
    near = [folded.index(each) for each in difflib.get_close_matches(words.casefold(), folded, n=_NEAREST, cutoff=0.5)]
    nearest = list(dict.fromkeys([*parts, *near]))[:_NEAREST]
    hint = f"; nearest: {_numbered(nearest, labels)}" if nearest else ""
    targets = ", ".join(TARGETS.nearest(words))
    hint += f"; a target is called {targets}" if targets else ""
    if not hint and len(labels) <= _FEW:
        hint = f"; the classes are {_numbered(range(len(labels)), labels)}"
    raise ValueError(f"target: no class is called {text!r}{hint}")


def _fitting(words: str, labels: Sequence[str]) -> Iterator[list[int]]:
    """Yield the classes whose labels fit, from the strictest reading to the widest."""
    for same in (str, str.casefold):
        wanted = same(words)
        yield [i for i, label in enumerate(labels) if wanted in (same(label), *map(str.strip, same(label).split(",")))]
    whole = re.compile(rf"(?<!\w){re.escape(words.casefold())}(?!\w)")
    yield [i for i, label in enumerate(labels) if whole.search(label.casefold())]


def _numbered(classes: Sequence[int], labels: Sequence[str]) -> str:
    return ", ".join(f"{i} {labels[i]}" for i in classes)


def as_target(target: Any, batch: int, labels: Sequence[str] = ()) -> Target:
    """Return the Target for what a user gives as `target=`, checked against the number of examples.

    `read_target` reads text, with the model's `labels`, which may stand for classes inside targets too. Raises
    ValueError or TypeError.
    """
    if isinstance(target, np.ndarray):
        target = as_tensor(target) if target.dtype.kind in "biuf" else target.tolist()
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
                f"{tuple(target.shape)}; for one-hot labels give table.argmax(1)"
            )
        read = Logit(tuple(target.tolist()) if target.ndim else int(target))
    elif target is None or hasattr(target, "__index__"):
        with _naming("target"):
            read = Logit(target)
    elif isinstance(target, Sequence) and not isinstance(target, str):
        with _naming("target"):
            read = Logit(tuple(target))
    elif callable(target):
        read = Function(target)
    else:
        raise TypeError(
            f"target: {target!r} is not an int, a sequence, array or tensor of ints, a Target, its text, or a callable "
            "outputs -> (rows,)"
        )
    read = with_classes(read, labels)
    if read.per_example not in (None, batch):
        raise ValueError(f"target: {read.per_example} targets for a batch of {batch}; give one, or one per example")
    return read
