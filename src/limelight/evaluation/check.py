"""check(): run checks on one map. Each example's figure is independent of the batch; failures have a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from ..answer import answer
from ..base.attribution import Attribution
from ..base.errors import NotApplicable, reason
from ..base.types import Model
from ..by_length import Group
from ..checks import (
    CHECKS,
    SRG,
    BiasShift,
    Completeness,
    ConservedShare,
    Deletion,
    Determinism,
    Dummy,
    Gini,
    ImplementationInvariance,
    InputShift,
    Insertion,
    Linearity,
    LogitShift,
    MaxSensitivity,
    Randomisation,
    Sensitivity,
)
from ..checks.base import Check, HardCheck, Measured, as_wide
from ..checks.case import Case, open_case
from ..checks.exhibits import MOST_EXAMPLES
from ..checks.imputers import Fill
from ..checks.maps import space_of
from ..engine.memory import is_out_of_memory
from ..explain import MethodLike, as_methods
from ..inputs import rows_of
from ..methods import Method
from ..question.given import as_tensor
from ..question.per_example import fitted, named
from ..question.question import CheckOptions, Options, Question, question_of, require_options
from ..question.targets import Logit
from .controls import ConstantMap
from .findings import Finding, Findings
from .part_cases import groups_by_length, opened
from .texts import joined_finding, options_of, several_lengths, subject_of

# What a method or a check raises about its arguments; any other exception is a defect and is not caught.
REFUSALS = (NotApplicable, ValueError, FloatingPointError, RuntimeError, NotImplementedError)
ChecksLike = Iterable[Check | type[Check] | str] | Check | type[Check] | str
Subject = MethodLike | Attribution | Tensor | np.ndarray

CARD: tuple[Check, ...] = (
    Completeness(),
    Determinism(),
    Sensitivity(),
    Dummy(),
    Linearity(),
    ImplementationInvariance(),
    LogitShift(),
    InputShift(),
    Randomisation(stages=2),
    BiasShift(),
    MaxSensitivity(samples=4),
    SRG(steps=16),
    Deletion(steps=32),
    Insertion(steps=32),
    Gini(),
    ConservedShare(),
)
"""The checks of the trust card: every hard one, then the evidence."""


def check(
    model: Model,
    inputs: Tensor,
    method: Subject,
    checks: ChecksLike | None = None,
    **options: Unpack[CheckOptions],
) -> Findings:
    """Test a map: run checks of what its method promises, and of how well it follows the model.

    Args:
        method: a method or its text, or a finished map (an Attribution, a tensor or an array `(batch, *features)`), for
            which the checks that explain again give a reason instead of a figure.
        checks: checks, their classes or texts such as `"deletion(fill=blur(3))"`; None runs those of the trust card.
        options: those of `explain`, and `mask`, the true region for localisation; boxes become masks by
            `limelight.checks.masks_of_boxes`. See `CheckOptions`.

    Returns a list of `Finding`, in the order of `checks`. The model is not changed. A check without a
    figure for an example gives NaN and a reason; ValueError is raised only for bad arguments.
    """
    wanted = as_checks(CARD if checks is None else checks)
    if groups := several_lengths(model, inputs, options)[0]:
        found = [_of_texts(model, group, method, wanted, options) for group in groups]
        return Findings(joined_finding(groups, each) for each in zip(*found, strict=True))
    with examination(model, inputs, options) as (question, mask):
        attribution, again = examined(question, method, options)
        with open_case(question, attribution, again, mask) as case:
            return Findings(measure(each, case, exhibits=True) for each in wanted)


def _of_texts(model: Model, group: Group, method: Subject, checks: ChecksLike, options: CheckOptions) -> Findings:
    texts: Any = group.texts
    return check(model, texts, subject_of(group, method), checks, **options_of(group, options))


@contextmanager
def examination(model: Model, inputs: Tensor, options: CheckOptions) -> Iterator[tuple[Question, Tensor | None]]:
    """Yield the question of a call and its mask as booleans. Raises as `question_of` and `as_mask` do."""
    require_options(options, CheckOptions.__annotations__)
    rest: Options = {name: value for name, value in options.items() if name != "mask"}  # type: ignore[assignment]
    rows = rows_of(model, inputs, rest)
    with question_of(model, rows.inputs, rows.options) as question:
        yield question, as_mask(options.get("mask"), question.inputs)


def as_checks(given: ChecksLike) -> tuple[Check, ...]:
    """Read checks, their classes or texts. Raises ValueError or TypeError that names what would work."""
    several = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    found = tuple(map(CHECKS.coerce, several))
    if not found:
        raise ValueError("checks: an empty sequence; name at least one check")
    return found


def examined(question: Question, method: Subject, options: CheckOptions | None = None) -> tuple[Attribution, Any]:
    """Return the map to check, and the method that can make another; None where only the map was given.

    Raises ValueError where `options` differ from what a finished Attribution was made with.
    """
    if isinstance(method, Attribution):
        if question.inputs.shape != method.inputs.shape or not torch.equal(method.inputs, question.inputs):
            raise ValueError("method: the attribution was made for other inputs than these; pass its own .inputs")
        _require_same(question, method, options or {})
        return method, None
    method = as_tensor(method) if isinstance(method, np.ndarray) else method
    if not isinstance(method, Tensor):
        (found,) = answer(question, _of_parts(question, as_methods(method))).values()
        return found, found.method
    (constant,) = answer(question, [ConstantMap()]).values()
    return replace(constant, values=_finished(method.detach(), question.inputs), method="map"), None


def _of_parts(question: Question, methods: Sequence[Method]) -> list[Method]:
    """Return the methods as inputs of several parts, which are checked side by side, need them. Raises ValueError."""
    parts = question.given.parts
    if parts is None or not parts.held:
        return list(methods)
    if len(parts.held) == 1:
        return [parts.method(each, parts.held[0]) for each in methods]
    for each in methods:
        if each.by_part:
            raise ValueError(
                f"inputs: {each.kebab()} explains each of several parts by itself, so there is no map of all to check; "
                "check one part, with the others as given="
            )
    return [parts.method(each) for each in methods]


def _require_same(question: Question, attribution: Attribution, options: CheckOptions) -> None:
    own, target = attribution.target, question.target
    if isinstance(own, Tensor):
        same = type(target) is Logit and target.index is not None and [*target.listed(len(own))] == own.tolist()
    else:
        same = target == own
    if options.get("target") is not None and not same:
        raise ValueError(f"target: {options['target']!r}, but the attribution explains {own}; leave target out")
    if "baseline" in options and question.baseline != attribution.baseline:
        raise ValueError(
            f"baseline: {question.baseline!r}, but the attribution has {attribution.baseline!r}; leave baseline out"
        )
    if "seed" in options and question.seed != attribution.seed:
        raise ValueError(f"seed: {question.seed}, but the attribution has {attribution.seed}; leave seed out")


def _finished(values: Tensor, inputs: Tensor) -> Tensor:
    """Return a finished map as values of an attribution, with a channel axis of 1 where it has none."""
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


def as_mask(given: Any, inputs: Tensor) -> Tensor | None:
    """Return the mask as booleans `(n, 1, *space)`. Raises ValueError for a shape that does not fit the inputs."""
    if given is None:
        return None
    mask = as_tensor(given)
    space = space_of(inputs)
    if mask.shape == space:
        mask = mask.expand(len(inputs), *space)
    lead = (len(inputs), 1) if inputs.ndim > 2 else (len(inputs),)
    found = mask if mask.ndim == len(lead) + len(space) else mask[:, None]
    if found.shape != (*lead, *space):
        raise ValueError(f"mask: shape {tuple(mask.shape)}; use {(len(inputs), *space)}, one region per example")
    return found.to(inputs.device) > 0


def measure(check: Check, case: Case, exhibits: bool = False) -> Finding:
    """Run one check on one case. A check that fails for the batch is run again for each example alone.

    `exhibits`: keep what `Finding.show` draws.
    """
    check = named(_for_texts(check, case.question), case.question.names)
    runner = case.score.runner
    forward, backward = runner.forward_rows, runner.backward_rows
    case.shared.counting()
    groups = groups_by_length(case)
    if len(groups) > 1:
        measured = _by_length(check, case, groups)
    else:
        measured = _measured(check, replace(case, keeps_exhibits=exhibits and not case.question.texts))
    if check.kind == "faithfulness" and case.decimals is not None:
        half = 0.5 * 10.0**-case.decimals
        note = f"the model's outputs are rounded to {case.decimals} decimals: its scores are known to {half:g} only"
        measured = replace(measured, notes=(*measured.notes, note))
    rows = (runner.forward_rows - forward, runner.backward_rows - backward)
    limit = check.limit(case.x) if isinstance(check, HardCheck) else None
    return Finding.of(check, case.attribution.name, measured, *rows, limit, case.shared.spared)


def _for_texts(check: Check, question: Question) -> Check:
    """Return a check of texts, in which the question's baseline stands for hidden tokens where nothing else is said."""
    if not question.texts:
        return check
    for each in fields(check):
        usual = each.default if each.default_factory is MISSING else each.default_factory()
        if each.name in ("fill", "imputers") and getattr(check, each.name) == usual:
            own: Any = question.baseline if each.name == "fill" else (Fill(question.baseline),)
            check = replace(check, **{each.name: own})
    return fitted(check, question.model)


def _by_length(check: Check, case: Case, groups: Sequence[list[int]]) -> Measured:
    """Run a check on texts of each length by themselves: padding would be hidden, drawn for and explained again."""
    parts = []
    for group in groups:
        with opened(case, group) as part:
            parts.append(_measured(check, part))
    order = torch.tensor([i for group in groups for i in group]).argsort()
    return _joined(parts, order.tolist())


def _measured(check: Check, case: Case) -> Measured:
    if check.needs_method and case.method is None:
        return unmeasured(len(case), "this check explains again, and only a finished map was given")
    try:
        return check.run(case)
    except NotApplicable as error:
        return unmeasured(len(case), str(error))
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise  # a fact about the machine and not about the map
        failure = unmeasured(len(case), reason(error))
    if len(case) == 1:
        return failure
    parts = []
    try:
        for i in range(len(case)):
            with opened(case, [i]) as part:
                parts.append(_measured(check.select(i, case.x), part))
    except NotApplicable:  # the target cannot be cut into examples
        return failure
    return _joined(parts)


def unmeasured(n: int, reason: str) -> Measured:
    """Return NaN with the same reason for each of `n` examples."""
    return Measured(torch.full((n,), torch.nan, dtype=torch.float64), reasons=(reason,) * n)


def _joined(parts: Sequence[Measured], order: Sequence[int] | None = None) -> Measured:
    """Join what was measured of parts of a batch, in the order of the batch where it is another."""
    values = torch.cat([each.values.double().cpu() for each in parts])
    order = list(range(len(values)) if order is None else order)
    passed: Tensor | None = None
    if any(each.passed is not None for each in parts):
        no = (torch.zeros(len(each.values), dtype=torch.bool) for each in parts)
        passed = torch.cat(
            [own if each.passed is None else each.passed.cpu() for own, each in zip(no, parts, strict=True)]
        )
        passed = passed[order]
    shared = set.intersection(*(set(each.detail) for each in parts))
    reasons = [reason for each in parts for reason in (each.reasons or ("",) * len(each.values))]
    return Measured(
        values[order],
        passed,
        {name: torch.cat(as_wide([each.detail[name] for each in parts]))[order] for name in sorted(shared)},
        tuple(reasons[i] for i in order),
        tuple(dict.fromkeys(note for each in parts for note in each.notes)),
        tuple(shown.at([i]) for i, each in enumerate(parts[:MOST_EXAMPLES]) for shown in each.exhibits),
    )
