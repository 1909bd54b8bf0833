"""Copies of models that are kept between calls: of snapshots, and of loaded models as long as their weights stay."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from .copying import CONSTANTS, Copied, copied, trains
from .proof import Proof, fingerprint


@dataclass(eq=False)
class Kept:
    """Copies of `source`, ready to run, each for one call at a time.

    `made` is the copy that a snapshot was made of, with the model that it was made from, until both were compared.
    `compiles`: whether rows without gradients run as a compiled program; `compiled`: that by the shape and dtype of a
    row, or why there is none. `state` is that of the weights of a model that its owner may train; None for a snapshot,
    which nobody changes.
    `packed`: the packed weights by the shape of a row, or why there are none. `searched`: what a search for the layer
    of class activation maps found, by the shape of a row and the kind of target.
    """

    source: nn.Module
    notes: tuple[str, ...] = ()
    pooled: bool = True
    origin: weakref.ref[nn.Module] | None = None
    origin_state: int = 0
    made: Copied | None = None
    state: int | None = None
    proof: Proof | None = None
    packed: dict[tuple[int, ...], Any] = field(default_factory=dict)
    searched: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    compiles: bool = False
    compiled: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    _idle: list[tuple[Copied, _State]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def copy(self) -> Iterator[Copied]:
        """Yield a copy that no other call has; it is used again unless the call raised or changed it."""
        with self._lock:
            made, state = self._idle.pop() if self._idle else (None, None)
        if made is None or state is None:
            made = copied(self.source)
            state = _State(made)
        yield made
        if self.pooled and _State(made).equals(state):
            with self._lock:
                self._idle.append((made, state))

    def keep(self, proof: Proof) -> None:
        """Remember what a run showed; copies from before may share what the model writes."""
        self.proof = proof
        if proof.writes:
            with self._lock:
                self._idle.clear()

    @property
    def is_out_of_date(self) -> bool:
        """Whether the model that a snapshot was made from has other weights now."""
        model = self.origin() if self.origin is not None else None
        return model is not None and weights_state(model.modules()) != self.origin_state


_snapshots: WeakKeyDictionary[nn.Module, weakref.ref[Kept]] = WeakKeyDictionary()  # each holds its module
_loaded: WeakKeyDictionary[nn.Module, Kept] = WeakKeyDictionary()
_edited: WeakSet[nn.Module] = WeakSet()
_guard = threading.Lock()


@contextmanager
def edited(copy: nn.Module) -> Iterator[nn.Module]:
    """Have nothing kept for a copy, which may be that of a loaded model, while it is edited between calls."""
    with _guard:
        _edited.add(copy)
    try:
        yield copy
    finally:
        with _guard:
            _edited.discard(copy)


def keep(kept: Kept) -> None:
    """Have `kept_of(kept.source)` find this, as long as it lives."""
    with _guard:
        _snapshots[kept.source] = weakref.ref(kept)


def kept_of(model: nn.Module) -> Kept | None:
    """Return what is kept for a snapshot, or for a loaded model with the weights that it has now; else None."""
    with _guard:
        snapshot, found, is_edited = _snapshots.get(model), _loaded.get(model), model in _edited
    if snapshot is not None:
        return snapshot()
    if is_edited or getattr(model, "loaded", False) is not True:
        return None
    modules = list(model.modules())
    state = hash((fingerprint(modules), weights_state(modules, norms=True)))
    if found is None or found.state != state:
        # The copies hold the memory of the weights, and not the model, which would never be deleted.
        made = copied(model, modules)
        found = Kept(made.module, training_note(made), state=state)
        with _guard:
            _loaded[model] = found
    return found


def training_note(made: Copied) -> tuple[str, ...]:
    """Return the note on a model in training mode."""
    training = any(trains(module) for module, _ in made.pairs if not module._modules)
    return ("model was in training mode: explained in eval mode",) if training else ()


def weights_state(modules: Iterable[nn.Module], norms: bool = False) -> int:
    """Return a number that changes when parameters or buffers are replaced or written.

    With `norms` also where a write is not counted, as through `.data`: the Euclidean norm of every tensor is taken, in
    2 ms for 5 million weights. A write that leaves every norm as it was, to the last bit, is not seen.
    """
    found: list[Any] = []
    floats: list[Tensor] = []
    for module in modules:
        for each in (*module._parameters.values(), *module._buffers.values()):
            if each is not None:
                found += (each.data_ptr(), -1 if each.is_inference() else each._version)
                if norms and each.is_floating_point() and each.layout == torch.strided:
                    floats.append(each.detach())
    if floats:
        measured = torch._foreach_norm(floats)
        found.append(torch.stack([each.double().cpu() for each in measured]).numpy().tobytes())
    return hash(tuple(found))


class _State:
    """What is on a copy: the objects in its attributes, and how often its tensors were written.

    The objects themselves rather than their identities, which a new object could have again.
    """

    def __init__(self, made: Copied) -> None:
        self.held: list[Any] = []
        self.written: list[int] = []
        for module in made.copies:
            if isinstance(module, torch.jit.ScriptModule):
                continue
            state = vars(module)
            self.held += state.values()
            for name in _CONTENTS:
                self.held += state[name].values()
            for each in (*state["_parameters"].values(), *state["_buffers"].values()):
                if each is not None and not each.is_inference():
                    self.written += each.data_ptr(), each._version

    def equals(self, other: _State) -> bool:
        """Whether what was on the copy before, and nothing else, is on it now; constants are compared by value."""
        return (
            self.written == other.written
            and len(self.held) == len(other.held)
            and all(
                type(now) in CONSTANTS and type(now) is type(then) and now == then
                for now, then in zip(self.held, other.held, strict=True)
                if now is not then
            )
        )


_CONTENTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
