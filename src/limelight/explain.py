"""explain(), the entry to every method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack, overload

from torch import Tensor

from .answer import answer
from .base.attribution import Attribution, Panel
from .base.types import Model
from .methods import METHODS, Method
from .question.question import Options, question_of

MethodLike = Method | type[Method] | str


@overload
def explain(model: Model, inputs: Tensor, method: MethodLike, **options: Unpack[Options]) -> Attribution: ...
@overload
def explain(
    model: Model, inputs: Tensor, method: list[MethodLike] | tuple[MethodLike, ...], **options: Unpack[Options]
) -> Panel: ...
def explain(
    model: Model, inputs: Tensor, method: MethodLike | Sequence[MethodLike], **options: Unpack[Options]
) -> Attribution | Panel:
    """Compute maps of the features of `inputs` that determine the output of `model`.

    Args:
        model: a module, a prepared one (`prepare`), or any callable `(rows, ...) -> (rows, outputs)`; methods that need
            gradients take callables over torch operations. ONNX models (path, bytes, ModelProto, session) and fitted
            scikit-learn estimators are taken as `BlackBox.from_onnx` and `from_sklearn` read them.
        inputs: floating tensor `(batch, *features)`; the examples are independent of each other.
        method: a method, its text such as `"smooth-grad(samples=8)"`, or a sequence of them, which share passes.
        options: `target`, `baseline`, `layer`, `seed`, `draws_of`, `rows_per_pass`,
            `arithmetic`, `progress`; see `Options`.

    Returns an `Attribution`, or for a sequence of methods a `Panel`. With several classes for each example, each map,
    score and stderr has a target axis after the batch axis. The model is unchanged afterwards, also after an
    exception. Raises ValueError or TypeError that names the argument, FloatingPointError for NaN or infinity.
    """
    methods = as_methods(method)
    if options.get("arithmetic") == "two-precision" and not any(each.two_precisions for each in methods):
        able = ", ".join(kind.kebab() for kind in METHODS if kind.two_precisions)
        given = ", ".join(each.kebab() for each in methods)
        raise ValueError(f"arithmetic: 'two-precision' is for methods that sample scores, {able}, and not for {given}")
    with question_of(model, inputs, options) as question:
        panel = answer(question, methods)
    return panel[0] if isinstance(method, str | Method | type) else panel


def as_methods(method: MethodLike | Sequence[MethodLike]) -> list[Method]:
    """Return the methods for one method or a sequence. Raises TypeError or ValueError."""
    if isinstance(method, str | Method | type):
        return [METHODS.coerce(method)]
    if not isinstance(method, Sequence):
        raise TypeError(f"method: {method!r} is not a method, a name or a sequence of these")
    if not method:
        raise ValueError("method: an empty sequence; name at least one method")
    return [METHODS.coerce(each) for each in method]
