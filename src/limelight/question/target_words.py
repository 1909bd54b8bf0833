"""Targets in words for the reader of a picture, such as "class 2 in a region of 900 pixels"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..base.named import text_of
from .detectors import Box, Detection
from .output_targets import Function, Neuron, PredictiveEntropy, Region, Similarity
from .targets import CentredLogit, ClassTarget, Logit, LogProbability, Margin, Probability, Target
from .text_targets import Continuation, NextToken


def class_words(index: Any, labels: Sequence[str] = ()) -> str:
    """Name a class by its label and number, several one after another; None is the model's first class.

    >>> class_words(1, ["tench", "tabby"]), class_words(7), class_words((7, 0), ["tench"])
    ('tabby (1)', 'class 7', 'class 7, tench (0)')
    """
    if index is None:
        return "the model's first class"
    if isinstance(index, tuple):
        return ", ".join(class_words(each, labels) for each in index)
    if index < len(labels) and labels[index] != f"class {index}":
        return f"{labels[index]} ({index})"
    return f"class {index}"


def in_words(target: Target, labels: Sequence[str] = ()) -> str:
    """Describe a target to somebody who knows the model's classes and not this library.

    >>> in_words(Margin(1, other=0), ["tench", "tabby"])
    'tabby (1) rather than tench (0)'
    """
    match target:
        case ClassTarget():
            return _of_class(target, class_words(target.index, labels), labels)
        case Region():
            mean = "the mean of " if target.reduction == "mean" else ""
            return f"{mean}{class_words(target.label, labels)} in {_region(target.mask)}"
        case Box():
            corners = "; ".join(" to ".join(_corners(each)) for each in target.box.reshape(-1, 4).tolist())
            what = "an object" if target.label is None else class_words(target.label, labels)
            return f"{what} in the box from {corners}"
        case Detection():
            what = "any object" if target.label is None else class_words(target.label, labels)
            return f"{what} anywhere in the picture"
        case Similarity():
            if target.text is not None:
                return f"similarity to {target.text!r}"
            if not isinstance(target.reference, Tensor):
                return f"similarity to {target.reference!r}"
            return f"similarity to a reference of {target.reference.shape[-1]} numbers"
        case PredictiveEntropy():
            return "how undecided the model is"
        case Continuation():
            given = target.text if isinstance(target.text, str) else None
            token = "" if target.place is None else f"token {target.place} of "
            return f"{token}the continuation{'' if given is None else f' {given!r}'}"
        case Neuron():
            if target.channel is not None:
                return f"the {target.pooling} of channel {target.channel} of layer {target.at}"
            return f"unit {', '.join(map(str, target.index or ()))} of layer {target.at}"
        case Function():
            return f"the function {getattr(target.function, '__name__', type(target.function).__name__)}"
    return text_of(target)


def _of_class(target: ClassTarget, named: str, labels: Sequence[str]) -> str:
    match target:
        case Logit():
            return named
        case Probability():
            return f"the probability of {named}"
        case NextToken():
            return f"the next token {named}"
        case LogProbability():
            return f"the log-probability of {named}"
        case Margin(other=None):
            return f"{named} rather than the next class"
        case Margin():
            return f"{named} rather than {class_words(target.other, labels)}"
        case CentredLogit():
            return f"{named} above the mean of all classes"
    return text_of(target)


def _region(mask: Any) -> str:
    """Describe a mask `(..., H, W)`, or a picture of one, whose size is known once it is read."""
    if not isinstance(mask, Tensor):
        return "a region of a picture"
    sizes = (mask != 0).flatten(-2).sum(-1).flatten().tolist()
    count = f"{sizes[0]:,}" if len(set(sizes)) == 1 else f"{min(sizes):,} to {max(sizes):,}"
    return f"a region of {count} pixel{'s' * (sizes != [1])}"


def _corners(box: Sequence[float]) -> tuple[str, str]:
    return f"({box[0]:g}, {box[1]:g})", f"({box[2]:g}, {box[3]:g})"
