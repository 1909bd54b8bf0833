"""check(): run checks on one map, each example's figure independent of the batch, every failure with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor

from ..answer import answer
from ..base.attribution import Attribution
from ..base.errors import NotApplicable
from ..base.types import Model
from ..checks import (
    CHECKS,
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
from ..engine.runner import is_out_of_memory
from ..explain import MethodLike, as_methods
from ..question.question import CheckOptions, Options, Question, question_of, require_options
from ..question.targets import Logit, Target
from .controls import ConstantMap
from .findings import Finding, Findings, nan_like

# What a method or a check raises about the question itself; anything else is a fault and goes up.
REFUSALS = (NotApplicable, ValueError, FloatingPointError, RuntimeError, NotImplementedError)
ChecksLike = Iterable[Check | type[Check] | str] | Check | type[Check] | str
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
    checks: ChecksLike | None = None,
    **options: Unpack[CheckOptions],
) -> Findings:
    """Test a map: does it hold what its method promises, and does it beat what knows nothing of the model?

    Args:
        method: a method or its text, or a finished map (an Attribution or a tensor `(batch, *features)`), for which
            the checks that explain again give their reason instead of a figure.
        checks: checks, their classes or texts such as `"deletion(fill=blur(3))"`; None is the trust card's set.
        options: those of `explain`, and `mask`, the true region for localisation; boxes become masks by
            `limelight.checks.masks_of_boxes`. See `CheckOptions`.

    Returns a list of `Finding`, in the order of `checks`. The model is left exactly as it was. A check that cannot
    answer for an example gives NaN and its reason; ValueError is raised only for bad arguments.
    """
    wanted = as_checks(CARD if checks is None else checks)
    with examination(model, inputs, options) as (question, mask):
        attribution, again = examined(question, method, options)
        with open_case(question, attribution, again, mask) as case:
            return Findings(measure(each, case) for each in wanted)


@contextmanager
def examination(model: Model, inputs: Tensor, options: CheckOptions) -> Iterator[tuple[Question, Tensor | None]]:
    """The question of a call that tests maps, and its mask as booleans. Raises as `question_of` and `as_mask` do."""
    require_options(options, CheckOptions.__annotations__)
    asked: Options = {name: value for name, value in options.items() if name != "mask"}  # type: ignore[assignment]
    with question_of(model, inputs, asked) as question:
        yield question, as_mask(options.get("mask"), question.inputs)


def as_checks(given: ChecksLike) -> tuple[Check, ...]:
    """Read checks, their classes or texts. Raises ValueError or TypeError that names what would have worked."""
    several = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    found = tuple(map(CHECKS.coerce, several))
    if not found:
        raise ValueError("checks: an empty sequence; name at least one check")
    return found


def examined(question: Question, method: Subject, options: CheckOptions | None = None) -> tuple[Attribution, Any]:
    """The map to check, and the method that can make another; None where only the map is there.

    Raises ValueError where `options` differ from what a finished Attribution was made with.
    """
    if isinstance(method, Attribution):
        if question.inputs.shape != method.inputs.shape or not torch.equal(method.inputs, question.inputs):
            raise ValueError("method: the attribution was made for other inputs than these; pass its own .inputs")
        _require_same(question, method, options or {})
        return method, None
    if not isinstance(method, Tensor):
        (found,) = answer(question, as_methods(method)).values()
        return found, found.method
    (constant,) = answer(question, [ConstantMap()]).values()
    return replace(constant, values=_finished(method.detach(), question.inputs), method="map"), None


def _require_same(question: Question, attribution: Attribution, options: CheckOptions) -> None:
    if options.get("target") is not None and not _is_about(attribution, question.target):
        raise ValueError(
            f"target: {options['target']!r}, but the attribution explains {attribution.target}; leave target out"
        )
    if "baseline" in options and question.baseline != attribution.baseline:
        raise ValueError(
            f"baseline: {question.baseline!r}, but the attribution has {attribution.baseline!r}; leave baseline out"
        )
    if "seed" in options and question.seed != attribution.seed:
        raise ValueError(f"seed: {question.seed}, but the attribution has {attribution.seed}; leave seed out")


def _is_about(attribution: Attribution, asked: Target) -> bool:
    own = attribution.target
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
    if mask.shape == space:
        mask = mask.expand(len(inputs), *space)
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
