"""explain(): the one entry. Resolves the question, shares the passes, records where the answer came from."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor, nn

from .answer import Question
from .base.attribution import Attribution, Panel
from .engine.layers import LayerLike, layer_name, layer_names
from .engine.runner import Model, Progress, Runner
from .methods import METHODS, Method
from .methods.parse import parse_method
from .question.baselines import Baseline, as_baseline
from .question.output_targets import Neuron
from .question.per_example import for_examples, require_every_example
from .question.random_streams import Streams
from .question.targets import ClassTarget, Logit, Target, as_target

MethodLike = Method | type[Method] | str
_OTHER_DRAWS = "the random numbers are those of other examples (draws_of=)"


@overload
def explain(
    model: Model,
    inputs: Tensor,
    method: MethodLike,
    *,
    target: Any = None,
    baseline: float | Tensor | Baseline = 0.0,
    layer: LayerLike | None = None,
    seed: int = 0,
    draws_of: Tensor | None = None,
    rows_per_pass: int | None = None,
    progress: bool | Progress = False,
) -> Attribution: ...
@overload
def explain(
    model: Model,
    inputs: Tensor,
    method: list[MethodLike] | tuple[MethodLike, ...],
    *,
    target: Any = None,
    baseline: float | Tensor | Baseline = 0.0,
    layer: LayerLike | None = None,
    seed: int = 0,
    draws_of: Tensor | None = None,
    rows_per_pass: int | None = None,
    progress: bool | Progress = False,
) -> Panel: ...
def explain(
    model: Model,
    inputs: Tensor,
    method: MethodLike | Sequence[MethodLike],
    *,
    target: Any = None,
    baseline: float | Tensor | Baseline = 0.0,
    layer: LayerLike | None = None,
    seed: int = 0,
    draws_of: Tensor | None = None,
    rows_per_pass: int | None = None,
    progress: bool | Progress = False,
) -> Attribution | Panel:
    """Which features of `inputs` made `model` say what it said.

    Args:
        model: a module, or any callable `(rows, ...) -> (rows, outputs)` for methods that need no gradients.
        inputs: floating tensor `(batch, *features)`; the examples are independent of each other.
        method: a method, its name such as `"integrated-gradients"`, or a sequence of them, which share passes.
        target: int, one int per example, a `Target` or a callable `outputs -> (rows,)`; None is the model's top class.
            Several classes for each example, `[[281, 285], [7, 8]]`, share forward passes and give each map, score
            and stderr a target axis after the batch axis (`Attribution` has the shapes).
        baseline: what "absent" means: a number, a tensor that broadcasts to the inputs, or a `Baseline`.
        layer: module or dotted name (or number), for methods that read one, or several, whose maps are averaged; None
            takes the last layer with a spatial map that the score depends on.
        seed: of every random number; the same seed and example give the same map in any batch.
        draws_of: the examples, as many, whose random numbers to take in place of the inputs' own. A changed picture
            asked with the draws of the original shows what the change did, and none of the sampling noise.
        rows_per_pass: rows the model is called on at once; None chooses by memory. The map does not depend on it.
        progress: True writes to standard error; a callable is told the rows of each finished pass.

    Returns an `Attribution`, or for a sequence of methods a `Panel`. The model is left exactly as it was, also after
    an exception. Raises ValueError or TypeError that names the argument, FloatingPointError for NaN or infinity.
    """
    single = isinstance(method, str | Method | type)
    if not single and not isinstance(method, Sequence):
        raise TypeError(f"method: {method!r} is not a method, a name or a sequence of these")
    asked_for: Sequence[MethodLike] = [method] if isinstance(method, str | Method | type) else method
    methods = [as_method(each) for each in asked_for]
    if not methods:
        raise ValueError("method: an empty sequence; name at least one method")
    if rows_per_pass is not None and (not isinstance(rows_per_pass, int) or rows_per_pass < 1):
        raise ValueError(f"rows_per_pass: {rows_per_pass!r}; use a whole number of 1 or more, or None")
    with torch.inference_mode(False):  # tensors made in the caller's inference mode could not be differentiated
        x = _checked(inputs)
        asked = as_target(target, len(x))
        _require_module(model, methods, asked, layer)
        drawn = x if draws_of is None else _as_many(draws_of, x)
        rng = Streams.of(drawn, seed)
        meaning = as_baseline(baseline)
        for each in (*methods, meaning):
            require_every_example(each, x)
        references = meaning.references(x, rng.fork("baseline"))
        if not bool(torch.isfinite(references).all()):
            raise FloatingPointError(f"baseline: {meaning!r} gives NaN or infinity")
        classes = asked.classes if isinstance(asked, ClassTarget) else None
        flat, rows, asking = asked, x, methods
        if isinstance(asked, ClassTarget) and classes is not None:
            # As many questions about each example: it is repeated, and the passes run equal rows once.
            flat, rows, references = asked.flat(), x.repeat_interleave(classes, 0), _repeated(references, classes)
            rng = Streams.of(drawn.repeat_interleave(classes, 0), seed)
            asking = [for_examples(each, [i for i in range(len(x)) for _ in range(classes)], x) for each in methods]
        with _reporter(progress) as report, Runner(model, rows, rows_per_pass, report, classes is not None) as runner:
            found = _layers(runner, model, layer, flat)
            question = Question(runner, rows, asking, flat, meaning, references, found, seed)
            attributions = [question.answer(each, rng.fork(each.kebab())) for each in asking]
            if draws_of is not None and not torch.equal(drawn, x):
                attributions = [replace(each, notes=(*each.notes, _OTHER_DRAWS)) for each in attributions]
            if classes is not None:
                attributions = [
                    _with_target_axis(replace(each, method=method), x, asked, classes)
                    for each, method in zip(attributions, methods, strict=True)
                ]
            panel = Panel(attributions, runner.forward_rows, runner.backward_rows)
    return panel[0] if single else panel


def _repeated(references: Tensor, times: int) -> Tensor:
    """`(references, n, *features)` with each example repeated; what all examples share stays shared."""
    if references.stride(1) == 0:
        return references[:, :1].expand(-1, times * references.shape[1], *references.shape[2:])
    return references.repeat_interleave(times, 1)


def _with_target_axis(a: Attribution, inputs: Tensor, target: Target, classes: int) -> Attribution:
    """The answers about a flat batch of examples x classes, with the classes as the second axis."""

    def shaped(values: Tensor) -> Tensor:
        return values.reshape(len(inputs), classes, *values.shape[1:])

    def named(number: re.Match[str]) -> str:
        example, which = divmod(int(number[1]), classes)
        return f"example {example}, target {which}"

    return replace(
        a,
        values=shaped(a.values),
        raw=None if a.raw is None else shaped(a.raw),
        inputs=inputs,
        target=torch.tensor(target.index) if type(target) is Logit else target,
        score=shaped(a.score),
        baseline_score=shaped(a.baseline_score),
        stderr=None if a.stderr is None else shaped(a.stderr),
        spread=None if a.spread is None else shaped(a.spread),
        outputs=None if a.outputs is None else a.outputs[::classes],
        notes=tuple(re.sub(r"example (\d+)", named, note) for note in a.notes),
    )


def as_method(method: MethodLike) -> Method:
    """A method as a user may give it: itself, its class or its name."""
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return parse_method(method)
    if isinstance(method, type) and issubclass(method, Method):
        return method()
    raise TypeError(f"method: {method!r} is not a method; use for example ll.Gradient() or 'gradient'")


def _checked(inputs: Tensor) -> Tensor:
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs: {type(inputs).__name__}, not a torch.Tensor of shape (batch, *features)")
    if not inputs.is_floating_point():
        raise TypeError(f"inputs: {inputs.dtype}; attribution needs floating point, use inputs.float()")
    if inputs.ndim < 2:
        raise ValueError(f"inputs: shape {tuple(inputs.shape)}; the first axis is the batch, use inputs[None]")
    if inputs.numel() == 0:
        raise ValueError(f"inputs: shape {tuple(inputs.shape)} is empty; give at least one example")
    bad = (~torch.isfinite(inputs)).flatten(1).any(1)
    if bool(bad.any()):
        which = ", ".join(map(str, bad.nonzero()[:, 0].tolist()))
        raise FloatingPointError(f"inputs: NaN or infinity in example {which}")
    x = inputs.detach()
    return x.clone() if x.is_inference() else x


def _as_many(draws_of: Tensor, x: Tensor) -> Tensor:
    if not isinstance(draws_of, Tensor) or len(draws_of) != len(x):
        found = f"shape {tuple(draws_of.shape)}" if isinstance(draws_of, Tensor) else type(draws_of).__name__
        raise ValueError(f"draws_of: {found}; use a tensor of {len(x)} examples, one for each input")
    return draws_of.detach()


def _require_module(model: Model, methods: Sequence[Method], target: Target, layer: Any) -> None:
    if not callable(model):
        raise TypeError(
            f"model: {type(model).__name__} is neither a module nor callable; for ONNX sessions and "
            "scikit-learn estimators there are limelight.BlackBox.from_onnx and .from_sklearn"
        )
    if isinstance(model, nn.Module):
        return
    refused = [method.kebab() for method in methods if method.needs.gradients or method.needs.layer]
    if refused:
        free = [kind.kebab() for kind in METHODS if not (kind().needs.gradients or kind().needs.layer)]
        raise TypeError(
            f"model: {type(model).__name__} is a black box, and {', '.join(refused)} needs gradients or layers of "
            f"a torch.nn.Module; methods that need none: {', '.join(free)}. A differentiable function can be wrapped: "
            "limelight.Differentiable(function)"
        )
    if target.layer or layer is not None:
        raise TypeError("layer: a black box has no layers; pass the torch.nn.Module itself")


def _layers(runner: Runner, model: Model, layer: LayerLike | None, target: Target) -> tuple[str, ...]:
    if isinstance(target, Neuron):
        layer_name(runner.module, target.at)
    if layer is None:
        return ()
    assert isinstance(model, nn.Module)
    return layer_names(model, layer)


class _reporter:
    """Turns `progress=` into a callable for the runner: a counter on standard error, the user's own, or none."""

    def __init__(self, progress: bool | Callable[[int], None]) -> None:
        self._progress = progress
        self._rows = 0

    def __enter__(self) -> Progress | None:
        if callable(self._progress):
            return self._progress
        return self._count if self._progress else None

    def __exit__(self, *error: object) -> None:
        if self._progress is True and self._rows:
            sys.stderr.write("\n")

    def _count(self, rows: int) -> None:
        self._rows += rows
        sys.stderr.write(f"\rlimelight: {self._rows} rows")
        sys.stderr.flush()
