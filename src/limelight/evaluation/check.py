"""check(): run checks on one map, each example's figure independent of the batch, every failure with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..base.attribution import Attribution
from ..base.errors import NotApplicable
from ..checks import (
    SRG,
    BiasShift,
    Completeness,
    Deletion,
    Determinism,
    Dummy,
    Gini,
    ImplementationInvariance,
    InputShift,
    Insertion,
    Linearity,
    MaxSensitivity,
    Randomisation,
    Sensitivity,
)
from ..checks.base import Check, Measured
from ..checks.case import Case, open_case
from ..checks.parse import as_checks
from ..engine.layers import LayerLike
from ..engine.runner import Model, is_out_of_memory
from ..explain import MethodLike, explain
from ..methods import Method
from ..question.baselines import Baseline
from ..question.targets import Logit, as_target
from .controls import ConstantMap
from .findings import Finding, Findings, nan_like

# What a method or a check raises about the question itself; anything else is a fault and goes up.
REFUSALS = (NotApplicable, ValueError, FloatingPointError, RuntimeError, NotImplementedError)
Subject = MethodLike | Attribution | Tensor

CARD: tuple[Check, ...] = (
    Completeness(),
    Determinism(),
    Sensitivity(),
    Dummy(),
    Linearity(),
    ImplementationInvariance(),
    InputShift(),
    Randomisation(stages=2),
    BiasShift(),
    MaxSensitivity(samples=4),
    SRG(steps=16),
    Deletion(steps=32),
    Insertion(steps=32),
    Gini(),
)
"""What the trust card runs: every hard test, then the evidence."""


def check(
    model: Model,
    inputs: Tensor,
    method: Subject,
    checks: Iterable[Check | type[Check] | str] | Check | type[Check] | str | None = None,
    *,
    target: Any = None,
    baseline: float | Tensor | Baseline = 0.0,
    layer: LayerLike | None = None,
    seed: int = 0,
    rows_per_pass: int | None = None,
    mask: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Test a map: does it hold what its method promises, and does it beat what knows nothing of the model?

    `method`: a method or its name, or a finished map (an Attribution or a tensor `(batch, *features)`), for which the
    checks that explain again say so instead of a figure. `checks`: checks, their classes or names; None is the set of
    the trust card. `mask`: for localisation, booleans `(batch, H, W)` or `(batch, 1, H, W)`; boxes become masks by
    `limelight.checks.masks_of_boxes`. The other arguments are those of `explain`.

    Returns a list of `Finding`, in the order of `checks`. The model is left exactly as it was. A check that cannot
    answer for an example gives NaN and its reason; ValueError is raised only for bad arguments.
    """
    asked = as_checks(CARD if checks is None else checks)
    attribution, again = examined(model, inputs, method, target, baseline, layer, seed, rows_per_pass)
    with open_case(model, attribution, again, as_mask(mask, inputs), rows_per_pass, progress) as case:
        return Findings(measure(each, case) for each in asked)


def examined(
    model: Model,
    inputs: Tensor,
    method: Subject,
    target: Any,
    baseline: float | Tensor | Baseline,
    layer: LayerLike | None,
    seed: int,
    rows_per_pass: int | None,
) -> tuple[Attribution, Method | None]:
    """The map to check, and the method that can make another; None where only the map is there."""

    def explained(by: MethodLike) -> Attribution:
        return explain(
            model, inputs, by, target=target, baseline=baseline, layer=layer, seed=seed, rows_per_pass=rows_per_pass
        )

    if isinstance(method, Attribution):
        if target is not None and not _is_about(method, target):
            raise ValueError(f"target: {target!r}, but the attribution explains {method.target}; leave target out")
        if method.inputs.shape != inputs.shape or not torch.equal(method.inputs, inputs.detach()):
            raise ValueError("method: the attribution was made for other inputs than these; pass its own .inputs")
        return method, None
    if not isinstance(method, Tensor):
        found = explained(method)
        return found, found.method
    return replace(explained(ConstantMap()), values=_finished(method.detach(), inputs), method="map"), None


def _is_about(attribution: Attribution, target: Any) -> bool:
    asked, own = as_target(target, len(attribution.inputs)), attribution.target
    if isinstance(own, Tensor):
        return type(asked) is Logit and asked.index is not None and [*asked.listed(len(own))] == own.tolist()
    return asked == own


def _finished(values: Tensor, inputs: Tensor) -> Tensor:
    """A finished map as values of an attribution: a channel axis of 1 where it came without."""
    if inputs.ndim > 2 and values.shape == (len(inputs), *inputs.shape[2:]):
        values = values[:, None]
    one_channel = (len(inputs), 1, *inputs.shape[2:]) if inputs.ndim > 2 else inputs.shape
    if not values.is_floating_point() or values.shape not in (inputs.shape, one_channel):
        raise ValueError(
            f"method: a map of shape {tuple(values.shape)} and {values.dtype} does not fit inputs of shape "
            f"{tuple(inputs.shape)}; use floating point of that shape, or one with a channel axis of 1"
        )
    bad = (~torch.isfinite(values)).flatten(1).any(1).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(f"method: the map has NaN or infinity in example {', '.join(map(str, bad))}; leave it out")
    return values


def as_mask(mask: Tensor | None, inputs: Tensor) -> Tensor | None:
    """The mask as booleans `(n, 1, *space)`. Raises ValueError for any other shape than the inputs'."""
    if mask is None:
        return None
    space = inputs.shape[2:] if inputs.ndim > 2 else inputs.shape[1:]
    lead = (len(inputs), 1) if inputs.ndim > 2 else (len(inputs),)
    found = mask if mask.ndim == len(lead) + len(space) else mask[:, None]
    if found.shape != (*lead, *space):
        raise ValueError(f"mask: shape {tuple(mask.shape)}; use {(len(inputs), *space)}, one region per example")
    return found.to(inputs.device) > 0


def measure(check: Check, case: Case) -> Finding:
    """One check on one case. What fails for the batch is tried example by example, so that none suffers for another."""
    runner, spent = case.score.runner, case.spent
    before = (runner.forward_rows + spent.forward_rows, runner.backward_rows + spent.backward_rows)
    measured = _measured(check, case)
    after = (runner.forward_rows + spent.forward_rows, runner.backward_rows + spent.backward_rows)
    return Finding.of(check, case.attribution.name, measured, after[0] - before[0], after[1] - before[1])


def _measured(check: Check, case: Case) -> Measured:
    if check.needs_method and case.method is None:
        return _nothing(case, "this check explains again, and only a finished map was given")
    try:
        return check.run(case)
    except NotApplicable as error:
        return _nothing(case, str(error))
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise  # no word on the map: with more memory it has its figure
        failure = _nothing(case, f"{type(error).__name__}: {error}")
    if len(case) == 1:
        return failure
    try:
        parts = [case.select([i]) for i in range(len(case))]
    except NotApplicable:  # a target that is written for the whole batch
        return failure
    return _joined([_measured(check.select(i, case.x), part) for i, part in enumerate(parts)])


def _nothing(case: Case, reason: str) -> Measured:
    return Measured(nan_like(len(case)), reasons=(reason,) * len(case))


def _joined(parts: Sequence[Measured]) -> Measured:
    passed: Tensor | None = None
    if any(each.passed is not None for each in parts):
        no = torch.zeros(1, dtype=torch.bool)
        passed = torch.cat([no if each.passed is None else each.passed.cpu() for each in parts])
    shared = set.intersection(*(set(each.detail) for each in parts))
    return Measured(
        torch.cat([each.values.double().cpu() for each in parts]),
        passed,
        {name: torch.cat([each.detail[name] for each in parts]) for name in sorted(shared)},
        tuple(reason for each in parts for reason in (each.reasons or ("",))),
        tuple(dict.fromkeys(note for each in parts for note in each.notes)),
    )
