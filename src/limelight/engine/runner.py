"""The Runner: packs rows into full passes, counts them, bounds their memory and leaves the model unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from ..base.devices import users_tensors
from ..base.errors import NO_GRADIENT, NoGradient
from ..base.types import Model, Outputs, Progress
from ..question.given import Given
from ..question.targets import Confidence, Target, output_tensor
from .asking import Asking
from .budget import Budget
from .carried import carrying
from .compiled import CompiledRows, Compiling
from .frames import FoldedRows, Frames
from .graph import make_exact
from .layer_watch import search_layers
from .layers import LayerInput, captured, modules_of, without_batch_axis
from .memory import is_out_of_memory
from .model_copy import PassAgain, frozen_copy
from .packed import NotPacked
from .packing import Packing
from .passes import Merged, Outcome, Rows, SharedRows, Source, detached, full_passes, row_gradients, rows_first
from .programs import RowsTaken, rows_taken
from .proof import Proof
from .read_scores import read_scores, read_shared, require_rows
from .requirements import channels_last_pays, refuse_batch_statistics, require_same_kind

T = TypeVar("T")

_READERS = 4  # gradients that a pass may hold for each distinct row: far less than its activations
_SHAPE_ERRORS = (RuntimeError, ValueError, IndexError)
_MEMORY = "the model assumes contiguous memory"


class _LayoutRefused(Exception):
    """The model cannot run on channels-last rows, or on packed ones."""


class Runner:
    """Calls one model for one `explain()`; a context manager that leaves the model as it was."""

    def __init__(
        self,
        model: Model,
        inputs: Tensor,
        rows_per_pass: int | None,
        progress: Progress | None,
        targets: int = 1,
        declared: Outputs | None = None,
        given: Given | None = None,
    ) -> None:
        self.differentiable = isinstance(model, nn.Module)
        self.forward_rows = 0
        self.cached_rows = 0  # that a black box's cache answered
        self.most_rows = 0  # of a pass, since this was last set to 0
        self.backward_rows = 0
        self.asking = Asking(model)
        self._notes: list[str] = [*self.asking.notes]
        self._channels_last = False
        self._unbatched = ""  # the error message where the model fails on inputs that look like a single example
        self._rows_taken = RowsTaken()
        self.targets = targets  # of each example, one after the other
        self.declared = declared
        self.given = given
        self.model = model
        self._inputs = inputs
        self._progress = progress
        self.sizes = Budget(rows_per_pass)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(carrying(self.given, torch.zeros(1, dtype=torch.long)))  # for what proves the model
        self.call: Callable[[Tensor], Any] = self.asking
        self.packing = Packing(None, {}, self._inputs[:1], self._note)
        self.compiling = Compiling(None, {}, self._inputs[:1], self._note)
        self._notes += getattr(self.model, "loading_notes", ())
        if isinstance(self.model, nn.Module):
            self.copy = self._stack.enter_context(frozen_copy(self.model, self._inputs[:1]))
            self._notes += self.copy.notes
            self.call = self.copy.run
            self.modules = modules_of(self.copy.module, self.copy.made.hidden)
            self.module = self.modules[""]
            refuse_batch_statistics(self.modules)
            require_same_kind(self.modules, self._inputs)
            self._rows_taken = rows_taken(self.modules)
            self._notes += self._rows_taken.notes
            self.sizes.take_at_most(self._rows_taken.most)
            self._channels_last = channels_last_pays(self.modules, self._inputs)
            self._unbatched = without_batch_axis(self.modules, self._inputs)
            row = self._rows_taken.padded(self._inputs[:1])
            self.packing = Packing(self.copy, self.modules, row, self._note)
            self.compiling = Compiling(self.copy, self.modules, row, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def _proof(self) -> Proof | None:
        return self.copy.proof if self.differentiable else None

    @property
    def notes(self) -> list[str]:
        """What a reader of every map should know about how the model was run."""
        return self._notes + (self._proof.notes(self._inputs.dtype) if self._proof else [])

    @property
    def precision(self) -> torch.dtype:
        """The coarsest dtype that the model is known to compute in."""
        return self._proof.precision if self._proof else self._inputs.dtype

    @property
    def outputs_made_by(self) -> Outputs | None:
        """What the operator that made the model's outputs says that they are, once a row was run."""
        return self._proof.outputs if self._proof else None

    @property
    def budget(self) -> int:
        """The most distinct rows that one pass holds at present."""
        return self.sizes.rows

    @property
    def channels_last(self) -> bool:
        """Whether rows without gradients run in channels-last layout."""
        return self._channels_last

    # One pass -------------------------------------------------------------------------------------

    def once(
        self,
        rows: Tensor | Merged,
        examples: Tensor,
        target: Target,
        gradient: bool = False,
        layers: tuple[str, ...] = (),
        layer_gradients: bool = False,
        also: Callable[[Any, Tensor], Mapping[str, Tensor]] | None = None,
        inside: LayerInput | None = None,
        merged: bool = True,
    ) -> Outcome:
        """Call the model once on `rows`, with the requested gradients.

        `also` gets outputs and scores and may name more activations, found during the pass, to keep beside those of
        `layers`; the gradient of several is always taken, for choosing among them. With `inside` the rows are a
        layer's outputs. Equal neighbouring rows, which several targets share, are run once unless `merged` is False:
        where modules return stored outputs, equal rows may need different results.
        """
        if isinstance(rows, Tensor):
            rows = Merged.of(rows, self.equal_rows(rows, examples) if merged and inside is None else None)
        shared, backward = rows.shared, gradient or layer_gradients or also is not None
        with torch.set_grad_enabled(backward):
            leaf = rows.distinct.detach().requires_grad_(backward)
            outputs, scores, found = self.scored(leaf, examples, target, layers, inside, shared)
        graph = make_exact(scores)
        extra = also(outputs, scores) if also else {}
        count = self.run_on(len(leaf))
        kept = rows_first({name: found[name] for name in layers}, count) | dict(extra)
        slopes = layer_gradients or len(extra) > 1
        by_rows = {name: partial(self._by_rows, name, count) for name in kept}
        sources: list[Source] = [(leaf, _as_it_is)] if gradient else []
        sources += [(value, by_rows[name]) for name, value in kept.items()] if slopes else []
        # Without the copies that fill up a pass.
        own: slice | Tensor = slice(len(leaf)) if shared is None else shared.index
        try:
            grads = row_gradients(graph, sources, examples, shared) if sources else []
            self.backward_rows += max(len(scores), self._rows_taken.least) if sources else 0
        except NoGradient:
            if gradient or layer_gradients:
                raise
            grads, slopes = [], False  # the gradient was to help a choice alone
        return Outcome(
            detached(outputs),
            scores.detach(),
            grads[0].contiguous() if gradient else None,
            {name: by_rows[name](value)[own].detach() for name, value in kept.items()},
            dict(zip(kept, [grad[: len(scores)] for grad in grads[int(gradient) :]], strict=True)) if slopes else {},
            shared,
        )

    def equal_rows(self, rows: Tensor, examples: Tensor) -> SharedRows | None:
        """Return which neighbouring rows of these examples `(rows,)` are equal, where examples have several targets.

        None where all are distinct. Rows of different inputs are, where the model gets more than them.
        """
        if self.targets == 1 or len(rows) < 2:
            return None
        return SharedRows.find(rows, examples.to(rows.device) // self.targets if self.given else None)

    def _by_rows(self, name: str, rows: int, tensor: Tensor) -> Tensor:
        """View a layer's tensor with these rows as its first axis."""
        frames = self.frames.get(name)
        return tensor if frames is None or len(tensor) == rows else frames.unfolded(tensor)

    @property
    def frames(self) -> dict[str, Frames | None]:
        """The frames that layers have in their rows, by name, as far as that was asked; None for other layers."""
        key = ("frames", tuple(self._inputs.shape[1:]))
        found: dict[str, Frames | None] = self.copy.searched.setdefault(key, {}) if self.differentiable else {}
        return found

    def _find_frames(self, name: str, rows: Tensor, examples: Tensor) -> None:
        """Find what a layer has in its rows, by a pass that follows every operator."""
        searching = search_layers(self.modules, tuple(rows.shape[1:]))
        with torch.no_grad(), carrying(self.given, examples), searching as search:
            self.outputs(rows.detach())
        search.rows = self.run_on(len(rows))
        self.count(search.rows)
        self.frames[name] = search.frames(name)
        search.release()

    def scored(
        self,
        leaf: Tensor,
        examples: Tensor,
        target: Target,
        layers: tuple[str, ...] = (),
        inside: LayerInput | None = None,
        shared: SharedRows | None = None,
    ) -> tuple[Any, Tensor, dict[str, Tensor]]:
        """Call the model on `leaf`: its outputs, the scores, and the outputs of the layers and the target's layer.

        With `shared` the leaf holds the distinct rows, which the outputs are of; scores are of all rows.
        """
        wanted = tuple(dict.fromkeys((*layers, *filter(None, [target.layer]))))
        with ExitStack() as stack:
            stack.enter_context(carrying(self.given, examples if shared is None else examples[shared.first]))
            if self.given and self.given.embedding:
                rows, at = self._rows_taken.padded(leaf).transpose(1, -1), self.given.embedding
                stack.enter_context(LayerInput(at, leaf).replaced(self.modules, rows, {at: None}))
            # In this order, a layer that is both replaced and captured has its replacement captured.
            if inside:
                stack.enter_context(inside.replaced(self.modules, self._rows_taken.padded(leaf), self.frames))
            count = self.run_on(len(leaf))
            found = stack.enter_context(captured(self.modules, wanted, count, self.frames)) if wanted else {}
            whole = None if wanted or inside else self.compiling.program
            outputs = self.outputs(inside.inputs if inside else leaf, whole)
            for note in target.notes(outputs, len(examples)):
                self._note(note)
            outputs = outputs if shared is None else output_tensor(outputs)
            read = found[target.layer] if target.layer else outputs
            scores = read_shared(self.scores, read, shared, examples, target)
        self.count(self.run_on(len(leaf)))
        return outputs, scores, found

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self._notes.append(text)

    def run_on(self, rows: int) -> int:
        """Return the number of rows that the model runs on for so many: some programs take no fewer than theirs."""
        return max(rows, self._rows_taken.least)

    def outputs(self, leaf: Tensor, program: CompiledRows | None = None) -> Any:
        """Call the model, or the program that was compiled of it, on rows; return its outputs for them, uncounted."""
        if program is None:
            outputs = self._rows_taken.cut(self._call(self._rows_taken.padded(leaf)), len(leaf))
        else:
            outputs = program(leaf)
            self.compiling.rows += len(leaf)
        squeezed = len(leaf) == 1 and isinstance(outputs, Tensor) and outputs.ndim < 2 and outputs.shape != (1,)
        return outputs[None] if squeezed and not self._unbatched else outputs

    def _call(self, leaf: Tensor) -> Any:
        # The model gets its own copy of the rows, since its first operation may be in place. Gradients are taken in the
        # contiguous layout: another order of additions flips units at their kinks, and the map would differ from the
        # model's own backward pass.
        fast = self.packing.weights is not None or (self._channels_last and not torch.is_grad_enabled())
        try:
            layout = torch.channels_last if fast else torch.contiguous_format
            with self.packing.installed(), users_tensors():
                return self.call(leaf.clone(memory_format=layout))
        except NotPacked as reason:
            raise _LayoutRefused(str(reason)) from reason
        except _SHAPE_ERRORS as error:
            if "numpy() on Tensor that requires grad" in str(error):
                raise NoGradient(NO_GRADIENT) from error
            if fast and "view size is not compatible" in str(error):
                raise _LayoutRefused(_MEMORY) from error  # x.view(...) on a map: the model assumes contiguous memory
            # For a wrong shape torch raises these types themselves; their subclasses have their own messages.
            if self._unbatched and type(error) in _SHAPE_ERRORS and not is_out_of_memory(error):
                raise ValueError(self._unbatched) from error
            raise

    def scores(self, outputs: Any, examples: Tensor, target: Target) -> Tensor:
        """Return the scores of rows of these examples, one each. Raises as `read_scores`."""
        if isinstance(target, Confidence) and target.kinds is None:
            require_rows(outputs, examples, self._unbatched)
            target = target.read(outputs, examples, self.declared, self.outputs_made_by)
        return read_scores(outputs, examples, target, self._unbatched)

    def count(self, rows: int) -> None:
        """Count a pass of so many rows that the model ran on."""
        self._unbatched = ""  # the model accepts such inputs
        cached = self.asking.take_cached()
        self.forward_rows += rows - cached
        self.cached_rows += cached
        self.most_rows = max(self.most_rows, rows)
        if self._progress:
            self._progress(rows)

    # Many rows ------------------------------------------------------------------------------------

    def safely(
        self, rows: Tensor, examples: Tensor, run: Callable[[Tensor, Tensor], T], owners: Tensor | None = None
    ) -> Iterator[T]:
        """Run rows in passes within the budget; out of memory, halve the budget and continue.

        With `owners` `(rows,)`, the rows' examples, equal rows that `once` merges count as one row of a pass.
        """
        merged = Merged.of(rows, None if owners is None else self.equal_rows(rows, owners))
        return self.in_passes(merged, examples, lambda part, own: run(part.rows, own))

    def in_passes(self, rows: Merged, examples: Tensor, run: Callable[[Merged, Tensor], T]) -> Iterator[T]:
        """Run merged rows as `safely` does."""
        start = 0
        while start < len(rows):
            size = min(rows.fitting(start, self.budget, len(rows), at_least=True), self.sizes.in_all)
            part, own = rows.part(start, size), examples[start : start + size]
            try:
                outcome = run(part, own)
            except _LayoutRefused as reason:
                if self.packing.weights is not None:
                    self.packing.refuse(str(reason))
                else:
                    self._channels_last = False
                continue
            except FoldedRows as layer:
                self._find_frames(str(layer), part.rows, own)
                continue
            except PassAgain:
                self.copy.require_agreement(part.distinct)
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._notes.append(self.sizes.halve(part, error))
                continue
            start += size
            yield outcome

    def stream(
        self,
        points: Iterable[Tensor | tuple[Tensor, Tensor]],
        examples: Tensor,
        target: Target,
        gradient: bool,
        inside: LayerInput | None = None,
        once: Callable[[Tensor, Tensor, Target], Outcome] | None = None,
    ) -> Iterator[Rows]:
        """Evaluate a lazy stream of batches, see `full_passes`, all rows packed into full passes.

        Equal rows of a batch, which several targets share, are run once. `once` computes a pass in place of the method
        of that name.
        """

        def run(rows: Merged, places: Tensor) -> Outcome:
            if once is not None:
                return once(rows.rows, examples[places], target)
            return self.once(rows, examples[places], target, gradient, inside=inside.at(places) if inside else None)

        def equal(rows: Tensor, places: Tensor) -> SharedRows | None:
            return None if inside or once else self.equal_rows(rows, examples[places])

        for each in full_passes(points, lambda: self.budget, equal, _READERS if gradient else None):
            done = 0
            for outcome in self.in_passes(each.rows, each.position, run):
                part = slice(done, done + len(outcome.scores))
                done = part.stop
                yield Rows(each.step[part], each.position[part], outcome.scores, outcome.gradient)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
