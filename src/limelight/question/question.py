"""The question: model, inputs, target, baseline and options of a call, checked once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypedDict

import torch
from torch import Tensor

from ..base.devices import own_tensors
from ..base.prepared import PreparedModel
from ..base.progress import reporting
from ..base.text import Text
from ..base.types import Arithmetic, LayerLike, Model, Outputs, Progress
from ..models.black_box import as_model, as_module
from ..models.text import TextModel
from .baselines import Baseline
from .given import Given, plain
from .no_rows import not_rows
from .per_example import fitted, for_examples, named, require_every_example
from .players import kept
from .random_streams import Streams
from .readings import declared_outputs, require_classes, require_outputs
from .registries import as_baseline, as_target
from .targets import ClassTarget, Target
from .text_baselines import default_of_texts


class Options(TypedDict, total=False):
    """The options of `explain` and of all functions that explain.

    target: a class, one class per example, several classes for each example as `[[281, 285], [7, 8]]` (numbers or the
        model's labels, also as an array or tensor), a `Target`, the text of one such as `"margin(281, other=285)"`, a
        label of the model or whole words of it, or a callable `outputs -> (rows,)`; None is the model's top class.
    baseline: the input that stands for "absent": a number, a tensor that broadcasts to the inputs, a `Baseline`, or the
        text of one such as `"blur(5)"`.
    outputs: what the model's outputs are: "logits", "probabilities", "sigmoids", "score" and others, see `Outputs`;
        None takes the model's own declaration, else the operator that made them (softmax, sigmoid, a linear layer),
        else each example's own values. By it `Probability`, the checks and the page tell what a probability is.
    given: what the model gets beside the inputs and is not explained, `model(rows, **given)` for a mapping by name, and
        `model(rows, *given)` for a tuple: an attention mask, a second input. Tensors and arrays
        `(batch, ...)` go along with their example, as tensors; all other values are the same at each call.
    axes: which axes of the inputs are the batch, channels, time and space, such as "NHWC", "NHW", "NTCHW" or "NC"; None
        is channels second. Maps have channels second, whatever the model takes. For `explain` and `check`.
    layer: a module, dotted name or number, or several, whose maps are averaged, for methods that read a layer; `name#1`
        is the run 1 of one that runs several times, `name[0]` an element of its output, `add#3` a call of an operator.
        None takes the last layer with a spatial map that the score depends on.
    seed: the seed of all random numbers; the same seed and example give the same map in any batch.
    draws_of: examples whose random numbers are used in place of the inputs' own: as many as the inputs, or one for
        all. A changed picture explained with the draws of the original shows the change and no sampling noise.
    rows_per_pass: the number of rows in one pass of the model; None chooses by memory. The map does not depend on it.
    arithmetic: how the model's rows are computed. "plain" runs the model's own operators; "packed" computes the same
        function on convolution weights laid out for the processor, with batch norms folded in, equal to rounding.
        A plain and a packed row prove it first, which no count of rows holds; where that fails, or a model cannot be
        packed, rows are plain. "two-precision" samples in bfloat16 and corrects by a part of the samples in float32,
        for the methods with `two_precisions`, such as `rise` and `kernel-shap`. None packs every row of a prepared
        model and the rows of methods that take many, and samples in two precisions where a tolerance is set: by the
        method's settings and the processor's features alone.
    progress: True counts model rows on standard error; a callable receives the rows of each finished pass.
    names: of the columns `(batch, features)`, or of the channels or bands, for drawings and for `Columns`; None numbers
        them.
    """

    target: Any
    baseline: float | Tensor | Baseline | type[Baseline] | str
    outputs: Outputs | None
    given: Mapping[str, Any] | Sequence[Any] | Tensor | Given | None
    axes: str | None
    layer: LayerLike | None
    seed: int
    draws_of: Tensor | None
    rows_per_pass: int | None
    arithmetic: Arithmetic | None
    progress: bool | Progress | None
    names: Sequence[str] | None


class CheckOptions(Options, total=False):
    """The options of all functions that test a map: the options of `explain`, and the true region.

    mask: for localisation, booleans `(batch, H, W)` or `(batch, 1, H, W)`, or `(H, W)` for all examples, as a tensor,
        an array or a list.
    """

    mask: Any


@dataclass(frozen=True, eq=False)
class Question:
    """A model, its inputs `(batch, *features)` and the options of the call; see `Options` for the fields.

    `apart`: the model's rows are known not to depend on each other, so that none is run again to see it.
    """

    model: Model
    inputs: Tensor
    target: Target
    baseline: Baseline
    layer: LayerLike | None = None
    seed: int = 0
    draws_of: Tensor | None = None
    rows_per_pass: int | None = None
    arithmetic: Arithmetic | None = None
    progress: Progress | None = None
    outputs: Outputs | None = None
    given: Given = field(default_factory=Given)
    names: tuple[str, ...] = ()
    apart: bool = False

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def classes(self) -> int | None:
        """The number of classes per example where each example has several; else None."""
        return self.target.classes

    def streams(self) -> Streams:
        """Return the examples' random streams, from the seed and the content of the inputs or of `draws_of`."""
        return Streams.of(self.inputs if self.draws_of is None else self.draws_of, self.seed)

    def references(self, streams: Streams | None = None) -> Tensor:
        """Return the references `(references, batch, *features)`. Raises FloatingPointError for NaN or infinity."""
        streams = self.streams() if streams is None else streams
        found = self.baseline.references(self.inputs, streams.fork("baseline"))
        if not bool(torch.isfinite(found).all()):
            raise FloatingPointError(f"baseline: {self.baseline!r} gives NaN or infinity")
        return found if self.stays is None else torch.where(self.stays, self.inputs, found)

    @property
    def texts(self) -> tuple[Text, ...]:
        """The texts that the inputs are the tokens of; none for other inputs."""
        return self.given.texts

    @property
    def stays(self) -> Tensor | None:
        """Which positions `(batch, 1, length)` of texts every baseline keeps: special tokens and padding."""
        if not self.texts:
            return None
        return kept(self.texts, self.inputs.shape[-1], self.inputs.device)[:, None]

    def require_every_example(self, *others: object) -> None:
        """Raise ValueError if the baseline, or one of `others`, holds values for another number of examples."""
        for each in (*others, self.baseline):
            require_every_example(each, self.inputs)

    def with_model(self, model: Model) -> Self:
        """Return the question with another model."""
        return replace(self, model=model)

    def with_baseline(self, baseline: Baseline) -> Self:
        """Return the question with another baseline, read as that of the call is."""
        return replace(self, baseline=_read(baseline, self.model, self.names))

    def with_inputs(self, inputs: Tensor) -> Self:
        """Return the question with as many other inputs and the same random numbers. Raises as `explain` does."""
        drawn = self.inputs if self.draws_of is None else self.draws_of
        return replace(self, inputs=_checked(inputs), draws_of=drawn)

    def select(self, index: Sequence[int]) -> Self:
        """Return the question about some of the examples; indices may repeat.

        Raises ValueError for a target whose fields fit the whole batch only.
        """
        chosen = torch.as_tensor(index, dtype=torch.long, device=self.inputs.device)
        return replace(
            self,
            inputs=self.inputs[chosen],
            target=self.target.select(index),
            baseline=for_examples(self.baseline, index, self.inputs),
            draws_of=None if self.draws_of is None else self.draws_of[chosen.to(self.draws_of.device)],
            given=self.given.select(index),
        )

    def flat(self) -> Self:
        """Return the question with each example repeated for each of its classes."""
        classes = self.classes
        if classes is None:
            return self
        drawn = None if self.draws_of is None else self.draws_of.repeat_interleave(classes, 0)
        flat = replace(self, inputs=self.inputs.repeat_interleave(classes, 0), target=self.target.flat())
        owners = self.owners()
        baseline = for_examples(self.baseline, owners, self.inputs)
        return replace(flat, draws_of=drawn, baseline=baseline, given=self.given.select(owners))

    def owners(self) -> list[int]:
        """Return the example of each row of the flat question."""
        return [i for i in range(len(self)) for _ in range(self.classes or 1)]


@contextmanager
def question_of(model: Model, inputs: Tensor, options: Options) -> Iterator[Question]:
    """Give the question for the options of a call, and report progress until the block ends.

    Raises TypeError for an unknown option, and ValueError or TypeError that names the argument.
    """
    require_options(options, Options.__annotations__)
    given: dict[str, Any] = {**options}
    # Tensors made in inference mode cannot be differentiated.
    with own_tensors(), torch.inference_mode(False), reporting(given.pop("progress", None)) as progress:
        model = as_model(model)
        if not callable(model):
            raise TypeError(
                f"model: {type(model).__name__} is neither a module nor callable, and neither an ONNX model "
                "(session, path.onnx, bytes, ModelProto) nor a fitted scikit-learn estimator"
            )
        rows = given.get("rows_per_pass")
        if rows is not None and (not isinstance(rows, int) or rows < 1):
            raise ValueError(f"rows_per_pass: {rows!r}; use a whole number of 1 or more, or None")
        require_arithmetic(given.get("arithmetic"))
        require_outputs(given.get("outputs"))
        if given.pop("axes", None) is not None:
            raise ValueError("axes: explain and check take it; for others give inputs with channels second")
        given["outputs"] = given.get("outputs") or declared_outputs(model)
        whole = snapshot_of(model)
        if not isinstance(inputs, Tensor):
            raise TypeError(f"inputs: {not_rows(inputs, whole)}")
        x = _checked(inputs)
        given["names"] = _names(given.get("names"), x)
        given["given"] = Given.of(given.get("given"), len(x))
        if given.get("draws_of") is not None:
            given["draws_of"] = _as_many(given["draws_of"], x)
        target = as_target(given.pop("target", None), len(x), labels_of(model)).fitted(x.shape[1:], whole)
        if isinstance(model, PreparedModel):
            given["layer"] = model.layer(given.get("layer"))
            model = model.snapshot
        if isinstance(target, ClassTarget):
            require_classes(given["outputs"])
        absent = default_of_texts(whole) if isinstance(whole, TextModel) and given["given"].texts else 0.0
        baseline = _read(as_baseline(given.pop("baseline", absent)), whole, given["names"])
        yield Question(as_module(model), x, target, baseline, **given, progress=progress)


ARITHMETICS: tuple[Arithmetic, ...] = ("plain", "packed", "two-precision")
"""The arithmetics that are implemented."""


def require_arithmetic(arithmetic: object) -> None:
    """Raise ValueError unless this is None or the name of an arithmetic that is implemented."""
    if arithmetic is not None and arithmetic not in ARITHMETICS:
        raise ValueError(f"arithmetic: {arithmetic!r}; use {', '.join(map(repr, ARITHMETICS))} or None")


def require_options(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raise TypeError that names the first unknown option and the nearest known ones."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2) or list(known)
            raise TypeError(
                f"{name}: there is no such option; use {', '.join(near)}, and write a method's settings with it, such "
                "as 'smooth-grad(samples=8)'"
            )


def snapshot_of(model: Model) -> Model:
    """Return the module that a prepared model explains; other models as they are."""
    return model.snapshot if isinstance(model, PreparedModel) else model


def labels_of(model: Model) -> Sequence[str]:
    """Return the labels of the model's classes, or nothing."""
    labels = getattr(model, "labels", ())
    return labels if isinstance(labels, list | tuple) and set(map(type, labels)) <= {str} else ()


def _names(names: Sequence[str] | None, x: Tensor) -> tuple[str, ...]:
    """Return the names of the features or channels of inputs. Raises ValueError or TypeError unless each has one."""
    if names is None:
        return ()
    if isinstance(names, str) or not all(isinstance(each, str) for each in names):
        raise TypeError(f"names: {names!r}; use a list of texts")
    if len(names) != x.shape[1]:
        things = "columns" if x.ndim == 2 else "channels"
        raise ValueError(f"names: {len(names)} names; inputs of shape {tuple(x.shape)} have {x.shape[1]} {things}")
    return tuple(names)


def _read(baseline: Baseline, model: Model, names: Sequence[str]) -> Baseline:
    """Return a baseline with what the model's vocabulary and the names of the columns decide."""
    return named(fitted(baseline, model), names)


def _checked(inputs: Tensor) -> Tensor:
    inputs = plain(inputs, "inputs")
    if not inputs.is_floating_point():
        raise TypeError(
            f"inputs: {inputs.dtype}; attribution needs floating point, use inputs.float() for numbers that are "
            "quantities; token ids are taken by explain, check, trust_card and evaluate"
        )
    if inputs.ndim < 2:
        raise ValueError(f"inputs: shape {tuple(inputs.shape)}; the first axis is the batch, use inputs[None]")
    if inputs.numel() == 0:
        raise ValueError(f"inputs: shape {tuple(inputs.shape)} is empty; give at least one example")
    bad = (~torch.isfinite(inputs)).flatten(1).any(1)
    if bool(bad.any()):
        which = ", ".join(map(str, bad.nonzero()[:, 0].tolist()))
        raise FloatingPointError(f"inputs: NaN or infinity in example {which}")
    # An expanded batch is one row in memory, which stands for references that examples share.
    return inputs.contiguous() if 0 in inputs.stride() else inputs


def _as_many(draws_of: Tensor, x: Tensor) -> Tensor:
    if not isinstance(draws_of, Tensor) or len(draws_of) not in (1, len(x)):
        found = f"shape {tuple(draws_of.shape)}" if isinstance(draws_of, Tensor) else type(draws_of).__name__
        raise ValueError(f"draws_of: {found}; use a tensor of {len(x)} examples, one for each input, or of one for all")
    drawn = plain(draws_of, "draws_of")
    return drawn if len(drawn) == len(x) else drawn.expand(len(x), *drawn.shape[1:])
