"""Models that are not PyTorch modules: functions, ONNX Runtime sessions, scikit-learn pipelines, remote services."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..base.functions import modules_in
from ..base.named import is_finite, require, require_number, require_whole
from ..base.notes import Note
from ..base.types import Model, Outputs
from .black_box_entries import entries_as_tensors, holds_entries
from .estimators import is_estimator, is_label_method, scores_of
from .onnx_model import OnnxFunction, is_onnx
from .row_cache import RowCache, row_keys
from .row_format import LAYOUTS, Layout as Layout, RowFormat, as_numbers


class Differentiable(nn.Module):
    """A function `(rows, ...) -> (rows, outputs)` of torch operations as a module.

    `explain()` makes one of any callable that reaches modules, through its closure, defaults, globals, partials or
    bound methods, and of any that a method needs gradients of: `explain(lambda x: net(x).logits, x, "gradient")`. The
    modules that it reaches are its layers, under the names of the variables that hold them, and are run as copies.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        for name, module in modules_in(function).items():
            self.add_module(name if not hasattr(self, name) else f"{name}_", module)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(*inputs, **named)


def as_module(model: Model) -> Model:
    """Return a callable that reaches modules as a Differentiable; modules, black boxes and other callables as given."""
    if isinstance(model, nn.Module | BlackBox) or not callable(model):
        return model
    made = Differentiable(model)
    return made if next(made.children(), None) is not None else model


def as_model(model: Any) -> Any:
    """Return ONNX models and fitted estimators as black boxes, and everything else as given.

    Raises as `BlackBox.from_onnx` and `BlackBox.from_sklearn` do.
    """
    if callable(model):
        return model
    if is_onnx(model):
        return BlackBox.from_onnx(model)
    return BlackBox.from_sklearn(model) if is_estimator(model) else model


class Answer(NamedTuple):
    """Outputs `(rows, ...)` of a black box, and how many of the rows its cache answered."""

    outputs: Any
    cached: int


@dataclass(frozen=True)
class BlackBox:
    """A function of NumPy rows, called as a model: for methods that need no gradients.

    `function` takes `(rows, *features)` and returns `(rows, outputs)`, or `(rows,)` for a single one: arrays or tensors
    of any library and device, or lists. Whole numbers are refused, since they are labels as a rule. The arrays of a
    mapping, or of a list with a mapping for each row, such as a detector's, become tensors. Other arguments of
    `explain(given=...)` arrive as arrays.

    `layout`: "NCHW" leaves the rows as they are, "NHWC" moves the channels to the end, "flat" and "flat-channels-last"
    make each row a vector. `dtype`: such as "uint8"; None leaves the rows' own. `range`: what rows of 0 and 1 become;
    for "uint8" `(0, 255)`, for "uint16" `(0, 65535)`, else rows keep their values. Integers are rounded to the nearest,
    half to even, so a score changes in steps: a difference of less than 1/255 in a pixel may change nothing. Rows that
    do not fit the dtype are an error.

    `retries` is how often a pass is repeated after one of the errors `retry_on`, with `wait` seconds before the
    first, twice as long before each further attempt; each gets a fresh copy of the rows, and the last error is raised.
    OSError, the default, has as kinds what sockets, urllib and requests raise.

    `cache`: a folder in which answers are kept, by `name` and the row's content, shape and dtype. A row that was
    answered is not sent again, in this run or another, after an error, a used-up quota or a Ctrl-C. Name a new version
    of the function differently. `notes` are added to those of every map. `outputs`: what the function's outputs are,
    see the option of that name.

    The number of rows of a pass is `rows_per_pass` of `explain()`. Ctrl-C in a sampling method keeps the samples so
    far, with a caution; methods that need all their rows raise KeyboardInterrupt.

        BlackBox(ask_service, layout="NHWC", dtype="uint8", retries=3, cache="answers", name="service-v3")

    Raises TypeError or ValueError that names the setting, when it is made.
    """

    function: Callable[[np.ndarray], Any]
    layout: Layout = "NCHW"
    retries: int = 0
    wait: float = 1.0
    retry_on: tuple[type[Exception], ...] = (OSError,)
    dtype: Any = field(default=None, kw_only=True)
    range: tuple[float, float] | None = field(default=None, kw_only=True)
    cache: str | Path | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    notes: tuple[Note, ...] = field(default=(), kw_only=True)
    outputs: Outputs | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"model: BlackBox.function is {type(self.function).__name__}, which is not callable; for an ONNX "
                "model use BlackBox.from_onnx, for an estimator of scikit-learn BlackBox.from_sklearn"
            )
        if is_label_method(self.function):
            kind = type(getattr(self.function, "__self__", None)).__name__
            raise TypeError(
                "model: BlackBox.function is the predict of a classifier, which gives labels and no scores; use "
                f"BlackBox.from_sklearn({kind}(...)), or its predict_proba or decision_function"
            )
        known = isinstance(self.layout, str) and self.layout in LAYOUTS
        require(known, self, "layout", "'NCHW', 'NHWC', 'flat' or 'flat-channels-last'")
        require_whole(self, "retries", 0)
        require_number(self, "wait", lambda seconds: seconds >= 0, "0 or more seconds")
        require(_dtype(self.dtype) is not False, self, "dtype", "None, 'uint8', 'float32' or another type of NumPy's")
        ends = self.range if isinstance(self.range, tuple) else ()
        fits = self.range is None or (len(ends) == 2 and all(map(is_finite, ends)))
        require(fits, self, "range", "None or what rows of 0 and 1 become, such as (0, 255)")
        if self.cache is not None and not self.name:
            raise ValueError(
                f"BlackBox.cache={str(self.cache)!r} needs a name= too, such as 'my-service-v3': answers are kept by "
                "it, and those of another function or version must not be taken for this one's"
            )

    @staticmethod
    def from_onnx(
        model: Any,
        output: str | None = None,
        providers: Sequence[str] | None = None,
        layout: Layout | None = None,
        **settings: Any,
    ) -> BlackBox:
        """Wrap an ONNX model with one input (extra `onnx`): a path, a file's bytes, an `onnx.ModelProto` or a session.

        `output` names the output to read, the first that holds scores by default. Rows are cast to the input's type, as
        `BlackBox.dtype` does: rows of 0 to 1 become 0 to 255 for uint8. `layout` is read off the input's shape: "NHWC"
        where the last axis is 1, 3 or 4 and the second is not. `settings` are further ones of `BlackBox`. A model of a
        fixed number of rows is run as often as needed, the last time padded with copies.

            BlackBox.from_onnx("mobilenet.onnx", "probabilities", layout="NHWC", range=(-1, 1))

        Raises ValueError for several inputs, or an output that is unknown or holds labels; TypeError for other models.
        """
        found = OnnxFunction.of(model, output, providers)
        return BlackBox(found, layout or found.layout, **{"dtype": found.dtype, **settings})  # type: ignore[arg-type]  # a text

    @staticmethod
    def from_sklearn(estimator: Any, layout: Layout = "flat", **settings: Any) -> BlackBox:
        """Wrap a fitted scikit-learn estimator or pipeline: its class probabilities, decision function or predictions.

        The first of these that it has is used. One column of decisions between two classes becomes two, so that target
        0 is the first class; a classifier's labels become indicators, with a caution. Rows are flattened (`layout`),
        channels first; "flat-channels-last" is for pictures that were flattened from `(H, W, channels)`. `settings` are
        further ones of `BlackBox`. Raises TypeError where there are no scores, such as for KMeans, ValueError for votes
        between pairs of classes.
        """
        function, notes = scores_of(estimator)
        outputs = "probabilities" if callable(getattr(estimator, "predict_proba", None)) else None
        return BlackBox(function, layout, **{"notes": notes, "outputs": outputs, **settings})

    def __call__(self, rows: Tensor, *others: Any, **named: Any) -> Any:
        return self.answer(rows, lambda asked: self.ask(asked, *others, **named)).outputs

    def answer(self, rows: Tensor, ask: Callable[[Tensor], Any], occasion: str = "") -> Answer:
        """Return the outputs at `rows` `(rows, *features)`; `ask` is called for those that the cache does not hold.

        `occasion`: a name where rows are asked once more on purpose, to see whether their answers are the same in other
        company; they then have cache entries of their own.
        """
        if self._cache is None:
            return Answer(self._like(rows, ask(rows)), 0)
        keys = row_keys(self._format.array(rows), occasion)
        known = {key: each for key, each in zip(keys, self._cache.find(keys), strict=True) if each is not None}
        missing = {key: place for place, key in reversed([*enumerate(keys)]) if key not in known}
        places = sorted(missing.values())
        if places:
            asked = ask(rows[places])
            if not isinstance(asked, Tensor):
                raise ValueError(
                    "BlackBox.cache: the function returns mappings, and arrays alone are kept; leave it out"
                )
            found = asked.numpy()
            new = [keys[place] for place in places]
            self._cache.keep(new, found)
            known |= zip(new, found, strict=True)
        outputs = [known[key] for key in keys]
        shapes = {each.shape for each in outputs}
        if len(shapes) > 1:
            raise ValueError(
                f"model: the cache holds outputs of shape {' and '.join(map(str, sorted(shapes)))} under the name "
                f"{self.name!r}; give a function that was changed another name"
            )
        return Answer(self._like(rows, torch.from_numpy(np.stack(outputs))), len(keys) - len(places))

    def ask(self, rows: Tensor, *others: Any, **named: Any) -> Any:
        """Return the function's outputs at `rows`, float64 `(rows, ...)` on the CPU, without a look at the cache.

        Where the function returns mappings, such as a detector's, their arrays are tensors like `rows`. `others` and
        `named` are its other arguments, whose tensors arrive as arrays.
        """
        for attempt in range(self.retries):
            try:
                return self._ask(rows, others, named)
            except self.retry_on:
                time.sleep(self.wait * 2**attempt)
        return self._ask(rows, others, named)

    def _ask(self, rows: Tensor, others: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        # The arrays are made anew for each attempt: the function may scale them in place.
        placed, by_name = map(_array, others), {name: _array(each) for name, each in named.items()}
        returned = self.function(self._format.array(rows), *placed, **by_name)
        if holds_entries(returned):
            return entries_as_tensors(returned, rows)
        return torch.from_numpy(as_numbers(returned, len(rows)))

    @staticmethod
    def _like(rows: Tensor, outputs: Any) -> Any:
        return outputs.to(rows.device, rows.dtype) if isinstance(outputs, Tensor) else outputs

    @cached_property
    def _format(self) -> RowFormat:
        dtype = None if self.dtype is None else np.dtype(self.dtype).name
        return RowFormat(LAYOUTS[self.layout], dtype, self.range)

    @cached_property
    def _cache(self) -> RowCache | None:
        return None if self.cache is None else RowCache(Path(self.cache), str(self.name))


def _array(value: Any) -> Any:
    """Return another argument's tensor as an array of its own."""
    return value.detach().cpu().numpy().copy() if isinstance(value, Tensor) else value


def _dtype(dtype: Any) -> np.dtype[Any] | bool | None:
    """Return the dtype of numbers that is meant, None for None, False for anything else."""
    if dtype is None:
        return None
    try:
        found = np.dtype(dtype)
    except TypeError:
        return False
    return found if found.kind in "fiu" else False
