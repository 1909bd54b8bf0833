"""What the result of a method's `run` has to be like."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..base.arithmetic import sum_rounding
from ..base.notes import Note
from .base import Estimate, Method, OwnScores

# Settings that bring a map closer to the sum that it promises.
_CLOSER = {
    "quadrature": "more nodes (quadrature=, most_nodes=)",
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
    # A finite sum has only finite terms and takes a fifth of the time; an infinite one may be an overflow.
    if bool(torch.isfinite(estimate.values.detach().sum())):
        return
    bad = (~torch.isfinite(estimate.values)).flatten(1).any(1)
    if bool(bad.any()):
        which = ", ".join(map(str, bad.nonzero()[:, 0].tolist()))
        raise FloatingPointError(f"map of {method!r}: NaN or infinity for example {which}")


def over_references(found: list[Estimate]) -> tuple[Estimate, Tensor]:
    """Return the mean of a method's results for several references, and their standard deviation `(n, *features)`."""
    values = torch.stack([each.values for each in found])
    spread = values.std(0)
    scatter = ", including that of the samples" if any(each.stderr is not None for each in found) else ""
    notes: list[str] = [f"mean over {len(found)} references; spread is their standard deviation{scatter}"]
    notes += [Note.of(note).after(f"reference {k}: ") for k, each in enumerate(found) for note in each.notes]
    errors = [each.stderr for each in found if each.stderr is not None]
    stderr = error_of_mean(values, errors)
    raws = [each.raw for each in found if each.raw is not None]
    raw = torch.stack(raws).mean(0) if raws else None
    raw_errors = [each.raw_stderr for each in found if each.raw_stderr is not None]
    raw_stderr = error_of_mean(torch.stack(raws), raw_errors) if raw_errors else None
    own_scores = mean_scores([each.own_scores for each in found])
    halves, layer = mean_halves([each.halves for each in found]), found[0].layer
    mean = Estimate(values.mean(0), stderr, raw, tuple(notes), own_scores, layer, halves=halves, raw_stderr=raw_stderr)
    return mean, spread


def mean_scores(scores: list[OwnScores | None]) -> OwnScores | None:
    """Average the methods' own scores over several references."""
    first, at_baseline = scores[0], [each.at_baseline for each in scores if each and each.at_baseline is not None]
    if first is None:
        return None
    return replace(first, at_baseline=torch.stack(at_baseline).mean(0) if len(at_baseline) == len(scores) else None)


def mean_halves(halves: list[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor] | None:
    """Average the maps of both halves of the samples over several references; None unless all have them."""
    known = [each for each in halves if each is not None]
    if len(known) < len(halves):
        return None
    first, second = (torch.stack(each).mean(0) for each in zip(*known, strict=True))
    return first, second


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


def missed(estimate: Estimate, at_x: Tensor, at_baseline: Tensor, method: Method, precision: torch.dtype) -> list[Note]:
    """Return a caution for each example whose values miss the promised sum by more than SHORTFALL of it and rounding.

    `precision`: what the model computes in.
    """
    change = at_x.double() - at_baseline.double()
    total = estimate.values.double().flatten(1).sum(1)
    gap, rounding = (total - change).abs(), sum_rounding(estimate.values, at_x, at_baseline, precision)
    notes = []
    for i in ((gap > SHORTFALL * change.abs()) & (gap > rounding)).nonzero()[:, 0].tolist():
        by = f" by {float(gap[i] / change[i].abs()):.0%}"
        if change[i].abs() <= rounding[i]:
            by = f", which is 0 up to rounding: they sum to {float(total[i]):.2g}"
        text = f"INCOMPLETE, the values miss f(x) - f(baseline){by}: {_advice(method)}"
        notes.append(Note("incomplete", text, i))
    return notes
