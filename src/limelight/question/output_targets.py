"""Targets other than a class: a region, a similarity, a neuron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import require
from ..models.text import TextModel
from .given import ByValue, as_tensor
from .masks import held, is_picture, read_region
from .targets import Target, class_index, class_scores, output_tensor
from .tensor_files import names_a_tensor, read_tensor

if TYPE_CHECKING:
    from PIL.Image import Image
else:
    Image = Any  # readers of texts look at the fields' types, without loading PIL


class HeldForExamples(ByValue, Target):
    """Base of targets with a tensor field, shared by all examples or with a batch axis.

    `held`: the field's name, and its number of axes without the batch axis.
    """

    held: ClassVar[tuple[str, int]]

    @property
    def per_example(self) -> int | None:
        given = getattr(self, self.held[0])
        return len(given) if isinstance(given, Tensor) and given.ndim > self.held[1] else None

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

    `mask`: booleans or weights `(H, W)` for all examples or `(batch, H, W)`, as a tensor, an array or lists, at the
    size of the output map; bytes of 0 and 255 are booleans. Or a picture, as the path of a file or a PIL picture: its
    region is where it is lighter than half. An `ImageModel` resizes and crops it as it does the photograph; for other
    models it covers the input. `resize` fits a mask of another size to the output map by the nearest pixel, as pictures
    always are.

    Raises ValueError for an empty mask, one of another size than the output map, and a label out of range.

    Example: `Region(mask, 15, "mean")`, or as text `"region('mask.png', 15)"`.
    """

    mask: Tensor | Path | Image
    label: int
    reduction: Literal["sum", "mean"] = "sum"
    resize: bool = False
    reads_tensor: ClassVar[bool] = True
    held: ClassVar[tuple[str, int]] = ("mask", 2)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", class_index(self.label))
        require(self.reduction in ("sum", "mean"), self, "reduction", "'sum' or 'mean'")
        if names_a_tensor(self.mask):
            object.__setattr__(self, "mask", read_tensor(str(self.mask)))
        if is_picture(self.mask):
            object.__setattr__(self, "mask", held(self.mask))
            object.__setattr__(self, "resize", True)
            return
        mask = as_tensor(self.mask)
        if mask.dtype == torch.uint8 and bool(((mask == 0) | (mask == 255)).all()):
            mask = mask.bool()
        object.__setattr__(self, "mask", mask)
        if mask.ndim < 2:
            raise ValueError(f"target: Region.mask has shape {tuple(mask.shape)}; use (H, W) or (batch, H, W)")
        _require_marked(mask)

    def fitted(self, features: Sequence[int], model: Any = None) -> Self:
        return self if isinstance(self.mask, Tensor) else replace(self, mask=read_region(self.mask, model))

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        logits = output_tensor(outputs)
        given = self.mask if isinstance(self.mask, Tensor) else read_region(self.mask)
        if self.resize and logits.ndim == 4 and logits.shape[2:] != given.shape[-2:]:
            wide = given.reshape(-1, 1, *given.shape[-2:]).to(logits)
            given = F.interpolate(wide, logits.shape[2:], mode="nearest-exact").reshape(
                *given.shape[:-2], *logits.shape[2:]
            )
            _require_marked(given)
        mask = self._rows(given.to(logits), examples, len(logits))
        if logits.ndim != mask.ndim + 1:
            raise ValueError(
                f"target: Region reads a map (rows, classes, H, W), and the model returns {tuple(logits.shape)}; "
                "give a class, or Neuron(...) for a map inside the model"
            )
        if logits.shape[2:] != mask.shape[1:]:
            raise ValueError(
                f"target: Region.mask is {tuple(mask.shape[1:])} but the model's output map is "
                f"{tuple(logits.shape)} (rows, classes, H, W); resize the mask to it, or give resize=True"
            )
        if self.label >= logits.shape[1]:
            raise ValueError(f"target: Region.label={self.label} is out of range for {logits.shape[1]} classes")
        total = (logits[:, self.label] * mask).flatten(1).sum(1)
        return total if self.reduction == "sum" else total / mask.flatten(1).sum(1)


def _require_marked(mask: Tensor) -> None:
    """Raise ValueError for a mask `(..., H, W)` without a region."""
    empty = (mask == 0).flatten(-2).all(-1)
    if bool(empty.any()):
        which = f" for example {empty.nonzero()[0, 0]}" if empty.ndim else ""
        raise ValueError(f"target: Region.mask is empty{which}; mark at least one position of the output map")


@dataclass(frozen=True, eq=False)
class Similarity(HeldForExamples):
    r"""The cosine between the model's embedding and a reference embedding, $f = \cos(e(x), r)$.

    `reference`: `(dimensions,)` for all examples or `(batch, dimensions)`, as a tensor, an array or lists; for a model
    of texts also a text, or one for each example.
    """

    reference: Tensor | str | tuple[str, ...]
    text: str | None = field(default=None, repr=False, kw_only=True)  # that the reference is the embedding of
    reads_tensor: ClassVar[bool] = True
    held: ClassVar[tuple[str, int]] = ("reference", 1)

    def __post_init__(self) -> None:
        given: Any = self.reference
        if isinstance(given, list | tuple) and given and all(isinstance(each, str) for each in given):
            object.__setattr__(self, "reference", tuple(given))
        elif not isinstance(given, str) or names_a_tensor(given):
            object.__setattr__(self, "reference", as_tensor(given))

    @property
    def per_example(self) -> int | None:
        return len(self.reference) if isinstance(self.reference, tuple) else super().per_example

    def select(self, index: Sequence[int]) -> Self:
        own = self.reference
        return (
            replace(self, reference=tuple(own[i] for i in index)) if isinstance(own, tuple) else super().select(index)
        )

    def fitted(self, features: Sequence[int], model: Any = None) -> Self:
        if isinstance(self.reference, Tensor):
            return self
        if not isinstance(model, TextModel):
            raise ValueError(
                f"target: Similarity.reference={self.reference!r} is a text, and the model reads none; give an "
                "embedding, or the file of one (.npy, .pt, .pth, .safetensors)"
            )
        text = self.reference if isinstance(self.reference, str) else None
        return replace(self, reference=model.embeddings(self.reference), text=text)

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        embedding = output_tensor(outputs)
        assert isinstance(self.reference, Tensor)  # a text is fitted
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


@dataclass(frozen=True)
class PredictiveEntropy(Target):
    r"""How undecided the model is, $f = -\sum_c p_c \log p_c$ in nats, of the softmax $p$ of logits.

    `kind` says what the outputs are: "logits" or "probabilities". It is 0 for a sure answer, and at most the logarithm
    of the number of classes. Raises ValueError for a single output, which has no distribution.
    """

    kind: Literal["logits", "probabilities"] = "logits"
    reads_tensor: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.kind in ("logits", "probabilities"), self, "kind", "'logits' or 'probabilities'")

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        z = class_scores(outputs)
        if z.shape[1] < 2:
            raise ValueError("target: PredictiveEntropy needs at least two classes, the model has one output")
        if self.kind == "probabilities":
            return -(z * z.clamp(min=torch.finfo(z.dtype).tiny).log()).sum(1)
        return -(z.softmax(1) * z.log_softmax(1)).sum(1)


@dataclass(frozen=True)
class Function(Target):
    """Any callable `outputs -> (rows,)`, or `(rows, 1)`."""

    function: Callable[[Any], Tensor]

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        found = self.function(outputs)
        return found[:, 0] if isinstance(found, Tensor) and found.shape == (len(examples), 1) else found
