"""Sampled scores that outlive Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .score import Score


def stream_until_interrupted(score: Score, points: Iterable[Tensor]) -> tuple[Tensor, bool]:
    """Return the scores `(rows,)` of a stream of batches `(n, *features)`, batch by batch, and whether Ctrl-C cut it.

    Of a black box the scores of the passes before are returned then; a module's KeyboardInterrupt goes through.
    """
    found = [torch.zeros(0, device=score.examples.device)]
    passes = score.runner.stream(points, score.examples, score.target, gradient=False, inside=score.inside)
    try:
        for rows in passes:
            found.append(rows.scores)
    except KeyboardInterrupt:
        if score.runner.differentiable:
            raise
        return torch.cat(found), True
    return torch.cat(found), False
