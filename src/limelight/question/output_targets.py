"""Targets other than a class: a region, a detector's box, a similarity, a neuron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import require
from .given import as_tensor
from .targets import Target, class_index, output_tensor


class HeldForExamples(Target):
    """Base of targets with a tensor field, shared by all examples or with a batch axis.

    `held`: the field's name, and its number of axes without the batch axis.
    """

    held: ClassVar[tuple[str, int]]

    @property
    def per_example(self) -> int | None:
        given: Tensor = getattr(self, self.held[0])
        return len(given) if given.ndim > self.held[1] else None

    def select(self, index: Sequence[int]) -> Self:
        if self.per_example is None:
            return self
        chosen: Any = {self.held[0]: getattr(self, self.held[0])[list(index)]}
        return replace(self, **chosen)  # type: ignore[type-var]  # every subclass is a dataclass

    def _rows(self, given: Tensor, examples: Tensor, rows: int) -> Tensor:
        """Return `given`, the tensor field, with an entry for each of `rows` rows of the model's outputs."""
        return given[examples] if given.ndim > self.held[1] else given.expand(rows, *given.shape)


@dataclass(frozen=True, eq=False)
class Region(HeldForExamples):
    r"""A segmentation model's class over a region, $f = \sum_{p \in \text{mask}} z_{c,p}$ (or the mean).

    `mask`: booleans or weights `(H, W)` for all examples or `(batch, H, W)`, at the size of the output map.
    """

    mask: Tensor
    label: int
    reduction: Literal["sum", "mean"] = "sum"
    reads_tensor: ClassVar[bool] = True
    held: ClassVar[tuple[str, int]] = ("mask", 2)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", class_index(self.label))
        object.__setattr__(self, "mask", as_tensor(self.mask))
        if self.mask.ndim < 2:
            raise ValueError(f"target: Region.mask has shape {tuple(self.mask.shape)}; use (H, W) or (batch, H, W)")
        empty = (self.mask == 0).flatten(-2).all(-1)
        if bool(empty.any()):
            which = f" for example {empty.nonzero()[0, 0]}" if empty.ndim else ""
            raise ValueError(f"target: Region.mask is empty{which}; mark at least one position of the output map")
        require(self.reduction in ("sum", "mean"), self, "reduction", "'sum' or 'mean'")

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        logits = output_tensor(outputs)
        mask = self._rows(self.mask.to(logits), examples, len(logits))
        if logits.ndim != mask.ndim + 1 or logits.shape[2:] != mask.shape[1:]:
            raise ValueError(
                f"target: Region.mask is {tuple(mask.shape[1:])} but the model's output map is "
                f"{tuple(logits.shape)} (rows, classes, H, W); resize the mask to it"
            )
        if self.label >= logits.shape[1]:
            raise ValueError(f"target: Region.label={self.label} is out of range for {logits.shape[1]} classes")
        total = (logits[:, self.label] * mask).flatten(1).sum(1)
        return total if self.reduction == "sum" else total / mask.flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class Box(HeldForExamples):
    r"""The detector's best score for an object, $f = \max_j \mathrm{IoU}(b_j, b)\, s_j\, [c_j = c]$.

    `box`: `(4,)` as x0, y0, x1, y1 in pixels of the input, or `(batch, 4)`. `label`: a class, or None for any.
    The detector returns for each row a mapping with `boxes (N, 4)`, `scores (N,)` and `labels (N,)`, or one mapping
    for all rows with a leading rows axis. `scores` may also be `(rows, N, classes)`. Without a box f is 0.
    [petsiuk2021]
    """

    box: Tensor
    label: int | None = None
    held: ClassVar[tuple[str, int]] = ("box", 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", as_tensor(self.box).float())
        if self.box.shape[-1] != 4 or self.box.ndim > 2:
            raise ValueError(f"target: Box.box has shape {tuple(self.box.shape)}; use (4,) or (batch, 4)")
        if self.label is not None:
            object.__setattr__(self, "label", class_index(self.label))

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        if isinstance(outputs, Mapping):
            outputs = [{key: value[i] for key, value in outputs.items()} for i in range(len(examples))]
        if not isinstance(outputs, Sequence) or not all(isinstance(o, Mapping) for o in outputs):
            raise TypeError(
                "target: Box needs a detector that returns a mapping with boxes, scores and labels per row, "
                f"not {type(outputs).__name__}"
            )
        boxes = self._rows(self.box, examples.cpu(), len(outputs))
        return torch.stack([self._best(found, box) for found, box in zip(outputs, boxes, strict=True)])

    def _best(self, found: Mapping[str, Tensor], box: Tensor) -> Tensor:
        boxes, scores = found["boxes"], found["scores"]
        if scores.ndim == 2:
            scores = scores.amax(1) if self.label is None else scores[:, self.label]
        elif self.label is not None:
            scores = scores * (found["labels"] == self.label)
        if len(boxes) == 0:
            return boxes.sum() * 0  # keeps the graph: the gradient is 0
        return (_intersection_over_union(boxes, box.to(boxes)) * scores).amax()


def _intersection_over_union(boxes: Tensor, box: Tensor) -> Tensor:
    low = torch.maximum(boxes[:, :2], box[:2])
    high = torch.minimum(boxes[:, 2:], box[2:])
    overlap = (high - low).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return overlap / (areas - overlap).clamp(min=torch.finfo(boxes.dtype).tiny)


@dataclass(frozen=True, eq=False)
class Similarity(HeldForExamples):
    r"""The cosine between the model's embedding and a reference embedding, $f = \cos(e(x), r)$.

    `reference`: `(dimensions,)` for all examples or `(batch, dimensions)`.
    """

    reference: Tensor
    reads_tensor: ClassVar[bool] = True
    held: ClassVar[tuple[str, int]] = ("reference", 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", as_tensor(self.reference))

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        embedding = output_tensor(outputs)
        reference = self._rows(self.reference.to(embedding), examples, len(embedding))
        if embedding.shape != reference.shape:
            raise ValueError(
                f"target: Similarity.reference has {reference.shape[-1]} dimensions, "
                f"the model's embedding has shape {tuple(embedding.shape)}"
            )
        return F.cosine_similarity(embedding, reference, dim=1)


@dataclass(frozen=True)
class Neuron(Target):
    r"""An activation inside the model: one entry of `at` (`index`), or a whole `channel` pooled over positions.

    `index` is a tuple into the layer's output without its batch axis; `pooling` is "mean", "max" or "sum".
    """

    at: str | int
    index: tuple[int, ...] | None = None
    channel: int | None = None
    pooling: Literal["mean", "max", "sum"] = "mean"

    def __post_init__(self) -> None:
        # A number is the name of a layer of nn.Sequential; torch.compile puts its wrapper's name before a layer's own.
        object.__setattr__(self, "at", str(self.at).replace("_orig_mod.", ""))
        if isinstance(self.index, int):
            object.__setattr__(self, "index", (self.index,))
        if (self.index is None) == (self.channel is None):
            raise ValueError("target: Neuron needs either index=(...) or channel=..., not both")
        require(self.pooling in ("mean", "max", "sum"), self, "pooling", "'mean', 'max' or 'sum'")

    @property
    def layer(self) -> str | None:
        return str(self.at)

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        activation: Tensor = outputs
        wanted = self.index if self.index is not None else (self.channel,)
        exact = self.index is not None
        shape = tuple(activation.shape[1:])
        fits = len(wanted) == len(shape) if exact else len(shape) >= 1
        if not fits or any(not -n <= i < n for i, n in zip(wanted, shape, strict=False) if i is not None):
            raise ValueError(f"target: {self} does not fit the layer's output, which is {shape} without the batch axis")
        picked = activation[(slice(None), *wanted)]
        if exact:
            return picked
        pooled = picked.flatten(1) if picked.ndim > 1 else picked[:, None]
        if self.pooling == "max":
            return pooled.amax(1)
        return pooled.mean(1) if self.pooling == "mean" else pooled.sum(1)
