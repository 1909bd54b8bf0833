"""Targets: which number of the model's output a map explains, one scalar per row.

A target is a frozen value called with the model's outputs for some rows and the example each row
belongs to (a long tensor `(rows,)`), and returns the scores `(rows,)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

Index = int | tuple[int, ...] | None


def output_tensor(outputs: Any) -> Tensor:
    """The tensor to read classes from: the output itself, or its `logits` or `out` entry."""
    if isinstance(outputs, Tensor):
        return outputs
    named = outputs if isinstance(outputs, Mapping) else getattr(outputs, "__dict__", {})
    for key in ("logits", "out"):
        if isinstance(named.get(key), Tensor):
            found: Tensor = named[key]
            return found
    keys = f" with entries {sorted(map(str, named))}" if named else ""
    raise TypeError(
        f"target: the model returns {type(outputs).__name__}{keys}, not a tensor; "
        "pass target=lambda outputs: ... that returns one number per row, or Box(...) for a detector"
    )


class Target(ABC):
    """Maps a model's outputs for some rows to one score per row."""

    @property
    def layer(self) -> str | None:
        """The layer whose activation is scored instead of the outputs (None: the outputs)."""
        return None

    @property
    def per_example(self) -> int | None:
        """How many examples the target's fields are written for (None: any number)."""
        return None

    def resolve(self, outputs: Any) -> Self:
        """The same target with everything filled in that was left to the model's own answer at x."""
        return self

    @abstractmethod
    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        """Scores `(rows,)` for outputs of the rows that belong to `examples` `(rows,)`."""


@dataclass(frozen=True)
class ClassTarget(Target):
    """A target about one class: `index` is an int, one int per example, or None for the model's top class."""

    index: Index = None

    def __post_init__(self) -> None:
        index = self.index
        if isinstance(index, Tensor):
            index = index.tolist()
        if isinstance(index, Sequence) and not isinstance(index, str):
            object.__setattr__(self, "index", tuple(_class_index(i) for i in index))
        elif index is not None:
            object.__setattr__(self, "index", _class_index(index))

    @property
    def per_example(self) -> int | None:
        return len(self.index) if isinstance(self.index, tuple) else None

    def resolve(self, outputs: Any) -> Self:
        if self.index is not None:
            return self
        return replace(self, index=tuple(_class_scores(outputs).argmax(1).tolist()))

    def _pick(self, outputs: Any, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(rows, classes)` and the class of each row as `(rows, 1)`."""
        logits = _class_scores(outputs)
        if self.index is None:
            return logits, logits.detach().argmax(1, keepdim=True)
        index = torch.as_tensor(self.index, device=logits.device)
        index = index[examples] if index.ndim else index.expand(len(logits))
        if bool((index >= logits.shape[1]).any()):
            raise ValueError(
                f"target: class {int(index.max())} is out of range for a model with {logits.shape[1]} outputs; "
                f"use 0 to {logits.shape[1] - 1}"
            )
        return logits, index[:, None]


def _class_index(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"target: a class is an integer, not {value!r} ({type(value).__name__})")
    index = int(value.__index__())
    if index < 0:
        raise ValueError(f"target: class {index} is negative; classes count from 0")
    return index


def _class_scores(outputs: Any) -> Tensor:
    logits = output_tensor(outputs)
    if logits.ndim == 1:
        return logits[:, None]
    if logits.ndim != 2:
        raise ValueError(
            f"target: a class target needs outputs of shape (rows, classes), the model returns {tuple(logits.shape)}; "
            "for a segmentation map use Region(mask, label), otherwise target=lambda outputs: ... one number per row"
        )
    return logits


@dataclass(frozen=True)
class Logit(ClassTarget):
    r"""The raw output of class $c$, $f = z_c$."""

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        logits, index = self._pick(outputs, examples)
        return logits.gather(1, index)[:, 0]


@dataclass(frozen=True)
class Probability(ClassTarget):
    r"""$f = \mathrm{softmax}(z)_c$; for a model with one output, $\sigma(z)$."""

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        logits, index = self._pick(outputs, examples)
        if logits.shape[1] == 1:
            return logits[:, 0].sigmoid()
        return logits.softmax(1).gather(1, index)[:, 0]


@dataclass(frozen=True)
class LogProbability(ClassTarget):
    r"""$f = \log\mathrm{softmax}(z)_c$; for a model with one output, $\log\sigma(z)$."""

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        logits, index = self._pick(outputs, examples)
        if logits.shape[1] == 1:
            return F.logsigmoid(logits[:, 0])
        return logits.log_softmax(1).gather(1, index)[:, 0]


@dataclass(frozen=True)
class Margin(ClassTarget):
    r"""How far class $c$ is ahead, $f = z_c - \max_{k \ne c} z_k$, or $z_c - z_o$ against class `other`."""

    other: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.other is not None:
            object.__setattr__(self, "other", _class_index(self.other))

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        logits, index = self._pick(outputs, examples)
        if logits.shape[1] < 2:
            raise ValueError("target: Margin needs at least two classes, the model has one output; use Logit")
        if self.other is None:
            rival = logits.detach().scatter(1, index, -torch.inf).argmax(1, keepdim=True)
        elif self.other < logits.shape[1]:
            rival = torch.full_like(index, self.other)
        else:
            raise ValueError(f"target: Margin.other={self.other} is out of range for {logits.shape[1]} outputs")
        return (logits.gather(1, index) - logits.gather(1, rival))[:, 0]


@dataclass(frozen=True)
class CentredLogit(ClassTarget):
    r"""The logit minus the mean over classes of the same row, $f = z_c - \frac1K \sum_k z_k$.

    Softmax cannot see what is common to all classes; this removes it, per row, never over a batch.
    [shrikumar2017]
    """

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        logits, index = self._pick(outputs, examples)
        return logits.gather(1, index)[:, 0] - logits.mean(1)


@dataclass(frozen=True, eq=False)
class Region(Target):
    r"""A segmentation model's class over a region, $f = \sum_{p \in \text{mask}} z_{c,p}$ (or the mean).

    `mask`: booleans or weights `(H, W)` for all examples or `(batch, H, W)`, at the size of the output map.
    """

    mask: Tensor
    label: int
    reduction: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", _class_index(self.label))
        if self.mask.ndim < 2:
            raise ValueError(f"target: Region.mask has shape {tuple(self.mask.shape)}; use (H, W) or (batch, H, W)")
        if self.reduction not in ("sum", "mean"):
            raise ValueError(f"target: Region.reduction={self.reduction!r}; use 'sum' or 'mean'")

    @property
    def per_example(self) -> int | None:
        return len(self.mask) if self.mask.ndim > 2 else None

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        logits = output_tensor(outputs)
        mask = self.mask.to(logits)
        mask = mask[examples] if mask.ndim > 2 else mask.expand(len(logits), *mask.shape)
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
class Box(Target):
    r"""How strongly a detector still finds an object, $f = \max_j \mathrm{IoU}(b_j, b)\, s_j\, [c_j = c]$.

    `box`: `(4,)` as x0, y0, x1, y1 in pixels of the input, or `(batch, 4)`. `label` None counts any class.
    The detector returns, a row each, a mapping with `boxes (N, 4)`, `scores (N,)` and `labels (N,)`;
    or one mapping for all rows with a leading rows axis, `scores` also as `(rows, N, classes)`.
    No box found scores 0. [petsiuk2021]
    """

    box: Tensor
    label: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", torch.as_tensor(self.box, dtype=torch.float32))
        if self.box.shape[-1] != 4 or self.box.ndim > 2:
            raise ValueError(f"target: Box.box has shape {tuple(self.box.shape)}; use (4,) or (batch, 4)")
        if self.label is not None:
            object.__setattr__(self, "label", _class_index(self.label))

    @property
    def per_example(self) -> int | None:
        return len(self.box) if self.box.ndim > 1 else None

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        if isinstance(outputs, Mapping):
            outputs = [{key: value[i] for key, value in outputs.items()} for i in range(len(examples))]
        if not isinstance(outputs, Sequence) or not all(isinstance(o, Mapping) for o in outputs):
            raise TypeError(
                "target: Box needs a detector that returns a mapping with boxes, scores and labels per row, "
                f"not {type(outputs).__name__}"
            )
        boxes = self.box[examples.cpu()] if self.box.ndim > 1 else self.box.expand(len(outputs), 4)
        return torch.stack([self._best(found, box) for found, box in zip(outputs, boxes, strict=True)])

    def _best(self, found: Mapping[str, Tensor], box: Tensor) -> Tensor:
        boxes, scores = found["boxes"], found["scores"]
        if scores.ndim == 2:
            scores = scores.amax(1) if self.label is None else scores[:, self.label]
        elif self.label is not None:
            scores = scores * (found["labels"] == self.label)
        if len(boxes) == 0:
            return boxes.sum() * 0  # keeps the graph, so an input without detections has gradient 0
        return (_intersection_over_union(boxes, box.to(boxes)) * scores).amax()


def _intersection_over_union(boxes: Tensor, box: Tensor) -> Tensor:
    low = torch.maximum(boxes[:, :2], box[:2])
    high = torch.minimum(boxes[:, 2:], box[2:])
    overlap = (high - low).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return overlap / (areas - overlap).clamp(min=torch.finfo(boxes.dtype).tiny)


@dataclass(frozen=True, eq=False)
class Similarity(Target):
    r"""Cosine between the model's embedding and a reference embedding, $f = \cos(e(x), r)$.

    `reference`: `(dimensions,)` for all examples or `(batch, dimensions)`.
    """

    reference: Tensor

    @property
    def per_example(self) -> int | None:
        return len(self.reference) if self.reference.ndim > 1 else None

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        embedding = output_tensor(outputs)
        reference = self.reference.to(embedding)
        reference = reference[examples] if reference.ndim > 1 else reference.expand(len(embedding), -1)
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

    at: str
    index: tuple[int, ...] | None = None
    channel: int | None = None
    pooling: Literal["mean", "max", "sum"] = "mean"

    def __post_init__(self) -> None:
        if isinstance(self.index, int):
            object.__setattr__(self, "index", (self.index,))
        if (self.index is None) == (self.channel is None):
            raise ValueError("target: Neuron needs either index=(...) or channel=..., not both")
        if self.pooling not in ("mean", "max", "sum"):
            raise ValueError(f"target: Neuron.pooling={self.pooling!r}; use 'mean', 'max' or 'sum'")

    @property
    def layer(self) -> str | None:
        return self.at

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


@dataclass(frozen=True)
class Function(Target):
    """Any callable `outputs -> (rows,)`."""

    function: Callable[[Any], Tensor]

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        return self.function(outputs)


def as_target(target: Any, batch: int) -> Target:
    """Read what a user may write as `target=`, and check it against the batch before any model runs."""
    if isinstance(target, Target):
        read = target
    elif isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool or target.ndim > 1:
            raise TypeError(
                f"target: a tensor of classes holds integers in one dimension, not {target.dtype} {tuple(target.shape)}"
            )
        read = Logit(tuple(target.tolist()) if target.ndim else int(target))
    elif target is None or hasattr(target, "__index__"):
        read = Logit(target)
    elif isinstance(target, Sequence) and not isinstance(target, str):
        read = Logit(tuple(target))
    elif callable(target):
        read = Function(target)
    else:
        raise TypeError(
            f"target: {target!r} is not an int, a sequence or tensor of ints, a Target or a callable outputs -> (rows,)"
        )
    if read.per_example not in (None, batch):
        raise ValueError(f"target: {read.per_example} targets for a batch of {batch}; give one, or one per example")
    return read
