"""Texts of different lengths, each length explained by itself, so that padding changes no map and no random number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base.attribution import Attribution, Panel
from .base.notes import Note
from .base.types import Model
from .models.text import TextModel
from .question.question import Options, labels_of, snapshot_of
from .question.registries import as_target
from .question.targets import ClassTarget, Target
from .question.text_targets import Continuation


def text_model(model: Model, inputs: Any) -> TextModel | None:
    """Return the model of texts if the inputs are a text or a list of them; None for other inputs."""
    found = snapshot_of(model)
    several = isinstance(inputs, list | tuple) and bool(inputs) and all(isinstance(each, str) for each in inputs)
    return found if isinstance(found, TextModel) and (isinstance(inputs, str) or several) else None


def rows_of_texts(model: TextModel, texts: Sequence[str], options: Options) -> tuple[Tensor, Options]:
    """Return the embeddings of texts, and the options that go with them."""
    target = as_target(options.get("target"), len(texts), labels_of(model))
    if isinstance(target, Continuation):
        target = target.read(model, texts)
        rows, given = model.tokens(texts, target.text)
    else:
        rows, given = model.tokens(texts)
    own = options.get("given")
    if own is not None:
        if not isinstance(own, dict):
            raise TypeError(f"given: {type(own).__name__}; with texts use a mapping of the model's argument names")
        given.update(own)
    return rows, {**options, "given": given, "target": target}


@dataclass(frozen=True, eq=False)
class Group:
    """Texts of one number of tokens, their places in the batch, and the options that go with them."""

    index: list[int]
    length: int
    texts: list[str]
    options: Options


def groups_of(model: TextModel, texts: Sequence[str], options: Options) -> tuple[list[Group], Target]:
    """Divide texts by their number of tokens, the shortest first; and return the target as it is read for all.

    Raises ValueError for options that belong to the whole batch where there are several lengths.
    """
    target = as_target(options.get("target"), len(texts), labels_of(model))
    whole = list(texts)
    if isinstance(target, Continuation):
        target = target.read(model, texts)
        if not model.translates:  # a decoder's text stands by itself
            whole = [text + more for text, more in zip(texts, target.text or (), strict=True)]
    lengths = [len(model.tokenizer.encode(each).ids) for each in whole]
    if len(set(lengths)) == 1:
        return [Group(list(range(len(texts))), lengths[0], list(texts), {**options, "target": target})], target
    given, drawn = options.get("given"), options.get("draws_of")
    if given is not None or drawn is not None:
        name = "given" if given is not None else "draws_of"
        raise ValueError(f"{name}: for texts of one length; these have {min(lengths)} to {max(lengths)} tokens")
    groups = []
    for length in sorted(set(lengths)):
        index = [i for i, each in enumerate(lengths) if each == length]
        own: Options = {**options, "target": target.select(index)}
        groups.append(Group(index, length, [texts[i] for i in index], own))
    return groups, target


def in_order(groups: Sequence[Group]) -> list[int]:
    """Return where each example of the batch is among those of the groups, one group after the other."""
    found: list[int] = torch.tensor([i for group in groups for i in group.index]).argsort().tolist()
    return found


def by_length(
    model: TextModel, texts: Sequence[str], options: Options, explained: Callable[[list[str], Options], Panel]
) -> Panel:
    """Explain texts of each number of tokens by themselves by `explained`."""
    groups, target = groups_of(model, texts, options)
    panels = [explained(group.texts, group.options) for group in groups]
    if len(groups) == 1:
        return panels[0]
    maps = [joined([panel[k] for panel in panels], groups, target) for k in range(len(panels[0]))]
    rows = {
        name: sum(getattr(panel, name) for panel in panels) for name in ("forward_rows", "backward_rows", "cached_rows")
    }
    return Panel(maps, **rows)


def joined(parts: Sequence[Attribution], groups: Sequence[Group], target: Target) -> Attribution:
    """Join the maps of groups of examples to one of all, padded on the right, in the order of the batch."""
    order = in_order(groups)
    longest = max(each.inputs.shape[-1] for each in parts)

    def padded(name: str) -> Tensor | None:
        held = [getattr(each, name) for each in parts]
        if any(each is None for each in held):
            return None
        return torch.cat([F.pad(each, (0, longest - each.shape[-1])) for each in held])[order]

    def rows(name: str) -> Any:
        held = [getattr(each, name) for each in parts]
        if any(each is None for each in held) or len({each.shape[1:] for each in held}) > 1:
            return None
        return torch.cat(held)[order]

    first = parts[0]
    notes: list[Note] = []
    for part, group in zip(parts, groups, strict=True):
        notes += [each.about(_of_batch(each.example, group.index)) for each in part.notes]
    fields: dict[str, Any] = {
        **{name: padded(name) for name in ("values", "inputs", "stderr", "spread")},
        **{name: rows(name) for name in ("raw", "score", "baseline_score", "outputs", "steadiness", "raw_stderr")},
        "target": _joined_target([each.target for each in parts], order, target),
        "forward_rows": sum(each.forward_rows for each in parts),
        "backward_rows": sum(each.backward_rows for each in parts),
        "cached_rows": sum(each.cached_rows for each in parts),
        "seconds": sum(each.seconds for each in parts),
        "notes": tuple(dict.fromkeys(notes)),
        "output_kinds": _in_order([kind for each in parts for kind in each.output_kinds], order),
        "texts": _in_order([text for each in parts for text in each.texts], order),
    }
    return replace(first, **fields)


def _in_order(values: Sequence[Any], order: Sequence[int]) -> tuple[Any, ...]:
    return tuple(values[i] for i in order) if len(values) == len(order) else ()


def _of_batch(place: Any, group: Sequence[int]) -> Any:
    if place is None:
        return None
    return (group[place[0]], *place[1:]) if isinstance(place, tuple) else group[place]


def _joined_target(found: Sequence[Any], order: Sequence[int], target: Target) -> Any:
    """Return the classes that were explained, or the target of all texts as it was read."""
    if isinstance(found[0], Tensor):
        return torch.cat(list(found))[order]
    if isinstance(target, ClassTarget) and target.classes is None:
        index = [each for part in found for each in part.index]
        return replace(target, index=_in_order(index, order))
    return target
