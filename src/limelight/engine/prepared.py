"""Prepared models: a snapshot that is copied and proven once, and shared by calls and threads."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..base.types import LayerLike, Outputs
from ..models.black_box import as_module
from ..question.readings import declared_outputs, require_outputs
from .copying import REFUSALS, Copied, copied, foreign
from .kept import Kept, keep, training_note, weights_state
from .layers import layer_names, modules_of
from .model_copy import frozen_copy


@dataclass(frozen=True)
class Memory:
    """The bytes that a prepared model holds beside the original: cloned weights, packed ones and compiled programs."""

    weights: int
    packed: int
    compiled: int = 0

    def __str__(self) -> str:
        compiled = f", {self.compiled / 2**20:.1f} MiB compiled" if self.compiled else ""
        return f"{self.weights / 2**20:.1f} MiB of weights, {self.packed / 2**20:.1f} MiB packed{compiled}"


@dataclass(frozen=True)
class Declared:
    """What was said of a model as it was prepared."""

    outputs: Outputs | None = None
    labels: tuple[str, ...] = ()
    axes: str | None = None


class Prepared:
    """A snapshot of a model, as `limelight.prepare` makes it; every function takes it in place of the model.

    `module` is the original. The snapshot keeps its own weights, so that training goes on without changing it, and is
    the same for all threads. `prepared(x)` returns its outputs, in eval mode and without gradients.
    """

    def __init__(self, module: nn.Module, snapshot: nn.Module, kept: Kept, share: bool, declared: Declared) -> None:
        self.module, self.snapshot, self.share = module, snapshot, share
        self._kept, self._declared = kept, declared

    def __call__(self, rows: Tensor) -> Any:
        with frozen_copy(self.snapshot, rows[:1]) as copy, torch.no_grad():
            copy.prove(rows[:1])
            return copy.run(rows.clone())

    @property
    def labels(self) -> Sequence[str]:
        """The labels of the model's classes, or nothing."""
        return self._declared.labels or getattr(self.module, "labels", ())

    @property
    def outputs(self) -> Outputs | None:
        """What the model's outputs are, as declared here or by the model itself."""
        return self._declared.outputs or declared_outputs(self.module)

    @property
    def axes(self) -> str | None:
        """The axes of the model's inputs as declared, such as "NHWC"; None is channels second."""
        return self._declared.axes

    @property
    def memory(self) -> Memory:
        """The bytes that are held beside the original's."""
        own: dict[int, Tensor] = {} if self.share else {id(each): each for each in self.snapshot.parameters()}
        own |= {id(each): each for each in self.snapshot.buffers()}
        weights = sum(each.numel() * each.element_size() for each in own.values())
        packed, compiled = (
            sum(getattr(each, "bytes", 0) for each in made.values())
            for made in (self._kept.packed, self._kept.compiled)
        )
        return Memory(weights, packed, compiled)

    def layer(self, layer: LayerLike | None) -> Any:
        """Return a layer or layers with the original's modules named."""
        alone = isinstance(layer, nn.Module)
        many = isinstance(layer, Sequence) and any(isinstance(each, nn.Module) for each in layer)
        if layer is None or not (alone or many):
            return layer
        names = layer_names(modules_of(self.module), layer)
        return names[0] if alone else list(names)

    def to(self, device: str | torch.device) -> Prepared:
        """Return a new prepared model with this snapshot on another device."""
        made = copied(self.snapshot)
        for part in (made.module, *made.hidden.values()):
            part.to(device)
        return _prepared(self.module, made, declared=self._declared, compiles=self._kept.compiles)

    def __reduce__(self) -> tuple[Callable[..., Prepared], tuple[Any, ...]]:
        return _again, (self.snapshot, self._declared, self._kept.compiles)

    def __repr__(self) -> str:
        return f"Prepared({type(self.module).__name__}, {self.memory})"


def prepare(
    model: nn.Module | Callable[[Tensor], Any],
    *,
    share: bool = False,
    compile: bool = False,
    outputs: Outputs | None = None,
    labels: Sequence[str] = (),
    axes: str | None = None,
) -> Prepared:
    """Make a snapshot of a model that is copied and proven once and is fast from then on.

        model = limelight.prepare(net)
        limelight.explain(model, x, "integrated-gradients")

    Args:
        model: a module in any mode, or a differentiable function over modules; the snapshot is in eval mode.
        share: keep the memory of the model's weights instead of cloning them. Training then changes the snapshot, and
            its rows are plain rather than packed.
        compile: run rows without gradients as one program that torch's inductor compiles at the first of them, in up
            to a minute for each shape of a row. It repays many rows: RISE, occlusion, games, the checks. A map whose
            rows ran so has `arithmetic="compiled"`.
        outputs: what the model's outputs are: "logits", "probabilities" and others, see `Options`. None takes the
            model's own declaration, else what each call reads.
        labels: the names of the classes, by which targets can be given.
        axes: the axes of the model's inputs, such as "NHWC", see `Options`; None is channels second.

    At its first call the snapshot is proven on one row, and so is a compiled program: where outputs differ by more
    than 1e-5 of the largest, or the model does not compile, rows are as without, and a note says why. Raises
    ValueError with both `share` and `compile`, whose program holds its own weights, and for a model that has no copy
    which does the same; `explain(model, ...)` runs such a model itself. TypeError for a black box, which has nothing
    to prepare.
    """
    if share and compile:
        raise ValueError("compile: the program holds its own weights, so it cannot share them; leave share=True out")
    require_outputs(outputs)
    if isinstance(model, Prepared):
        outputs, labels, axes = outputs or model.outputs, labels or model.labels, axes or model.axes
        model = model.snapshot
    module = as_module(model)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"model: {type(model).__name__} is no torch module and reaches none: there is nothing to prepare"
        )
    outside = foreign(module.modules())
    if outside:
        raise ValueError(
            f"model: it runs a module that it does not hold ({', '.join(outside)}); make that an attribute of the model"
        )
    try:
        made = copied(module)
    except REFUSALS as error:
        if str(error).startswith("model: "):
            raise
        raise ValueError(f"model: it has no copy ({type(error).__name__}: {error}), so no snapshot") from error
    declared = Declared(outputs, tuple(labels), axes)
    return _prepared(module, made, declared, share, compile, made if made.doubts else None)


def _again(snapshot: nn.Module, declared: Declared, compiles: bool) -> Prepared:
    """Prepare what a pickle holds."""
    return prepare(snapshot, compile=compiles, outputs=declared.outputs, labels=declared.labels, axes=declared.axes)


def _prepared(
    module: nn.Module,
    snapshot: Copied,
    declared: Declared,
    share: bool = False,
    compiles: bool = False,
    uncompared: Copied | None = None,
) -> Prepared:
    kept = Kept(snapshot.module, training_note(snapshot), pooled=not share, made=uncompared, compiles=compiles)
    if share:
        for original, copy in snapshot.pairs:
            for name, buffer in original._buffers.items():
                copy._buffers[name] = None if buffer is None else buffer.detach()
    else:
        for part in (snapshot.module, *snapshot.hidden.values()):
            for parameter in part.parameters():
                parameter.data = parameter.detach().clone()
        kept.origin, kept.origin_state = weakref.ref(module), weights_state(module.modules())
    keep(kept)
    return Prepared(module, snapshot.module, kept, share, declared)
