"""Targets of detectors: an object in a box, and the best score of a class anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor

from ..base.named import require
from ..base.notes import Note
from .detections import FORMATS, Detections, Format, Size, format_of, read_detections
from .given import ByValue, as_tensor
from .targets import Target, class_index

Labels = int | tuple[int, ...] | None

_SMALLEST = 8  # pixels of a picture's side, from which on boxes that end at 1 are taken for shares of it


class _DetectorTarget(ByValue, Target):
    """Base of the targets of detectors, with the fields `label` and `format`."""

    label: Labels
    format: Format | None

    def _check(self) -> None:
        label: Any = self.label
        if isinstance(label, Tensor | np.ndarray):
            label = label.tolist()
        if isinstance(label, Sequence) and not isinstance(label, str):
            object.__setattr__(self, "label", tuple(map(class_index, label)))
        elif label is not None:
            object.__setattr__(self, "label", class_index(label))
        require(self.format is None or self.format in get_args(Format), self, "format", f"{', '.join(FORMATS)} or None")

    def notes(self, outputs: Any, rows: int) -> tuple[str, ...]:
        kind = self.format or format_of(outputs)
        said = f"the detector's outputs are read as {kind!r}: {FORMATS[kind]}"
        return (said if self.format else f"{said}; format= says otherwise",)

    def _label_of(self, example: int) -> int | None:
        return self.label[example] if isinstance(self.label, tuple) else self.label


@dataclass(frozen=True, eq=False)
class Detection(_DetectorTarget):
    r"""The detector's best score for a class anywhere in the picture, $f = \max_j s_j\,[c_j = c]$.

    `label`: a class, one for each example, or None for any. Reads the formats of `Box`; without detections f is 0.

    Example: `explain(detector, x, RISE(), target=Detection(17))`, or `"detection(17)"` as text.
    """

    label: Labels = None
    format: Format | None = None

    def __post_init__(self) -> None:
        self._check()

    @property
    def per_example(self) -> int | None:
        return len(self.label) if isinstance(self.label, tuple) else None

    def select(self, index: Sequence[int]) -> Self:
        return replace(self, label=tuple(self.label[i] for i in index)) if isinstance(self.label, tuple) else self

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        found = read_detections(outputs, len(examples), self.format, (1, 1))  # where the boxes are does not matter
        labels = map(self._label_of, examples.tolist())
        return torch.stack([each.best(each.of_class(label)) for each, label in zip(found, labels, strict=True)])


@dataclass(frozen=True, eq=False, init=False)
class Box(_DetectorTarget):
    r"""The detector's best score for an object in a box, $f = \max_j \mathrm{IoU}(b_j, b)\, s_j\, [c_j = c]$.

    `box`: x0, y0, x1, y1 in pixels of the input, as four numbers, `(4,)` or `(batch, 4)`. `label`: a class, one for
    each example, or None for the best class of each $j$. Without detections f is 0, and so is its gradient.

    With `vector`, class scores $v$ `(classes,)` or `(batch, classes)` of the object as the detector gives them, it is
    the similarity as published, $\max_j \mathrm{IoU}(b_j, b)\, \cos(p_j, v)\, o_j$: $p_j$ are the class scores of
    detection j and $o_j$ its objectness. Where the detector gives no objectness the best class score stands for it,
    so that detections of nothing do not count (the paper leaves it out, after a threshold).

    The detector returns tensors or arrays in one of the formats `detections.FORMATS`, which a note names. `format`
    says which; None is decided by entries, and for raw tensors by shape and values, where they leave no doubt:
    "torchvision", a mapping with `boxes (N, 4)`, `scores` `(N,)` or `(N, classes)` and `labels (N,)` for each row, or
    one with a leading rows axis; "detr", `logits` and `pred_boxes` ("detr-sigmoid" where each class has a sigmoid);
    "yolo" `(rows, 4 + classes, N)`; "yolo-objectness" `(rows, N, 5 + classes)`; "corners" `(rows, N, 6)`.
    `size` is the picture's (width, height) in pixels, by default that of the inputs.

    Raises ValueError for corners in the wrong order, a box outside the picture, a label out of range, and outputs whose
    format is in doubt. A box that reaches over the border is a caution.

    Example: `explain(detector, x, RISE(), target=Box(10, 20, 110, 90, label=17))`, or as text
    `"box(10, 20, 110, 90, label=17)"`. [petsiuk2021]
    """

    box: Tensor
    label: Labels = None
    vector: Tensor | None = None
    format: Format | None = None
    size: Size | None = None

    def __init__(
        self,
        *corners: Any,
        box: Any = None,
        label: Any = None,
        vector: Any = None,
        format: Format | None = None,
        size: Size | None = None,
    ) -> None:
        match corners:
            case () if box is not None:
                given = box
            case (given,) if box is None:
                pass
            case (given, label) if box is None and label is None:
                pass
            case (x0, y0, x1, y1) if box is None:
                given = [x0, y0, x1, y1]
            case _:
                raise TypeError(
                    f"target: Box takes x0, y0, x1, y1 or one tensor (4,) or (batch, 4), not {len(corners)} values; "
                    "name the others: Box(10, 20, 110, 90, label=3)"
                )
        named = {"box": as_tensor(given).float(), "label": label, "format": format}
        named |= {"vector": None if vector is None else as_tensor(vector).float()}
        named |= {"size": None if size is None else tuple(size)}
        for name, value in named.items():
            object.__setattr__(self, name, value)
        self._check()
        self._check_box()

    @classmethod
    def usage(cls) -> str:
        return "box(x0, y0, x1, y1, label=None, vector=None, format=None, size=None)"

    def _check_box(self) -> None:
        if self.box.shape[-1:] != (4,) or self.box.ndim > 2:
            raise ValueError(f"target: Box.box has shape {tuple(self.box.shape)}; use (4,) or (batch, 4)")
        corners = self.box.reshape(-1, 4)
        ordered = (corners[:, :2] < corners[:, 2:]).all(1) & corners.isfinite().all(1)  # NaN fails too
        if not bool(ordered.all()):
            wrong = corners[~ordered][0].tolist()
            raise ValueError(
                f"target: Box {wrong} is empty: x0, y0, x1, y1 need x0 < x1 and y0 < y1; a box given as x, y, width, "
                "height is Box(x, y, x + width, y + height)"
            )
        if self.vector is not None:
            if self.label is not None:
                raise ValueError("target: Box has a label and a vector; give the class by one of them")
            if self.vector.ndim not in (1, 2):
                raise ValueError(
                    f"target: Box.vector has shape {tuple(self.vector.shape)}; use (classes,) or (batch, classes)"
                )
        if len({*self._lengths()}) > 1:
            several = " and ".join(map(str, self._lengths()))
            raise ValueError(f"target: Box has fields for {several} examples; give a value for each example, or one")

    def _lengths(self) -> list[int]:
        """Return the number of examples of each field that has a value for each example."""
        found = [len(self.box)] if self.box.ndim == 2 else []
        found += [len(self.vector)] if self.vector is not None and self.vector.ndim == 2 else []
        return found + ([len(self.label)] if isinstance(self.label, tuple) else [])

    @property
    def per_example(self) -> int | None:
        return next(iter(self._lengths()), None)

    def select(self, index: Sequence[int]) -> Self:
        own = list(index)
        return replace(
            self,
            box=self.box[own] if self.box.ndim == 2 else self.box,
            vector=self.vector[own] if self.vector is not None and self.vector.ndim == 2 else self.vector,
            label=tuple(self.label[i] for i in own) if isinstance(self.label, tuple) else self.label,
        )

    def fitted(self, features: Sequence[int], model: Any = None) -> Self:
        if self.size is not None or len(features) != 3:
            return self
        width, height = features[-1], features[-2]
        for x0, y0, x1, y1 in self.box.reshape(-1, 4).tolist():
            if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
                raise ValueError(
                    f"target: Box {[x0, y0, x1, y1]} lies outside the picture of {width} x {height}; "
                    "give x0, y0, x1, y1 in pixels of the input"
                )
        return replace(self, size=(width, height))

    def notes(self, outputs: Any, rows: int) -> tuple[str, ...]:
        said: list[str] = []
        if self.size is not None:
            ends = self.box.new_tensor(self.size)
            if bool((self.box[..., :2] < 0).any()) or bool((self.box[..., 2:] > ends).any()):
                said.append(
                    Note("caution", f"the box reaches over the border of the picture of {ends[0]:g} x {ends[1]:g}")
                )
            if min(self.size) >= _SMALLEST and self._are_shares(outputs, rows):
                said.append(
                    Note("caution", "no box of the detector reaches beyond 1 pixel: are they shares of the picture?")
                )
        return (*super().notes(outputs, rows), *said)

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        found = read_detections(outputs, len(examples), self.format, self.size)
        return torch.stack([self._score(each, i) for each, i in zip(found, examples.tolist(), strict=True)])

    def _score(self, found: Detections, example: int) -> Tensor:
        box = self.box[example] if self.box.ndim == 2 else self.box
        overlap = _intersection_over_union(found.boxes, box.to(found.boxes))
        if self.vector is None:
            return found.best(overlap * found.of_class(self._label_of(example)))
        return found.best(overlap * found.alike(self.vector[example] if self.vector.ndim == 2 else self.vector))

    def _are_shares(self, outputs: Any, rows: int) -> bool:
        """Whether boxes that should be in pixels all lie within the first one."""
        if (self.format or format_of(outputs)).startswith("detr"):
            return False
        boxes = torch.cat([each.boxes.detach() for each in read_detections(outputs, rows, self.format, self.size)])
        return len(boxes) > 0 and bool((boxes.abs() <= 1).all())


def _intersection_over_union(boxes: Tensor, box: Tensor) -> Tensor:
    low = torch.maximum(boxes[:, :2], box[:2])
    high = torch.minimum(boxes[:, 2:], box[2:])
    overlap = (high - low).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return overlap / (areas - overlap).clamp(min=torch.finfo(boxes.dtype).tiny)
