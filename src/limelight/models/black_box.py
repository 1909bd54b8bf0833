"""Models that are not PyTorch modules: functions, ONNX Runtime sessions, scikit-learn pipelines, remote services."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..base.functions import modules_in
from ..base.named import require
from ..base.types import Model
from .black_box_entries import entries_as_tensors, holds_entries

Layout = Literal["channels-first", "channels-last", "flat"]


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

    def forward(self, rows: Tensor, *others: Any, **named: Any) -> Any:
        return self.function(rows, *others, **named)


def as_module(model: Model) -> Model:
    """Return a callable that reaches modules as a Differentiable; modules, black boxes and other callables as given."""
    if isinstance(model, nn.Module | BlackBox) or not callable(model):
        return model
    made = Differentiable(model)
    return made if next(made.children(), None) is not None else model


@dataclass(frozen=True)
class BlackBox:
    """A function of NumPy rows, called as a model: for methods that need no gradients.

    `function` takes `(rows, *features)` in the given `layout`: unchanged, with the channels moved to the end, or each
    row flattened. It returns array-like outputs `(rows, outputs)`, or `(rows,)` for a single one. The arrays of a
    mapping, or of a list with a mapping for each row, such as a detector's, become tensors.
    `retries` is how often a pass is repeated after one of the errors `retry_on`, with `wait` seconds before the
    first, twice as long before each further attempt; the last error is raised. The number of rows of a pass is
    `rows_per_pass` of `explain()`; Ctrl-C in a sampling method keeps the samples so far, with a note.
    """

    function: Callable[[np.ndarray], Any]
    layout: Layout = "channels-first"
    retries: int = 0
    wait: float = 1.0
    retry_on: tuple[type[Exception], ...] = (ConnectionError, TimeoutError)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"model: BlackBox.function is {type(self.function).__name__}, which is not callable; for an ONNX "
                "session use BlackBox.from_onnx, for an estimator of scikit-learn BlackBox.from_sklearn"
            )
        require(self.layout in get_args(Layout), self, "layout", "'channels-first', 'channels-last' or 'flat'")
        require(self.retries >= 0, self, "retries", "0 or more")

    @staticmethod
    def from_onnx(model: Any, output: str | None = None, providers: Sequence[str] | None = None) -> BlackBox:
        """Wrap an ONNX model with one input: an `onnxruntime.InferenceSession`, or the path of a file (extra `onnx`).

        `output` names the output to read, the first by default; rows are cast to the type of the model's input. A model
        of a fixed number of rows is run as often as needed, the last time padded with copies.
        Raises ValueError for several inputs or an unknown output.
        """
        session = _session(model, providers) if isinstance(model, str | Path) else model
        inputs, outputs = session.get_inputs(), [each.name for each in session.get_outputs()]
        if len(inputs) != 1:
            names = ", ".join(each.name for each in inputs)
            raise ValueError(f"model: the ONNX model has the inputs {names}; use one with a single input")
        if output is not None and output not in outputs:
            raise ValueError(f"model: the ONNX model has no output {output!r}; it has {', '.join(outputs)}")
        kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
        if inputs[0].type not in kinds:
            raise ValueError(f"model: the ONNX model takes {inputs[0].type}; use one that takes {', '.join(kinds)}")
        name, kind, wanted = inputs[0].name, kinds[inputs[0].type], output or outputs[0]
        fixed = next((size for size in inputs[0].shape[:1] if isinstance(size, int)), None)

        def run(rows: np.ndarray) -> np.ndarray:
            found: np.ndarray = session.run([wanted], {name: rows.astype(kind)})[0]
            return found

        return BlackBox(run if fixed is None else lambda rows: _in_batches(run, rows, fixed))

    @staticmethod
    def from_sklearn(estimator: Any, layout: Layout = "flat") -> BlackBox:
        """Wrap a fitted scikit-learn estimator or pipeline: its class probabilities, decision function or predictions.

        The first of these that it has is used; TypeError for none. Rows are flattened (`layout`), channels first.
        """
        for name in ("predict_proba", "decision_function", "predict"):
            method = getattr(estimator, name, None)
            if callable(method):
                return BlackBox(method, layout)
        raise TypeError(
            f"model: {type(estimator).__name__} has no predict_proba, decision_function or predict; pass a fitted "
            "estimator or pipeline"
        )

    def __call__(self, rows: Tensor) -> Any:
        given = rows.detach().cpu()
        array = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
        if self.layout == "channels-last":
            array = np.ascontiguousarray(np.moveaxis(array, 1, -1))
        elif self.layout == "flat":
            array = array.reshape(len(array), -1)
        returned = self._with_retries(array)
        if holds_entries(returned):
            return entries_as_tensors(returned, rows)
        outputs = np.asarray(returned)
        if outputs.dtype.kind not in "fiub":
            raise TypeError(f"model: the black box returned {outputs.dtype}, not numbers of shape (rows, outputs)")
        found = torch.from_numpy(np.array(outputs, dtype=np.float64))  # a copy: the function may reuse its memory
        return (found[:, None] if found.ndim == 1 else found).to(rows.device, rows.dtype)

    def _with_retries(self, array: np.ndarray) -> Any:
        for attempt in range(self.retries):
            try:
                return self.function(array)
            except self.retry_on:
                time.sleep(self.wait * 2**attempt)
        return self.function(array)


def _in_batches(run: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, size: int) -> np.ndarray:
    """Return the outputs of `run`, which takes exactly `size` rows, for any number of rows."""
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size, axis=0)])
    return np.concatenate([run(filled[start : start + size]) for start in range(0, len(filled), size)])[: len(rows)]


def _session(path: str | Path, providers: Sequence[str] | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("model: ONNX models need onnxruntime: pip install 'limelight[onnx]'") from error
    return onnxruntime.InferenceSession(str(path), providers=list(providers or ["CPUExecutionProvider"]))
