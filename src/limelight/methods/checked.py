"""What the result of a method's `run` has to be like."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..base.notes import Note
from .base import Estimate, Method, OwnScores

# Settings that bring a map closer to the sum that it promises.
_CLOSER = {
    "quadrature": "more nodes (quadrature=)",
    "steps": "more steps=",
    "samples": "more samples=",
    "permutations": "more permutations=",
    "evaluations": "more evaluations=",
    "tolerance": "tolerance=",
}
SHORTFALL = 0.05  # share of f(x) - f(baseline); maps that miss more get a caution


def checked(found: Any, method: Method, x: Tensor) -> Estimate:
    """Return the result of a method's `run`. Raises TypeError unless it is an Estimate, ValueError for wrong shapes."""
    if not isinstance(found, Estimate) or not isinstance(found.values, Tensor):
        got = f"Estimate(values={type(found.values).__name__})" if isinstance(found, Estimate) else type(found).__name__
        raise TypeError(f"method: {type(method).__name__}.run gave {got}; it must return Estimate(values=a tensor)")
    shape, wanted = tuple(found.values.shape), [tuple(x.shape)]
    if x.ndim > 2:
        wanted.append((len(x), 1, *x.shape[2:]))  # channels count as one
    if shape not in wanted and (found.layer is None or shape[:1] != (len(x),)):  # any shape of a layer
        raise ValueError(
            f"method: {type(method).__name__}.run gave values of shape {shape} for inputs {tuple(x.shape)}; they must "
            f"be {' or '.join(map(str, wanted))}"
        )
    if method.needs.own_scores and found.own_scores is None:
        raise ValueError(
            f"method: {type(method).__name__}.run gave no scores, as needs.own_scores promises; use "
            "own_scores=OwnScores(...)"
        )
    if found.stderr is not None and found.stderr.shape != found.values.shape:
        raise ValueError(
            f"method: {type(method).__name__}.run gave a stderr of shape {tuple(found.stderr.shape)} for values of "
            f"shape {shape}; they must be alike"
        )
    return found


def require_finite(estimate: Estimate, method: Method) -> None:
    """Raise FloatingPointError for NaN or infinity in a map."""
    bad = (~torch.isfinite(estimate.values)).flatten(1).any(1)
    if bool(bad.any()):
        which = ", ".join(map(str, bad.nonzero()[:, 0].tolist()))
        raise FloatingPointError(f"map of {method!r}: NaN or infinity for example {which}")


def mean_scores(scores: list[OwnScores | None]) -> OwnScores | None:
    """Average the methods' own scores over several references."""
    first, at_baseline = scores[0], [each.at_baseline for each in scores if each and each.at_baseline is not None]
    if first is None:
        return None
    return replace(first, at_baseline=torch.stack(at_baseline).mean(0) if len(at_baseline) == len(scores) else None)


def error_of_mean(values: Tensor, errors: list[Tensor]) -> Tensor:
    """Return the standard error of the mean over references, from `values` `(references, ...)` and their own errors.

    The spread contains the errors of references and samples. With few references, the error of the samples alone may
    be estimated larger.
    """
    spread = values.std(0).square()
    inner = torch.stack(errors).square().mean(0) if errors else torch.zeros_like(spread)
    return (torch.maximum(spread, inner) / len(values)).sqrt()


def level(estimate: Estimate) -> list[Note]:
    """Return a caution for each example whose map of a layer, if there are several positions, is the same at all.

    Of a map of units `(n, channels, *space)` that is each channel's.
    """
    if estimate.raw is None or estimate.raw.ndim < 3:
        return []
    raw = estimate.raw.flatten(2)
    if raw.shape[2] < 2:
        return []
    size = raw.abs().amax((1, 2))
    same = (size > 0) & ((raw.amax(2) - raw.amin(2)).amax(1) <= 8 * torch.finfo(raw.dtype).eps * size)
    text = "the map is the same at every position of the layer and shows no place"
    return [Note("caution", text, i) for i in same.nonzero()[:, 0].tolist()]


def _advice(method: Method) -> str:
    """Say by which of its settings the method comes closer to its sum."""
    own = {each.name for each in fields(method)}
    found = [words for name, words in _CLOSER.items() if name in own]
    if found:
        return f"use {' or '.join(found)}"
    return (
        "it sums up by construction, so rounding or an operator outside its rules is the cause: try model and inputs "
        "in float64, or integrated-gradients"
    )


def missed(estimate: Estimate, at_x: Tensor, at_baseline: Tensor, method: Method) -> list[Note]:
    """Return a caution for each example whose values miss the promised sum by more than SHORTFALL of it."""
    change = at_x.double() - at_baseline.double()
    share = (estimate.values.double().flatten(1).sum(1) - change).abs() / change.abs()
    return [
        Note(
            "incomplete",
            f"INCOMPLETE, the values miss f(x) - f(baseline) by {float(share[i]):.0%}: {_advice(method)}",
            i,
        )
        for i in (share > SHORTFALL).nonzero()[:, 0].tolist()
    ]
