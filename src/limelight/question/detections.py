"""What a detector returns, read as boxes in pixels with class scores: six formats, by entries, shape and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .given import as_tensor
from .targets import entries

Format = Literal["torchvision", "detr", "detr-sigmoid", "yolo", "yolo-objectness", "corners"]
Size = tuple[int, int]

FORMATS: Mapping[Format, str] = {
    "torchvision": "boxes (x0, y0, x1, y1 in pixels), scores and labels",
    "detr": "logits (softmax, the last column is 'no object') and pred_boxes (cx, cy, w, h as shares of the picture)",
    "detr-sigmoid": "logits (a sigmoid for each class) and pred_boxes (cx, cy, w, h as shares of the picture)",
    "yolo": "a tensor (rows, 4 + classes, N) of cx, cy, w, h in pixels and class scores",
    "yolo-objectness": "a tensor (rows, N, 5 + classes) of cx, cy, w, h in pixels, objectness and class scores",
    "corners": "a tensor (rows, N, 6) of x0, y0, x1, y1 in pixels, score and class",
}
"""The formats that are read, each with its entries or columns."""

_LONGER = 2  # times as many boxes as columns: then a raw tensor's shape says which axis is which


@dataclass(frozen=True)
class Detections:
    """The boxes that a detector found in one row.

    `boxes` `(N, 4)` are x0, y0, x1, y1 in pixels. `scores` are `(N, classes)`, or `(N,)` of the classes `labels`
    `(N,)`. `objectness` `(N,)`, where the detector gives it, multiplies the class scores.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor | None = None
    objectness: Tensor | None = None

    def of_class(self, label: int | None) -> Tensor:
        """Return each box's score `(N,)` for a class; None is the best class of each box.

        Raises ValueError for a label out of range, and where the detector does not tell the boxes' classes.
        """
        if self.scores.ndim == 2:
            self._require(label)
            found = self.scores.amax(1) if label is None else self.scores[:, label]
        elif label is None:
            found = self.scores
        elif self.labels is None:
            raise ValueError(
                f"target: label={label}, but the detector returns no entry 'labels' (N,) beside boxes and scores; "
                "return it, or scores (N, classes), or use label=None for any class"
            )
        else:
            found = self.scores * (self.labels == label)
        return found if self.objectness is None else found * self.objectness

    def alike(self, vector: Tensor) -> Tensor:
        """Return the cosine of each box's class vector with `vector` `(classes,)`, times its objectness: `(N,)`.

        Where the detector gives no objectness the best class score of the box stands for it. Raises ValueError where
        it gives no class vectors, or vectors of another length.
        """
        if self.scores.ndim != 2 or self.scores.shape[1] != len(vector):
            given = f"{self.scores.shape[1]} class scores" if self.scores.ndim == 2 else "one score"
            raise ValueError(
                f"target: Box.vector has {len(vector)} classes, the detector gives {given} for each box; "
                "use a vector of as many, or label=... in its place"
            )
        cosine = torch.nn.functional.cosine_similarity(self.scores, vector.to(self.scores)[None], dim=1)
        return cosine * (self.of_class(None) if self.objectness is None else self.objectness)

    def best(self, values: Tensor) -> Tensor:
        """Return the largest of `values` `(N,)`; without boxes 0, which keeps the graph, so that its gradient is 0."""
        if len(values):
            return values.amax()
        return (values.sum() + self.boxes.sum() + self.scores.sum()) * 0

    def _require(self, label: int | None) -> None:
        classes = self.scores.shape[1]
        if label is not None and label >= classes:
            raise ValueError(
                f"target: label {label} is out of range for a detector of {classes} classes; use 0 to {classes - 1}"
            )


def format_of(outputs: Any) -> Format:
    """Return the format of a detector's outputs. Raises TypeError for others, ValueError where several may be meant."""
    tensor = _raw(outputs)
    if tensor is not None:
        return _format_of_tensor(tensor)
    if _is_rows(outputs):
        return "torchvision"
    found = entries(outputs)
    if "pred_boxes" in found and ("logits" in found or "pred_logits" in found):
        return "detr"
    if "boxes" in found and "scores" in found:
        return "torchvision"
    keys = f" with entries {sorted(map(str, found))}" if found else ""
    raise TypeError(
        f"target: {type(outputs).__name__}{keys} is not what a detector returns; return for each row a mapping with "
        "boxes (N, 4), scores and labels (N,), or " + _choices("torchvision")
    )


def read_detections(outputs: Any, rows: int, format: Format | None, size: Size | None) -> list[Detections]:
    """Read a detector's outputs for each of `rows` rows. `size` (width, height) is that of the picture in pixels.

    `format` None is `format_of(outputs)`. Arrays become tensors. Raises TypeError or ValueError that says what is
    missing, and for raw tensors of a format that was not given, where scores are outside [0, 1].
    """
    kind = format or format_of(outputs)
    tensor = _raw(outputs)
    if kind in ("yolo", "yolo-objectness", "corners"):
        if tensor is None or tensor.ndim != 3:
            got = type(outputs).__name__ if tensor is None else f"a tensor {tuple(tensor.shape)}"
            raise TypeError(f"target: format={kind!r} is {FORMATS[kind]}; the model returns {got}")
        found = [_of_tensor(row, kind) for row in tensor]
        if format is None:
            _require_scores(found, kind)
    elif _is_rows(outputs):
        found = [_of_mapping(each) for each in outputs]
    else:
        named = {name: as_tensor(value) if _is_array(value) else value for name, value in entries(outputs).items()}
        found = [_of_entries(named, i, kind, size) for i in range(rows)]
    if len(found) != rows:
        raise ValueError(f"target: the detector returns {len(found)} results for {rows} rows; return one for each row")
    return found


def _raw(outputs: Any) -> Tensor | None:
    """Return the tensor of a detector that returns one, alone or first in a tuple; else None."""
    first = outputs[0] if isinstance(outputs, tuple | list) and outputs else outputs
    return as_tensor(first) if _is_array(first) and not hasattr(outputs, "_fields") else None


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _is_rows(outputs: Any) -> bool:
    return isinstance(outputs, Sequence) and bool(outputs) and all("boxes" in entries(each) for each in outputs)


def _format_of_tensor(tensor: Tensor) -> Format:
    shape = tuple(tensor.shape)
    if tensor.ndim != 3:
        raise TypeError(
            f"target: a tensor {shape} is not what a detector returns; return for each row a mapping with "
            f"boxes (N, 4), scores and labels (N,), or {_choices('torchvision')}"
        )
    _, first, second = shape
    if first >= 5 and second >= _LONGER * first:
        return "yolo"
    if second >= 7 and first >= _LONGER * second:  # 6 columns may also be those of "corners"
        return "yolo-objectness"
    raise ValueError(
        f"target: a tensor {shape} may be boxes in several formats; give format=, one of "
        + _choices("torchvision", "detr", "detr-sigmoid")
    )


def _choices(*without: str) -> str:
    return "; ".join(f"{name!r}: {what}" for name, what in FORMATS.items() if name not in without)


def _of_mapping(row: Any) -> Detections:
    return _of_entries({name: as_tensor(value) for name, value in entries(row).items() if _is_array(value)}, None)


def _of_entries(
    named: Mapping[Any, Any], row: int | None, kind: Format = "torchvision", size: Size | None = None
) -> Detections:
    """Read one row of entries with a rows axis, or where `row` is None the entries of a row."""
    detr = kind in ("detr", "detr-sigmoid")
    scores_name = next((each for each in ("logits", "pred_logits") if each in named), "logits") if detr else "scores"
    boxes_name = "pred_boxes" if detr else "boxes"
    missing = [name for name in (boxes_name, scores_name) if name not in named]
    if missing:
        raise ValueError(
            f"target: the detector returns {', '.join(sorted(map(str, named))) or 'nothing'} and no "
            f"{' or '.join(missing)}; {kind!r} is {FORMATS[kind]}"
        )
    boxes, scores = (_floating(named[name] if row is None else named[name][row]) for name in (boxes_name, scores_name))
    labels = named.get("labels")
    if labels is not None:
        labels = as_tensor(labels if row is None else labels[row])
    boxes = boxes.reshape(-1, 4) if boxes.numel() == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(scores) != len(boxes):
        raise ValueError(
            f"target: the detector's {boxes_name} have shape {tuple(boxes.shape)} and its {scores_name} "
            f"{tuple(scores.shape)} for a row; use (N, 4) with (N,) or (N, classes)"
        )
    if not detr:
        return Detections(boxes, scores, labels)
    if size is None:
        raise ValueError("target: this detector's boxes are shares of the picture; give size=(width, height) in pixels")
    boxes = _corners(boxes) * boxes.new_tensor([*size, *size])
    return Detections(boxes, scores.softmax(1)[:, :-1] if kind == "detr" else scores.sigmoid())


def _of_tensor(row: Tensor, kind: Format) -> Detections:
    row = _floating(row.T if kind == "yolo" else row)
    least = {"yolo": 5, "yolo-objectness": 6, "corners": 6}[kind]
    if row.shape[1] < least or (kind == "corners" and row.shape[1] != least):
        raise ValueError(f"target: format={kind!r} is {FORMATS[kind]}; a row of the model's outputs has {row.shape[1]}")
    if kind == "yolo":
        return Detections(_corners(row[:, :4]), row[:, 4:])
    if kind == "corners":
        return Detections(row[:, :4], row[:, 4], row[:, 5])
    return Detections(_corners(row[:, :4]), row[:, 5:], objectness=row[:, 4])


def _floating(values: Any) -> Tensor:
    found = as_tensor(values)
    return found if found.is_floating_point() else found.float()


def _corners(boxes: Tensor) -> Tensor:
    """Return x0, y0, x1, y1 for centres and sides."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([centre - half, centre + half], 1)


def _require_scores(found: Sequence[Detections], kind: Format) -> None:
    for each in found:
        values = torch.cat([part.detach().flatten() for part in (each.scores, each.objectness) if part is not None])
        if values.numel() and not (float(values.min()) >= 0 and float(values.max()) <= 1):
            raise ValueError(
                f"target: the tensor has the shape of {kind!r} ({FORMATS[kind]}), but its scores run from "
                f"{float(values.min()):.4g} to {float(values.max()):.4g}; apply a sigmoid, cut off further columns, "
                f"or give format= if it is right"
            )
