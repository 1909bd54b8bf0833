"""ONNX models as functions of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
_CHANNELS = (1, 3, 4)
_SCORES = ("tensor(float)", "tensor(double)", "tensor(float16)", "tensor(uint8)", "tensor(int8)")
_ZIPMAPS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")  # of converted scikit-learn classifiers
SUFFIXES = (".onnx", ".ort")


def is_onnx(model: Any) -> bool:
    """Whether this is an ONNX Runtime session, a ModelProto or its bytes, or the path of such a file."""
    if isinstance(model, str | Path):
        return Path(model).suffix in SUFFIXES
    return isinstance(model, bytes) or _is_session(model) or _is_proto(model)


@dataclass(frozen=True)
class OnnxFunction:
    """One output of an ONNX Runtime session as a function of rows, which are in `layout` and `dtype`.

    `rows`: the number of rows that each run takes; None for any.
    """

    session: Any
    input: str
    output: str
    layout: str
    dtype: str
    rows: int | None

    @staticmethod
    def of(model: Any, output: str | None, providers: Sequence[str] | None) -> OnnxFunction:
        """Open a model with one input. Raises ValueError for several, for other types, or an unknown output."""
        session = model if _is_session(model) else open_session(model, providers)
        inputs, outputs = session.get_inputs(), {each.name: each.type for each in session.get_outputs()}
        if len(inputs) != 1:
            names = ", ".join(each.name for each in inputs)
            raise ValueError(f"model: the ONNX model has the inputs {names}; use one with a single input")
        given = inputs[0]
        if given.type not in _TYPES:
            raise ValueError(f"model: the ONNX model takes {given.type}; use one that takes {', '.join(_TYPES)}")
        fixed = next((size for size in given.shape[:1] if isinstance(size, int)), None)
        read = _output(outputs, output)
        return OnnxFunction(session, given.name, read, layout_of(given.shape), _TYPES[given.type], fixed)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        if self.rows is None:
            return self._run(rows)
        size = self.rows
        filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size, axis=0)])
        found = [self._run(filled[start : start + size]) for start in range(0, len(filled), size)]
        return np.concatenate(found)[: len(rows)]

    def _run(self, rows: np.ndarray) -> np.ndarray:
        found = self.session.run([self.output], {self.input: rows})[0]
        if isinstance(found, list):  # a zipmap: a mapping from classes to scores for each row
            return np.array([list(each.values()) for each in found], dtype=np.float64)
        array = np.asarray(found)
        return array.astype(np.float32) if array.dtype in (np.uint8, np.int8) else array  # of a quantised model


def layout_of(shape: Sequence[Any]) -> str:
    """Return the layout of an input of this shape, in which axes of any size are text or None.

    Channels are last where the last axis is 1, 3 or 4 and the second is not; rows of a single axis are flat.
    """
    if len(shape) == 2:
        return "flat"
    return "NHWC" if len(shape) > 3 and shape[-1] in _CHANNELS and shape[1] not in _CHANNELS else "NCHW"


def _output(outputs: dict[str, str], wanted: str | None) -> str:
    """Return the output to read: the one that is wanted, or the first that holds scores."""
    if wanted is not None and wanted not in outputs:
        raise ValueError(f"model: the ONNX model has no output {wanted!r}; it has {', '.join(outputs)}")
    scores = [name for name, kind in outputs.items() if kind in (*_SCORES, *_ZIPMAPS)]
    found = wanted if wanted is not None else next(iter(scores), next(iter(outputs)))
    if found not in scores:
        others = f"use output={' or '.join(map(repr, scores))}" if scores else "export its scores too"
        raise ValueError(
            f"model: the output {found!r} of the ONNX model holds {outputs[found]}, labels and no scores; {others}"
        )
    return found


def _is_session(model: Any) -> bool:
    return all(hasattr(model, name) for name in ("run", "get_inputs", "get_outputs"))


def _is_proto(model: Any) -> bool:
    return hasattr(model, "SerializeToString") and hasattr(model, "graph")


def open_session(model: Any, providers: Sequence[str] | None = None) -> Any:
    """Open a path, bytes or a ModelProto with ONNX Runtime. Raises ImportError without it, TypeError for others."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("model: ONNX models need onnxruntime: pip install 'limelight[onnx]'") from error
    if not isinstance(model, str | Path | bytes) and not _is_proto(model):
        raise TypeError(
            f"model: {type(model).__name__} is no ONNX model; use a path, the bytes of a file, an onnx.ModelProto or "
            "an onnxruntime.InferenceSession"
        )
    given = model if isinstance(model, bytes) else model.SerializeToString() if _is_proto(model) else str(model)
    return onnxruntime.InferenceSession(given, providers=list(providers or ["CPUExecutionProvider"]))
