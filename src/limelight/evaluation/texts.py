"""Checks of texts of several lengths: each length by itself, so that padding changes no figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.attribution import Attribution
from ..base.types import Model
from ..by_length import Group, groups_of, in_order, text_model
from ..checks.base import as_wide
from ..question.given import as_tensor
from ..question.question import CheckOptions, require_options
from ..question.targets import Target
from .findings import Finding

_PADDED = ("values", "inputs", "stderr", "spread")
_ROWS = ("raw", "score", "baseline_score", "outputs", "steadiness", "raw_stderr")


def several_lengths(model: Model, inputs: Any, options: CheckOptions) -> tuple[list[Group], Target | None]:
    """Return the groups of texts that are checked by themselves and the target of all; none for other inputs."""
    reader = text_model(model, inputs)
    if reader is None or isinstance(inputs, str):
        return [], None
    require_options(options, CheckOptions.__annotations__)
    own: Any = {name: value for name, value in options.items() if name != "mask"}
    groups, target = groups_of(reader, inputs, own)
    return (groups, target) if len(groups) > 1 else ([], None)


def options_of(group: Group, options: CheckOptions) -> CheckOptions:
    """Return the options of a call for the texts of one length."""
    own: Any = {name: value for name, value in group.options.items() if name in options}
    if options.get("mask") is not None:
        mask = as_tensor(options["mask"])
        own["mask"] = (mask if mask.ndim == 1 else mask[group.index])[..., : group.length]
    found: CheckOptions = own
    return found


def subject_of(group: Group, method: Any) -> Any:
    """Return what is checked for the texts of one length: a method as it is, of a finished map their part."""
    if isinstance(method, Tensor | np.ndarray):
        return as_tensor(method)[group.index][..., : group.length]
    if not isinstance(method, Attribution):
        return method
    held = {name: getattr(method, name) for name in (*_PADDED, *_ROWS)}
    own: dict[str, Any] = {name: each[group.index] for name, each in held.items() if each is not None}
    own |= {name: own[name][..., : group.length] for name in _PADDED if name in own}
    for name in ("output_kinds", "texts"):
        each = getattr(method, name)
        own[name] = tuple(each[i] for i in group.index) if len(each) == len(method.inputs) else ()
    target = method.target
    own["target"] = target[group.index] if isinstance(target, Tensor) else target.select(group.index)
    return replace(method, **own)


def joined_finding(groups: Sequence[Group], parts: Sequence[Finding]) -> Finding:
    """Join the findings of the groups to one of all texts, in the order of the batch."""
    order = in_order(groups)
    value = torch.cat([each.value for each in parts])[order]
    never = [torch.zeros(len(group.index), dtype=torch.bool) for group in groups]
    each, passed, known = None, None, ~value.isnan()
    if any(part.each is not None for part in parts):
        own = [no if part.each is None else part.each for part, no in zip(parts, never, strict=True)]
        each = torch.cat(own)[order]
        passed = bool(each[known].all()) if bool(known.any()) else None
    names = [name for name in parts[0].detail if all(name in part.detail for part in parts)]
    notes: list[str] = []
    for group, part in zip(groups, parts, strict=True):
        for note in part.notes:
            common = all(note in other.notes for other in parts)
            notes.append(note if common else f"texts of {group.length} tokens: {note}")
    reasons = [reason for part in parts for reason in part.reasons]
    return replace(
        parts[0],
        value=value,
        each=each,
        passed=passed,
        detail={
            name: torch.cat(as_wide([part.detail[name].double().cpu() for part in parts]))[order] for name in names
        },
        reasons=tuple(reasons[i] for i in order),
        notes=tuple(dict.fromkeys(notes)),
        forward_rows=sum(part.forward_rows for part in parts),
        backward_rows=sum(part.backward_rows for part in parts),
        shared_rows=sum(part.shared_rows for part in parts),
        limit=next((part.limit for part in parts if part.limit is not None), None),
    )
