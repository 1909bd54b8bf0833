"""Targets: the scalar of the model's output that a map explains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.errors import NotApplicable
from ..base.named import Named
from ..base.types import Outputs
from .class_indices import Index, class_index as class_index, class_indices
from .readings import alike, read_outputs


def output_tensor(outputs: Any) -> Tensor:
    """Return the tensor of class scores in a model's outputs. Raises TypeError where none or several may be meant.

    That is the outputs themselves, or their entry `logits` or `out`, the first tensor of a tuple or list, or the only
    tensor of a mapping or of an object's fields.
    """
    found = tensor_in(outputs)
    if found is not None:
        return found[1]
    named = entries(outputs)
    keys = f" with entries {sorted(map(str, named))}" if named else ""
    first = outputs[0] if isinstance(outputs, list) and outputs else outputs
    if isinstance(first, np.ndarray | np.generic | float | int | list):
        raise TypeError(
            f"target: the model returns {type(outputs).__name__}, not a tensor; wrap a function of NumPy arrays or "
            "numbers as limelight.BlackBox(f)"
        )
    raise TypeError(
        f"target: the model returns {type(outputs).__name__}{keys}, not a tensor; "
        "pass target=lambda outputs: ... that returns one number per row, or Box(...) or Detection(...) for a detector"
    )


def entry_read(outputs: Any) -> str:
    """Return the name of the entry that `output_tensor` reads; "" where the outputs are a tensor or hold none."""
    found = tensor_in(outputs)
    return "" if found is None else found[0]


def joined_vectors(passes: Sequence[Any], rows: int, target: Target) -> Tensor | None:
    """Join the class scores of several passes if they hold a number or vector for each of `rows` rows; else None.

    For a target that reads the outputs in its own way, only an entry of an unmistakable name counts as class scores.
    """
    tensors = [found[1] for found in (tensor_in(each, target.reads_tensor) for each in passes) if found is not None]
    found = [tensor.detach() for tensor in tensors if tensor.ndim in (1, 2)]
    return torch.cat(found) if len(found) == len(passes) and sum(map(len, found)) == rows else None


def tensor_in(outputs: Any, by_place: bool = True) -> tuple[str, Tensor] | None:
    """Return the tensor of class scores and the name of its entry; `by_place`: also the first or only tensor."""
    if isinstance(outputs, Tensor):
        return "", outputs
    tensors = {name: each for name, each in entries(outputs).items() if isinstance(each, Tensor)}
    name = next((name for name in ("logits", "out") if name in tensors), None)
    if name is None and by_place and tensors and (len(tensors) == 1 or isinstance(outputs, tuple | list)):
        name = next(iter(tensors))
    return None if name is None else (str(name), tensors[name])


def entries(outputs: Any) -> Mapping[Any, Any]:
    """Return by name what a mapping, a tuple, a list or an object's fields hold; nothing for other values."""
    if isinstance(outputs, Mapping):
        return outputs
    if isinstance(outputs, tuple | list):
        return dict(zip(getattr(outputs, "_fields", range(len(outputs))), outputs, strict=True))
    if is_dataclass(outputs):
        return {each.name: getattr(outputs, each.name) for each in fields(outputs)}
    return getattr(outputs, "__dict__", {})


class Target(Named, ABC):
    """Base of all targets: frozen values that map a model's outputs to one score per row."""

    reads_tensor: ClassVar[bool] = False
    """Whether the score is read from `output_tensor` of the outputs, which the notes then name."""

    @property
    def layer(self) -> str | None:
        """The layer whose activation is scored; None for the model's outputs."""
        return None

    @property
    def per_example(self) -> int | None:
        """The number of examples that the fields hold values for; None if they fit any number."""
        return None

    @property
    def classes(self) -> int | None:
        """The number of scores per example where each example has several; else None."""
        return None

    def flat(self) -> Self:
        """Return the target for a batch in which each example is repeated for each of its scores."""
        return self

    def select(self, index: Sequence[int]) -> Self:
        """Return the target for some of the examples. Raises NotApplicable if the fields fit the whole batch only."""
        if self.per_example is not None:
            raise NotApplicable(f"target: {self!r} is written for its batch; give a target for each example")
        return self

    def resolve(self, outputs: Any) -> Self:
        """Return the target with settings that were left to the model's outputs at x filled in."""
        return self

    def reads_alike(self, examples: Tensor) -> bool:
        """Return whether the score is the same function of the outputs for these examples, except for linear terms.

        Backward rules may then share one reference row between them.
        """
        return True

    def fitted(self, features: Sequence[int], model: Any = None) -> Self:
        """Return the target with what the shape of an input and the model's own preparation of pictures decide.

        Raises ValueError for settings that fit no input of the shape `features`.
        """
        return self

    def notes(self, outputs: Any, rows: int) -> tuple[str, ...]:
        """Return what a reader of the map should know about how the model's outputs for `rows` rows are read."""
        entry = entry_read(outputs) if self.reads_tensor else ""
        return (f"the model returns {type(outputs).__name__}: its entry {entry!r} is explained",) if entry else ()

    @abstractmethod
    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        """Return scores `(rows,)` for the model's outputs; `examples` `(rows,)` are the rows' indices in the batch."""


@dataclass(frozen=True)
class ClassTarget(Target):
    """Base of targets about a class: `index` is an int, one int per example, or None for the model's top class.

    A label of the model may stand for an int; `explain` looks it up.
    Nested ints `(examples, classes)` give several classes for each example: see `explain`.
    """

    index: Index = None

    reads_tensor: ClassVar[bool] = True

    def __post_init__(self) -> None:
        index = self.index
        if isinstance(index, Tensor | np.ndarray):
            index = index.tolist()
        if isinstance(index, Sequence) and not isinstance(index, str):
            object.__setattr__(self, "index", class_indices(index))
        elif index is not None:
            object.__setattr__(self, "index", class_index(index))

    @property
    def per_example(self) -> int | None:
        return len(self.index) if isinstance(self.index, tuple) else None

    @property
    def classes(self) -> int | None:
        nested = isinstance(self.index, tuple) and self.index and isinstance(self.index[0], tuple)
        return len(self.index[0]) if nested else None  # type: ignore[index, arg-type]

    def listed(self, examples: int) -> tuple[int, ...]:
        """Return the class of each example. Needs an `index` that is neither None nor nested."""
        index = self.index
        if not isinstance(index, tuple):
            assert index is not None
            return (index,) * examples
        assert not any(isinstance(each, tuple) for each in index)
        return index  # type: ignore[return-value]

    def flat(self) -> Self:
        if self.classes is None:
            return self
        return replace(self, index=tuple(each for some in self.index for each in some))  # type: ignore[union-attr]

    def select(self, index: Sequence[int]) -> Self:
        own = self.index
        chosen: Any = tuple(own[i] for i in index) if isinstance(own, tuple) else own
        return replace(self, index=chosen)

    def resolve(self, outputs: Any) -> Self:
        if self.index is not None:
            return self
        return replace(self, index=tuple(class_scores(outputs).argmax(1).tolist()))

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        logits = class_scores(outputs)
        index = self._classes(logits, examples)[:, None]
        return self._scores(logits, index).gather(1, index)[:, 0]

    @abstractmethod
    def _scores(self, logits: Tensor, index: Tensor) -> Tensor:
        """Return scores `(rows, classes)`, of which the column `index` `(rows, 1)` is read."""

    def _classes(self, logits: Tensor, examples: Tensor) -> Tensor:
        """Return the class of each row of `logits` `(rows, classes)`."""
        if self.index is None:
            return logits.detach().argmax(1)
        largest = self.index if isinstance(self.index, int) else max(self.index)
        if largest >= logits.shape[1]:  # type: ignore[operator]  # nested classes were made flat
            raise ValueError(
                f"target: class {largest} is out of range for a model with {logits.shape[1]} outputs; "
                f"use 0 to {logits.shape[1] - 1}"
            )
        index = torch.as_tensor(self.index, device=logits.device)
        return index[examples] if index.ndim else index.expand(len(logits))


def class_scores(outputs: Any) -> Tensor:
    """Return the class scores `(rows, classes)` in a model's outputs. Raises TypeError or ValueError for others."""
    logits = output_tensor(outputs)
    if not logits.is_floating_point():
        raise TypeError(
            f"target: the model returns {logits.dtype}, which are labels and no scores of classes; return "
            "probabilities or logits, or give target=lambda outputs: ... one floating number per row"
        )
    if logits.ndim < 2:  # a number for each row; () for a single row
        return logits.reshape(-1, 1)
    if logits.ndim != 2:
        raise ValueError(
            f"target: a class target needs outputs of shape (rows, classes), the model returns {tuple(logits.shape)}; "
            "for a segmentation map use Region(mask, label), for a detector Box(...) or Detection(label), otherwise "
            "target=lambda outputs: ... one number per row"
        )
    return logits


@dataclass(frozen=True)
class Logit(ClassTarget):
    r"""The raw output of class $c$, $f = z_c$."""

    def _scores(self, logits: Tensor, index: Tensor) -> Tensor:
        return logits


@dataclass(frozen=True)
class Confidence(ClassTarget):
    """Base of targets about the probability of a class. `kinds`: what the outputs of each example are, see `Outputs`.

    The library fills `kinds` in from the outputs at x, so that a changed input is read as x is.
    """

    kinds: Outputs | tuple[Outputs, ...] | None = field(default=None, repr=False, compare=False, kw_only=True)

    def select(self, index: Sequence[int]) -> Self:
        chosen, kinds = super().select(index), self.kinds
        return replace(chosen, kinds=tuple(kinds[i] for i in index)) if isinstance(kinds, tuple) else chosen

    def reads_alike(self, examples: Tensor) -> bool:
        return not isinstance(self.kinds, tuple) or len({self.kinds[i] for i in examples.tolist()}) == 1

    def read(self, outputs: Any, examples: Tensor, declared: Outputs | None, made_by: Outputs | None) -> Self:
        """Fill in what the outputs `(rows, outputs)` of these examples `(rows,)` are."""
        kinds = read_outputs(class_scores(outputs), declared, made_by).kinds
        if (known := alike(kinds)) is not None:
            return replace(self, kinds=known)
        own = dict(zip(examples.tolist(), kinds, strict=True))
        return replace(self, kinds=tuple(own.get(i, "logits") for i in range(max(own) + 1)))

    def __call__(self, outputs: Any, examples: Tensor) -> Tensor:
        z = class_scores(outputs)
        index = self._classes(z, examples)[:, None]
        if not isinstance(self.kinds, tuple):
            found = self._of(z, self.kinds or "logits")
        else:
            own = [self.kinds[i] for i in examples.tolist()]
            found = self._of(z, own[0])
            for kind in dict.fromkeys(own):
                rows = torch.tensor([each == kind for each in own], device=z.device)[:, None]
                found = torch.where(rows, self._of(z, kind), found)
        return found.gather(1, index)[:, 0]

    def _scores(self, logits: Tensor, index: Tensor) -> Tensor:
        return self._of(logits, "logits")

    @abstractmethod
    def _of(self, outputs: Tensor, kind: Outputs) -> Tensor:
        """Return the scores `(rows, classes)` of outputs of this kind."""


@dataclass(frozen=True)
class Probability(Confidence):
    r"""The probability of class $c$, $f = \mathrm{softmax}(z)_c$ of logits and $\sigma(z)$ of a single one.

    Of outputs that are probabilities or sigmoids already, $f = z_c$.
    """

    def _of(self, outputs: Tensor, kind: Outputs) -> Tensor:
        if kind != "logits":
            return outputs
        return outputs.sigmoid() if outputs.shape[1] == 1 else outputs.softmax(1)


@dataclass(frozen=True)
class LogProbability(Confidence):
    r"""The logarithm of `Probability`: $f = \log\mathrm{softmax}(z)_c$ of logits, $\log z_c$ of probabilities.

    A probability of 0, as one that was rounded, counts as the least positive number of its dtype.
    """

    def _of(self, outputs: Tensor, kind: Outputs) -> Tensor:
        if kind != "logits":
            return outputs.clamp(min=torch.finfo(outputs.dtype).tiny).log()
        return F.logsigmoid(outputs) if outputs.shape[1] == 1 else outputs.log_softmax(1)


@dataclass(frozen=True)
class Margin(ClassTarget):
    r"""The lead of class $c$, $f = z_c - \max_{k \ne c} z_k$, or $z_c - z_o$ over the class `other`."""

    other: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.other is not None:
            object.__setattr__(self, "other", class_index(self.other))

    def reads_alike(self, examples: Tensor) -> bool:
        # Classes differ in the set of rivals that the maximum is over.
        if self.other is not None or not isinstance(self.index, tuple):
            return True
        return len({self.index[example] for example in examples.tolist()}) == 1

    def _scores(self, logits: Tensor, index: Tensor) -> Tensor:
        if logits.shape[1] < 2:
            raise ValueError("target: Margin needs at least two classes, the model has one output; use Logit")
        if self.other is None:
            own = F.one_hot(index[:, 0], logits.shape[1]).bool()
            return logits - logits.masked_fill(own, -torch.inf).max(1, keepdim=True).values
        if self.other >= logits.shape[1]:
            raise ValueError(f"target: Margin.other={self.other} is out of range for {logits.shape[1]} outputs")
        return logits - logits[:, self.other, None]


@dataclass(frozen=True)
class CentredLogit(ClassTarget):
    r"""The logit minus the mean over classes of the same row, $f = z_c - \frac1K \sum_k z_k$.

    A constant added to all logits of a row changes neither softmax nor this score. [shrikumar2017]
    """

    def _scores(self, logits: Tensor, index: Tensor) -> Tensor:
        return logits - logits.mean(1, keepdim=True)
