"""What a user gives as inputs, as the rows that the engine explains: pictures, structures of tensors, token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .base.devices import own_tensors
from .base.notes import Note
from .base.prepared import PreparedModel
from .base.types import Model
from .by_length import rows_of_texts, text_model
from .engine.carried import arguments, carrying
from .engine.layers import hooked, modules_of
from .engine.model_copy import frozen_copy
from .models.black_box import as_module
from .question.given import Given
from .question.parts import Parts, to_rows
from .question.question import Options


@dataclass(frozen=True)
class Rows:
    """Rows `(batch, *features)` to explain, the options that go with them, and the parts that they were made of."""

    inputs: Tensor
    options: Options
    parts: Parts | None = None
    notes: tuple[Note, ...] = ()

    def of_part(self, name: str, baseline: Any) -> Rows:
        """Return the rows of one part alone, beside the others as they are."""
        assert self.parts is not None
        parts = replace(self.parts, held=(name,))
        own: Options = {**_with_parts(self.options, parts), "baseline": baseline}
        return Rows(parts.values[name], own, parts, self.notes)


def rows_of(model: Model, inputs: Any, options: Options) -> Rows:
    """Return the rows for what `explain` takes as `inputs`. Raises ValueError or TypeError that names the argument.

    A floating tensor stands for itself. A tuple or mapping of tensors has parts; whole numbers and booleans among
    them go along with their example. Where nothing is floating, the rows are the outputs of the embedding that reads
    the first part: `(batch, channels, positions)`. For a model with preprocessing, pictures are prepared.
    """
    axes = options.get("axes") or (model.axes if isinstance(model, PreparedModel) else None)
    if axes is not None and not isinstance(inputs, Tensor):
        raise ValueError(f"axes: {axes!r} for {type(inputs).__name__}; it is of one tensor")
    if axes is not None and _floats(inputs):
        parts = Parts({"0": to_rows(inputs, axes)}, False, ("0",), axes=axes)
        return Rows(parts.values["0"], {**_with_parts(options, parts), "axes": None}, parts)
    reader = text_model(model, inputs)
    if reader is not None:
        return Rows(*rows_of_texts(reader, [inputs] if isinstance(inputs, str) else list(inputs), options))
    prepare = getattr(getattr(model, "module", model), "preprocess", None)
    if callable(prepare) and not _is_structure(inputs) and not isinstance(inputs, Tensor):
        several = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        return Rows(torch.cat([prepare(each) for each in several]), options)
    if not _is_structure(inputs) and not (isinstance(inputs, Tensor) and not _floats(inputs)):
        return Rows(inputs, options, notes=_channels_last(inputs))
    parts = Parts.of(inputs)
    notes: tuple[Note, ...] = ()
    if not parts.held:
        return _of_tokens(model, parts, options)
    along = [name for name in parts.values if name not in parts.held]
    if along:
        notes = (Note("fact", f"whole numbers and booleans go along with their example: {', '.join(along)}"),)
    own = _with_parts(options, parts)
    if options.get("names") is not None and len(parts.held) > 1:
        raise ValueError(f"names: they are of one tensor, and the inputs have {', '.join(parts.held)}")
    if len(parts.held) == 1:
        (own["baseline"],) = parts.baselines(options.get("baseline", 0.0)).values()
        return Rows(parts.values[parts.held[0]], own, parts, notes)
    own["baseline"] = parts.baseline(options.get("baseline", 0.0))
    return Rows(parts.flat, own, parts, notes)


def _with_parts(options: Options, parts: Parts) -> Options:
    """Return the options with the parts among what goes along with the rows."""
    return {**options, "given": replace(Given.of(options.get("given"), len(parts)), parts=parts)}


def _channels_last(inputs: Any) -> tuple[Note, ...]:
    """Return a caution for pictures whose channels seem to stand last."""
    if not isinstance(inputs, Tensor) or inputs.is_nested or inputs.ndim != 4:
        return ()
    _, second, third, last = inputs.shape
    if last not in (1, 3, 4) or second <= 4 or third <= 4:
        return ()
    shape = tuple(inputs.shape)
    return (
        Note("caution", f"inputs of shape {shape} were read with channels second; where they are last say axes='NHWC'"),
    )


def _is_structure(inputs: Any) -> bool:
    if isinstance(inputs, Mapping):
        return True
    if not isinstance(inputs, Sequence) or isinstance(inputs, str | bytes):
        return False
    return not inputs or any(isinstance(each, Tensor) for each in inputs)


def _floats(inputs: Tensor) -> bool:
    # Quantised and meta tensors have messages of their own.
    return inputs.is_floating_point() or inputs.is_complex() or inputs.is_quantized


def _of_tokens(model: Model, parts: Parts, options: Options) -> Rows:
    """Return the outputs of the embedding that reads the first part which one reads, as rows."""
    given = replace(Given.of(options.get("given"), len(parts)), parts=parts)
    with own_tensors(), torch.inference_mode(False):
        snapshot = getattr(model, "snapshot", model)
        name, embedded = _embedding(as_module(snapshot), parts, given)
    channels = embedded.shape[-1]
    note = Note("fact", f"explained at the embedding {name!r}: a token's values are its {channels} channels'")
    held = replace(parts, embedding=name)
    own: Options = {**options, "given": replace(given, parts=held)}
    return Rows(embedded.transpose(1, -1).contiguous(), own, held, (note,))


def _embedding(model: Any, parts: Parts, given: Given) -> tuple[str, Tensor]:
    """Find the embedding that reads the first part that one reads; return its name and its outputs for all examples."""
    first = next(iter(parts.values.values()))
    whole = f"inputs: {first.dtype}; whole numbers are explained at the embedding that reads them"
    if not isinstance(model, nn.Module):
        raise TypeError(f"{whole}, and this model is no module; use inputs.float() for numbers that are quantities")
    seen: list[tuple[str, Tensor, Tensor]] = []
    with frozen_copy(model) as copy:
        modules = modules_of(copy.module, copy.made.hidden)

        def watch(name: str, child: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor):
                seen.append((name, args[0], output.detach().clone()))

        none = (
            f"{whole}, and no torch.nn.Embedding of the model does; use inputs.float() for numbers that are "
            "quantities, whole numbers that are not explained as given=, or one-hot columns where each column of codes "
            "has an embedding of its own"
        )
        embeddings = {name: each for name, each in modules.items() if isinstance(each, nn.Embedding)}
        if not embeddings:
            raise TypeError(none)
        examples = torch.arange(len(parts), device=first.device)
        with hooked(embeddings, watch), torch.no_grad(), carrying(given, examples):
            placed, named = arguments(first)
            copy.module(*placed, **named)
    for part in parts.values.values():
        found = [(name, output) for name, read, output in seen if read.shape == part.shape and torch.equal(read, part)]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            names = ", ".join(repr(name) for name, _ in found)
            raise ValueError(f"{whole}, and several do ({names}); explain at one of them: AtLayer(method, layer)")
    raise TypeError(none)
