"""What holds of every map of a text: no path from what is cut, and 0 where nothing was removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..question.question import Question
from ..question.text_baselines import Cut
from .base import Estimate, Method


def refuse_paths_from_cut(question: Question, methods: Sequence[Method]) -> None:
    """Raise ValueError where a method that needs an input to start from has `Cut` as its baseline."""
    if isinstance(question.baseline, Cut):
        paths = ", ".join(each.kebab() for each in methods if each.needs.baseline and each.needs.gradients)
        if paths:
            raise ValueError(
                f"baseline: Cut() removes tokens whole, and {paths} needs an input to start from; use "
                "Token('[MASK]'), Pad() or MeanToken()"
            )


def within_texts(
    question: Question, method: Method, found: Estimate, spread: Tensor | None
) -> tuple[Estimate, Tensor | None]:
    """Set a map of texts to 0 at padding, and at the special tokens that a baseline keeps."""
    length = question.inputs.shape[-1]
    if not question.texts or found.values.shape[-1] != length:
        return found, spread
    place = torch.arange(length, device=found.values.device)
    stays = (place >= torch.tensor([[len(each)] for each in question.texts], device=place.device))[:, None]
    if method.needs.baseline and question.stays is not None:
        stays = question.stays

    def cleared(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.masked_fill(stays, 0)

    return replace(found, values=found.values.masked_fill(stays, 0), stderr=cleared(found.stderr)), cleared(spread)
