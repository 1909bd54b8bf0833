"""explain(), the entry to every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack, overload

from torch import Tensor

from .answer import answer
from .base.attribution import Attribution, Panel
from .base.labels import names_of
from .base.several import SeveralAttributions
from .base.types import Model
from .by_length import by_length, rows_of_texts, text_model
from .inputs import Rows, rows_of
from .methods import METHODS, Method
from .models.text import TextModel
from .question.parts import Parts
from .question.question import Options, question_of

MethodLike = Method | type[Method] | str
Structure = tuple[Tensor, ...] | Mapping[str, Tensor]


@overload
def explain(model: Model, inputs: Tensor, method: MethodLike, **options: Unpack[Options]) -> Attribution: ...
@overload
def explain(model: Model, inputs: Structure, method: MethodLike, **options: Unpack[Options]) -> SeveralAttributions: ...
@overload
def explain(
    model: Model, inputs: Tensor, method: list[MethodLike] | tuple[MethodLike, ...], **options: Unpack[Options]
) -> Panel: ...
def explain(model: Model, inputs: Any, method: MethodLike | Sequence[MethodLike], **options: Unpack[Options]) -> Any:
    """Compute maps of the features of `inputs` that determine the output of `model`.

    Args:
        model: a module, a prepared one (`prepare`), or any callable `(rows, ...) -> (rows, outputs)`; methods that need
            gradients take callables over torch operations. ONNX models (path, bytes, ModelProto, session) and fitted
            scikit-learn estimators are taken as `BlackBox.from_onnx` and `from_sklearn` read them.
        inputs: floating tensor `(batch, *features)`; the examples are independent of each other. A tuple, or a mapping
            by the names of the model's arguments, explains several tensors at once: the floating ones get a map each,
            whole numbers and booleans go along with their example. Token ids alone are explained at the embedding that
            reads them. A model with preprocessing also takes pictures: paths, PIL pictures, arrays.
        method: a method, its text such as `"smooth-grad(samples=8)"`, or a sequence of them, which share passes.
        options: `target`, `baseline`, `layer`, `seed`, `draws_of`, `rows_per_pass`,
            `arithmetic`, `progress`, `outputs`, `given`, `axes`, `names`; see `Options`.

    Returns an `Attribution`, for inputs of several parts `SeveralAttributions`, for a sequence of methods a `Panel`, or
    for both a dictionary by method. With several classes for each example, each map,
    score and stderr has a target axis after the batch axis. The model is unchanged afterwards, also after an
    exception. Raises ValueError or TypeError that names the argument, FloatingPointError for NaN or infinity.
    """
    methods = as_methods(method)
    if options.get("arithmetic") == "two-precision" and not any(each.two_precisions for each in methods):
        able = ", ".join(kind.kebab() for kind in METHODS if kind.two_precisions)
        given = ", ".join(each.kebab() for each in methods)
        raise ValueError(f"arithmetic: 'two-precision' is for methods that sample scores, {able}, and not for {given}")
    reader = text_model(model, inputs)
    if reader is not None:
        return _of_texts(model, reader, [inputs] if isinstance(inputs, str) else list(inputs), method, options)
    rows = rows_of(model, inputs, options)
    alone = isinstance(method, str | Method | type)
    if rows.parts is not None and not isinstance(inputs, Tensor) and rows.parts.embedding is None:
        found = [_of_parts(model, rows, each, options.get("baseline", 0.0)) for each in methods]
        return found[0] if alone else dict(zip(names_of([each.of_any for each in found]), found, strict=True))
    with question_of(model, rows.inputs, rows.options) as question:
        panel = answer(question, methods)
    if rows.notes:
        noted = [replace(each, notes=(*each.notes, *rows.notes)) for each in panel.values()]
        panel = Panel(noted, panel.forward_rows, panel.backward_rows)
    return panel[0] if alone else panel


def _of_texts(
    model: Model, reader: TextModel, texts: list[str], method: MethodLike | Sequence[MethodLike], options: Options
) -> Attribution | Panel:
    """Explain texts, those of each length by themselves."""
    methods = as_methods(method)

    def explained(some: list[str], own: Options) -> Panel:
        rows, read = rows_of_texts(reader, some, own)
        with question_of(model, rows, read) as question:
            return answer(question, methods)

    panel = by_length(reader, texts, options, explained)
    return panel[0] if isinstance(method, str | Method | type) else panel


def _of_parts(model: Model, rows: Rows, method: Method, baseline: Any) -> SeveralAttributions:
    """Explain inputs of several parts: side by side, or each by itself where the method reads neighbourhoods."""
    parts = rows.parts
    assert parts is not None
    each: dict[str, Attribution] = {}
    if len(parts.held) > 1 and not method.by_part:
        (whole,) = _answered(model, rows, parts.method(method))
        if whole.layer is not None:  # a layer's units belong to no part
            return SeveralAttributions({}, parts.named, whole)
        return SeveralAttributions(_split(whole, parts), parts.named, whole)
    baselines = parts.baselines(baseline)
    for name in parts.held:
        (found,) = _answered(model, rows.of_part(name, baselines[name]), parts.method(method, name))
        each[name] = _as_given(found, parts, name)
    return SeveralAttributions(each, parts.named)


def _answered(model: Model, rows: Rows, method: Method) -> list[Attribution]:
    with question_of(model, rows.inputs, rows.options) as question:
        found = answer(question, [method])
    return [replace(each, notes=(*each.notes, *rows.notes)) for each in found.values()]


def _split(whole: Attribution, parts: Parts) -> dict[str, Attribution]:
    """Return the part of a map of parts side by side that belongs to each; its sum promises nothing by itself."""
    maps = {name: getattr(whole, name) for name in ("values", "stderr", "spread")}
    taken: dict[str, dict[str, Any]] = {name: parts.split(given) for name, given in maps.items() if given is not None}
    each = {
        name: replace(
            whole,
            raw=None,
            inputs=parts.values[name],
            baseline=parts.part_of(whole.baseline, name),
            complete=False,
            **{kind: of[name] for kind, of in taken.items()},
        )
        for name in parts.held
    }
    return {name: _as_given(found, parts, name) for name, found in each.items()}


def _as_given(found: Attribution, parts: Parts, name: str) -> Attribution:
    """Return the attribution of a part with the axes that the part was given with."""
    tensors = {kind: getattr(found, kind) for kind in ("values", "inputs", "stderr", "spread")}
    given: dict[str, Any] = {kind: parts.as_given(name, each) for kind, each in tensors.items() if each is not None}
    return replace(found, **given)


def as_methods(method: MethodLike | Sequence[MethodLike]) -> list[Method]:
    """Return the methods for one method or a sequence. Raises TypeError or ValueError."""
    if isinstance(method, str | Method | type):
        return [METHODS.coerce(method)]
    if not isinstance(method, Sequence):
        raise TypeError(f"method: {method!r} is not a method, a name or a sequence of these")
    if not method:
        raise ValueError("method: an empty sequence; name at least one method")
    return [METHODS.coerce(each) for each in method]
