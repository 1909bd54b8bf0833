"""The copy that runs in place of the user's model, which is never changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..base.notes import Note
from .as_written import KeepActivations
from .borrowing import borrowed, restore
from .copying import REFUSALS, Copied, copied, foreign
from .kept import Kept, edited, kept_of, training_note
from .proof import Proof, Watch, calls_of, differ, fingerprint
from .randomness import first_that_differs, other_generators, run_without_draws

_BORROWED = "ran it itself, one call at a time"


class PassAgain(Exception):
    """A pass has to be run again: the model's forward wrote a parameter that the copy shared, or drew numbers."""


@dataclass
class ModelCopy:
    """`made.module` runs in place of the user's model; `notes` report what differs from it.

    `proof` is None until a first pass was run. `borrows` is set where what runs is the user's model itself.
    """

    made: Copied
    notes: tuple[str, ...] = ()
    proof: Proof | None = None
    borrows: bool = False
    keep: Callable[[Proof], None] = lambda proof: None
    kept: Kept | None = None
    searched: dict[tuple[Any, ...], Any] = field(default_factory=dict)  # see `Kept`
    values: tuple[tuple[Tensor, Tensor], ...] = ()  # of what a borrowed model wrote, from before
    _versions: list[tuple[Tensor, int]] | None = None

    @property
    def module(self) -> nn.Module:
        """The module that runs."""
        return self.made.module

    def run(self, rows: Tensor) -> Any:
        """Run rows and return the outputs; the first pass is watched. Raises ValueError for a random model.

        Raises PassAgain where the forward wrote a parameter: its value is restored and the copy has its own from now
        on. `require_agreement` is due then.
        """
        backward = torch.is_grad_enabled()
        if self.proof is None or (backward and self.proof.checkpoints is None):
            return self._watched(rows, backward)
        self._versions = self._versions or self._writes_counted()
        outputs = self._run(rows)
        self._require_unwritten()
        return outputs

    def _run(self, rows: Tensor, again: bool = False) -> Any:
        """Run rows, with `again` from where Python's and NumPy's generators stand now."""
        with ExitStack() as stack:
            if self.proof is not None and self.proof.seeds and not again:
                stack.enter_context(other_generators())
            if self.proof is not None and self.proof.checkpoints:
                stack.enter_context(KeepActivations())
            return run_without_draws(self.module, rows)

    def _watched(self, rows: Tensor, backward: bool) -> Any:
        """Run rows as `run` does and enter what they show into `proof`."""
        known = self.proof
        own = set(known.writes) if known else set()
        parameters: dict[str, Tensor] = {name: each for name, each in self.module.named_parameters() if name not in own}
        watch = Watch(parameters, rows.dtype)
        try:
            with other_generators() as moved, watch:
                outputs = self._run(rows)
        except BaseException:
            restore((watch.named[name], value) for name, value in watch.before.items())
            raise
        checkpoints = watch.checkpoints if backward else None
        if known is None:
            made = watch.outputs(outputs)
            self.proof = Proof(
                watch.precision, tuple(watch.before), seeds=bool(moved), checkpoints=checkpoints, outputs=made
            )
        else:
            self.proof = replace(known, writes=(*known.writes, *watch.before), checkpoints=checkpoints)
        if watch.before:
            values = tuple((watch.named[name], value) for name, value in watch.before.items())
            restore(values)
            if self.borrows:
                self.values += values
            else:
                self.own(tuple(watch.before))
        if watch.before or checkpoints or (moved and known is None):
            raise PassAgain
        self.keep(self.proof)
        return outputs

    def prove(self, rows: Tensor) -> None:
        """Run rows once, watched, unless that was done before. Raises ValueError as `run` and `require_agreement`."""
        if self.proof is None:
            try:
                with torch.no_grad():
                    self.run(rows.clone())
            except PassAgain:
                self.require_agreement(rows)

    def require_agreement(self, rows: Tensor) -> None:
        """Raise ValueError where the next answer is another, for what the forward writes or draws."""
        assert self.proof is not None
        with torch.no_grad(), other_generators():
            first, again = (self._run(rows.detach().clone(), again=True) for _ in range(2))
            differs = differ(first, again, self.proof.precision)
            if differs and not self.proof.writes:
                raise ValueError(_random(self.module, rows.detach(), self.proof.precision))
        if differs:
            raise ValueError(
                f"model: its forward writes {', '.join(self.proof.writes)}, so that the same input gets another score "
                "at each call; write only in training mode (if self.training:)"
            )
        self.keep(self.proof)

    def _writes_counted(self) -> list[tuple[Tensor, int]]:
        """Return the parameters that the copy shares, each with its count of writes."""
        own = {id(self.module.get_parameter(name)) for name in self.proof.writes} if self.proof else set()
        copies = () if self.borrows else self.made.copies
        shared = (each for copy in copies for each in copy._parameters.values() if each is not None)
        return [(each, each._version) for each in shared if id(each) not in own and not each.is_inference()]

    def _require_unwritten(self) -> None:
        """Raise ValueError where a shared parameter was written, and not in the first pass, which restores it."""
        written = {id(each) for each, version in self._versions or () if each._version != version}
        if written:
            self._versions = None
            names = [name for name, each in self.module.named_parameters() if id(each) in written]
            raise ValueError(
                f"model: its forward wrote {', '.join(names)}, and not in its first pass, so that it could not be "
                "restored; write only in training mode (if self.training:)"
            )

    def own(self, names: tuple[str, ...]) -> None:
        """Give the copy its own memory for these parameters."""
        for name in names:
            parameter = self.module.get_parameter(name)
            parameter.data = parameter.detach().clone()


@contextmanager
def frozen_copy(model: nn.Module, example: Tensor | None = None) -> Iterator[ModelCopy]:
    """Yield a frozen copy of `model` in eval mode.

    The copy has new module objects over the *same* parameter storage (without gradients) and cloned buffers. Hooks,
    modes and formats set on it do not reach the user's model, so nothing has to be restored after an exception or
    interrupt. Where the copy may not do the same as the model, both run the row `example` `(1, *features)` once in the
    model's life. A model that has no such copy is run itself, under a lock, and restored afterwards. Raises ValueError
    for a random model, and where a parameter is written while the copy is open.
    """
    kept = kept_of(model)
    if kept is not None:
        with _of_kept(kept, example) as found:
            yield found
        return
    modules = list(model.modules())
    state = fingerprint(modules)
    known = _known(model, state)
    proof = Proof.fitting(known.proof)
    made: Copied | None = None
    others = foreign(modules)
    reason = proof.borrow if proof else ""
    if others:
        reason = f"model runs a module that it does not hold ({', '.join(others)})"
    if not reason:
        try:
            made = copied(model, modules)
        except REFUSALS as error:
            if type(error) is ValueError and str(error).startswith("model: "):
                raise
            reason = f"model could not be copied ({type(error).__name__})"
    itself = Copied(model, [(module, module) for module in modules])
    notes = training_note(made or itself)
    found = ModelCopy(made or itself, notes, proof, keep=known.keep, searched=known.searched)
    if made is not None:
        found.own(proof.writes if proof else ())
        if proof is None and made.doubts and example is not None:
            reason = _difference(model, made, found, example)
    if reason:
        proof = found.proof and replace(found.proof, borrow=reason)
        if proof is not None:
            known.keep(proof)
        found = ModelCopy(itself, (*notes, f"{reason}: {_BORROWED}"), proof, borrows=True, keep=known.keep)
        with borrowed(model, found.proof.writes if found.proof else (), others.values()):
            try:
                yield found
            finally:
                restore(found.values)
        return
    yield found


@contextmanager
def _of_kept(kept: Kept, example: Tensor | None) -> Iterator[ModelCopy]:
    """Yield a copy of a snapshot, compared once with the model that it was made from where it may differ."""
    notes, is_out_of_date = kept.notes, kept.is_out_of_date
    if is_out_of_date:
        notes += ("the model was trained since it was prepared: this is the snapshot's map",)
    model = kept.origin() if kept.origin is not None else None
    if kept.made is not None and example is not None:
        made, kept.made = kept.made, None
        if model is None or is_out_of_date:
            kept.notes += (Note("caution", "the snapshot was never compared with its model, which has changed since"),)
            notes = kept.notes
        else:
            reason = _difference(model, made, ModelCopy(made, keep=kept.keep), example)
            if reason:
                kept.made = made
                raise ValueError(f"model: it has no snapshot, since the {reason}; explain(model, ...) runs it itself")
    with kept.copy() as copy:
        found = ModelCopy(copy, notes, Proof.fitting(kept.proof), keep=kept.keep, kept=kept, searched=kept.searched)
        found.own(kept.proof.writes if kept.proof else ())
        yield found


def _difference(model: nn.Module, made: Copied, found: ModelCopy, example: Tensor) -> str:
    """Run a row through the copy and the model; return in what the copy differs, or "".

    Raises ValueError where the model does not agree with itself.
    """
    names = {id(module): name for name, module in model.named_modules()}

    def run(rows: Tensor) -> Any:
        return run_without_draws(model, rows.clone())

    originals = (original for original, _ in made.pairs)
    # Borrowed, since the copy may run it.
    with torch.no_grad(), borrowed(model), other_generators(), calls_of(originals) as called:
        mine, failure = _attempt(found.run, example)
        if isinstance(failure, PassAgain):
            found.require_agreement(example)
            mine, failure = _attempt(found.run, example)
        failure = failure and _lasting(failure, found.run, example)
    if called:
        return f"model's copy runs {names.get(id(called[0])) or type(called[0]).__name__} of the original"
    with torch.no_grad(), borrowed(model, found.proof.writes if found.proof else ()), other_generators():
        theirs, error = _attempt(run, example)
        if error is not None and _lasting(error, run, example):
            return ""  # one row alone does not run: the pass at the inputs reports it, or is all there is to see
        precision = found.proof.precision if found.proof else example.dtype
        if differ(run(example), theirs, precision):
            raise ValueError(_random(model, example, precision))
        if failure is None and not differ(mine, theirs, precision):
            return ""
    if failure is not None:
        return f"model's copy does not run ({type(failure).__name__}: {str(failure)[:80]})"
    return "model's copy computes something else"


def _random(model: nn.Module, rows: Tensor, precision: torch.dtype) -> str:
    where = first_that_differs(model, rows, lambda a, b: differ(a, b, precision))
    return (
        f"model: {where} gives another output at each call, so that the same input gets another score; use a function "
        "that fixes the seed or averages over draws"
    )


def _attempt(run: Callable[[Tensor], Any], rows: Tensor) -> tuple[Any, Exception | None]:
    try:
        return run(rows), None
    except Exception as error:  # noqa: BLE001 whatever the model raises: it is compared between model and copy
        return None, error


def _lasting(error: Exception, run: Callable[[Tensor], Any], rows: Tensor) -> Exception:
    """Return an error that a second run meets too; raise one that it does not."""
    if _attempt(run, rows)[1] is None:
        raise error
    return error


@dataclass(eq=False)
class _Known:
    """What runs of a bare model showed while its fingerprint was `state`: no weights, and nothing that holds any."""

    state: int
    proof: Proof | None = None
    searched: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def keep(self, proof: Proof) -> None:
        self.proof = proof


_knowledge: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()
_guard = threading.Lock()


def _known(model: nn.Module, state: int) -> _Known:
    with _guard:
        found = _knowledge.get(model)
        if found is None or found.state != state:
            found = _knowledge[model] = _Known(state)
    return found


@contextmanager
def editable_copy(model: object, black_box: str) -> Iterator[nn.Module]:
    """Yield a frozen copy whose layers and parameters may be replaced.

    Raises ValueError for a model that cannot be copied, and for a black box: "model: a black box" and `black_box`.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: a black box {black_box}")
    with frozen_copy(model) as found:
        if found.borrows:
            raise ValueError("model: it cannot be copied, and the user's own is never edited")
        with edited(found.module) as module:
            yield module
