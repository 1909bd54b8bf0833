"""The answer to one question: shared passes run once, then each method computes its map."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .base.attribution import Attribution, Panel
from .base.errors import NoGradient
from .base.notes import Note, notes_of, renumbered
from .base.steadiness import steadiness_of
from .base.types import RowArithmetic
from .base.version import versions
from .engine.input_pass import InputPass, input_pass
from .engine.layers import layer_name, layer_names, modules_of
from .engine.proof import tolerance
from .engine.rounding import rounding
from .engine.runner import Runner
from .engine.score import Score
from .methods import METHODS, Estimate, Method
from .methods.backward import in_half_precision
from .methods.checked import checked, level, missed, over_references, require_finite
from .methods.of_texts import refuse_paths_from_cut, within_texts
from .methods.two_precision import Precisions
from .models.black_box import BlackBox, Differentiable
from .question.output_targets import Neuron
from .question.per_example import fitted, for_examples, named, rebuilt
from .question.question import Question
from .question.random_streams import Streams
from .question.readings import Reading, read_outputs
from .question.targets import ClassTarget, Confidence, Logit

PACKED_FROM = {True: 16, False: 32}  # rows of one example, with and without gradients, that repay packing and its proof
_WRAP = "a function of NumPy arrays goes into limelight.BlackBox(f); "
_OTHER_DRAWS = "the random numbers are those of other examples (draws_of=)"


def answer(question: Question, methods: Sequence[Method]) -> Panel:
    """Explain the question's inputs by each method. Raises the errors of `explain`."""
    if question.given.embedding or question.texts:
        methods = [fitted(rebuilt(each, _of_tokens), question.model) for each in methods]
        refuse_paths_from_cut(question, methods)
    methods = [named(each, question.names) for each in methods]
    question = _with_module(question, methods)
    question.require_every_example(*methods)
    streams = question.streams()
    references, classes, owners = question.references(streams), question.classes, question.owners()
    flat, flat_methods, targets = question.flat(), list(methods), classes or 1
    if classes is not None:
        # Each example is repeated for its classes; the passes run equal rows once.
        references, streams = _repeated(references, classes), streams.select(owners)
        flat_methods = [for_examples(each, owners, question.inputs) for each in methods]
    try:
        with Runner(
            question.model, flat.inputs, question.rows_per_pass, question.progress, targets, flat.outputs, flat.given
        ) as runner:
            layers = _layers(runner, flat)
            runner.packing.apart = layers  # read or not, so that no map depends on which others are asked for
            gradients = any(method.needs.gradients for method in methods) or runner.packing.is_kept
            compiles = runner.compiling.wanted() if question.arithmetic is None else nullcontext()
            with compiles, runner.packing.wanted(gradients) if _packs_all(runner, question) else nullcontext():
                answers = Answers(runner, flat, flat_methods, references, layers)
                attributions = [answers.by(each, streams.fork(each.kebab())) for each in flat_methods]
    except NoGradient as error:
        cure = _WRAP if isinstance(question.model, Differentiable) else ""
        raise NoGradient(f"{error}; {cure}methods that need none: {_without_gradients()}") from error
    if question.draws_of is not None and not torch.equal(question.draws_of, question.inputs):
        note = Note("fact", _OTHER_DRAWS)
        attributions = [replace(each, notes=(*each.notes, note)) for each in attributions]
    if classes is not None:
        attributions = [
            _with_target_axis(replace(each, method=method), question, classes)
            for each, method in zip(attributions, methods, strict=True)
        ]
    return Panel(attributions, runner.forward_rows, runner.backward_rows, cached_rows=runner.cached_rows)


def _of_tokens(part: Any) -> Any:
    return part.of_tokens() if isinstance(part, Method) else part


def _packs_all(runner: Runner, question: Question) -> bool:
    """Whether every pass is packed: where the call says so, or the model was prepared and its rows repay it."""
    prepared = question.arithmetic is None and runner.packing.is_kept and runner.packing.repays
    return question.arithmetic == "packed" or prepared


def _repeated(references: Tensor, times: int) -> Tensor:
    """Repeat each example of `(references, n, *features)`; references that all examples share stay shared."""
    if references.stride(1) == 0:
        return references[:, :1].expand(-1, times * references.shape[1], *references.shape[2:])
    return references.repeat_interleave(times, 1)


def _with_target_axis(a: Attribution, question: Question, classes: int) -> Attribution:
    """Split the batch axis of examples x classes into two axes."""
    inputs, target = question.inputs, question.target

    def shaped(values: Tensor) -> Tensor:
        return values.reshape(len(inputs), classes, *values.shape[1:])

    return replace(
        a,
        values=shaped(a.values),
        raw=None if a.raw is None else shaped(a.raw),
        inputs=inputs,
        baseline=question.baseline,
        target=torch.tensor(target.index) if type(target) is Logit else target,
        score=shaped(a.score),
        baseline_score=shaped(a.baseline_score),
        raw_stderr=None if a.raw_stderr is None else shaped(a.raw_stderr),
        stderr=None if a.stderr is None else shaped(a.stderr),
        steadiness=None if a.steadiness is None else shaped(a.steadiness),
        spread=None if a.spread is None else shaped(a.spread),
        outputs=None if a.outputs is None else a.outputs[::classes],
        output_kinds=a.output_kinds[::classes],
        notes=renumbered(a.notes, lambda row: divmod(row, classes)),
        texts=question.given.texts,
    )


def _with_module(question: Question, methods: Sequence[Method]) -> Question:
    """Return the question with a module where a method needs one. Raises TypeError for a black box."""
    model = question.model
    if isinstance(model, nn.Module):
        return question
    gradients = [method.kebab() for method in methods if method.needs.gradients or method.needs.layer]
    if gradients and isinstance(model, BlackBox):
        raise TypeError(
            f"model: {type(model).__name__} is a black box, and {', '.join(gradients)} needs gradients or layers of "
            f"torch operations; methods that need none: {_without_gradients()}"
        )
    if question.target.layer or question.layer is not None:
        raise TypeError("layer: this callable has no layers; pass the torch.nn.Module itself")
    return question.with_model(Differentiable(model)) if gradients else question


def _without_gradients() -> str:
    return ", ".join(kind.kebab() for kind in METHODS if not (kind().needs.gradients or kind().needs.layer))


def _layers(runner: Runner, question: Question) -> tuple[str, ...]:
    target, layer, model = question.target, question.layer, question.model
    if isinstance(target, Neuron):
        layer_name(runner.modules, target.at)
    if layer is None:
        return ()
    assert isinstance(model, nn.Module)
    if isinstance(layer, str) and layer in runner.modules and layer:
        return (layer,)
    return layer_names({**runner.modules, **modules_of(model)}, layer)


class Answers:
    """Maps of several methods for one question; the input pass and the baseline's scores are computed once."""

    def __init__(
        self, runner: Runner, question: Question, methods: Sequence[Method], references: Tensor, layers: tuple[str, ...]
    ) -> None:
        self.runner, self.question, self.references = runner, question, references
        self.x = x = question.inputs
        target = question.target
        needs = [method.needs for method in methods]
        # Methods that return f(x) from their own passes, which they can where a pass holds the whole batch.
        self._own_scores = {method.kebab() for method in methods if method.needs.own_scores and len(x) <= runner.budget}
        self._top_class = isinstance(target, ClassTarget) and target.index is None  # read from a pass at x
        examples = torch.arange(len(x), device=x.device)
        self.at_references: Tensor | None = None
        self.baseline_rows = np.zeros(3, dtype=int)  # forward, backward and cached, as `_rows_run`
        self._rounded: list[Note] = []
        self._rows_compared = question.apart
        self._compared = np.array([0 if question.apart else 1 if len(x) > 1 else 2, 0, 0])
        self._precisions = Precisions(runner, x, question.arithmetic)
        # What an example's outputs are is read at x, and not from whatever rows a method runs.
        unread = isinstance(target, Confidence) and target.kinds is None
        self._alone = len(methods) == 1 and bool(self._own_scores) and not self._top_class and not unread
        if self._alone:  # no shared pass is needed
            self.score = Score(runner, target, examples)
            return
        cached = runner.cached_rows
        gradient, reads = any(each.at_inputs and not each.layer for each in needs), any(each.layer for each in needs)
        of_layers = [each.gradients for each in needs if each.at_inputs and each.layer]
        several = len(x) > runner.budget or any(method.rows(x.shape[1:]) != 1 for method in methods)
        measure = several and runner.sizes.fixed is None
        run = partial(input_pass, runner, x, target, gradient=gradient, layers=layers, measure=measure)
        try:
            at_x = run(read_layer=reads, layer_gradient=bool(of_layers))
        except NoGradient:
            if gradient or any(of_layers):
                raise
            at_x = run(read_layer=reads, layer_gradient=False)
        self.input_pass = at_x
        self._cached_at_inputs = runner.cached_rows - cached
        known = (at_x.layers, x, at_x.scores, at_x.gradient, at_x.activations)
        self.score = Score(runner, at_x.target, examples, *known, classes=at_x.classes)
        compares = any(method.needs.baseline and method.kebab() not in self._own_scores for method in methods)
        if compares:
            self._score_references()
        elif len(x) > 1 and not question.apart:
            self._compare_rows()

    def by(self, method: Method, rng: Streams) -> Attribution:
        """Return the method's attribution."""
        start = time.perf_counter()
        bfloat16, told = self._precisions.rows(method, self.score.target)
        before = _rows_run(self.runner)
        self.runner.most_rows = 0
        in_bfloat16, compiled = bfloat16.rows if bfloat16 else 0, self.runner.compiling.rows
        with self.runner.packing.wanted(method.needs.gradients) if self._packs(method) else nullcontext():
            estimate, spread = self._estimate(method, replace(self.score, bfloat16=bfloat16), rng)
            estimate, spread = within_texts(self.question, method, estimate, spread)
            arithmetic: RowArithmetic = "packed" if self.runner.packing.weights is not None else "plain"
        if self.runner.compiling.rows > compiled:
            arithmetic = "compiled"
        if bfloat16 is not None and bfloat16.rows > in_bfloat16:
            arithmetic = "two-precision"
        mixed = self.runner.most_rows > 1  # a pass held several rows
        if self._alone:
            assert estimate.own_scores is not None
            self.input_pass = InputPass(
                self.score.target, estimate.own_scores.at_inputs, estimate.own_scores.outputs, None
            )
        own = _rows_run(self.runner) - before + [int(bfloat16 is not None), 0, 0]  # the row that it was tried on
        at_baseline = self._at_baseline(method, estimate) if method.needs.baseline else None
        if mixed and not self._rows_compared:
            self._compare_rows()
        forward, backward, cached = (own + self._shared_rows(method, estimate, mixed)).tolist()
        seconds = time.perf_counter() - start
        require_finite(estimate, method)
        target = self.input_pass.target
        reading = self.reading
        notes: list[str] = [*self.runner.notes, *self._rounded, *told, *estimate.notes]
        notes += reading.notes(isinstance(target, Confidence)) if reading else []
        notes += in_half_precision(method, self.runner.precision)
        if method.needs.layer:
            notes += self.input_pass.notes
        silent = (estimate.values.flatten(1) == 0).all(1)
        notes += [Note("zero-map", "the map is identically zero", i) for i in silent.nonzero()[:, 0].tolist()]
        notes += estimate.shares.notes() if estimate.shares else ()
        notes += level(estimate) if method.needs.layer or estimate.layer else ()
        if at_baseline is not None and method.no_sum is None:
            notes += missed(estimate, self.input_pass.scores, at_baseline, method, self.runner.precision)
        nan = torch.full_like(self.input_pass.scores, torch.nan)
        return Attribution(
            values=estimate.values,
            raw=estimate.raw,
            inputs=self.x,
            target=torch.tensor(target.listed(len(self.x))) if type(target) is Logit else target,
            score=self.input_pass.scores,
            baseline_score=nan if at_baseline is None else at_baseline,
            stderr=estimate.stderr,
            steadiness=steadiness_of(*estimate.halves, method.view).columns() if estimate.halves else None,
            raw_stderr=estimate.raw_stderr,
            spread=spread,
            forward_rows=forward,
            backward_rows=backward,
            method=method,
            baseline=self.question.baseline,
            layer=self.input_pass.layer if method.needs.layer else estimate.layer,
            seed=self.question.seed,
            versions=versions(),
            notes=notes_of(notes),
            outputs=self.input_pass.outputs,
            output_kinds=reading.kinds if reading else (),
            complete=method.no_sum is None,
            seconds=seconds,
            arithmetic=arithmetic,
            cached_rows=cached,
            names=self.question.names,
            texts=self.question.given.texts,
        )

    @property
    def reading(self) -> Reading | None:
        """What the outputs of each example are; None where they are no numbers for classes."""
        outputs = self.input_pass.outputs
        if outputs is None or outputs.ndim != 2 or not outputs.is_floating_point():
            return None
        return read_outputs(outputs, self.question.outputs, self.runner.outputs_made_by)

    def _packs(self, method: Method) -> bool:
        """Whether the method's own rows are packed, where the call leaves it to the library.

        By the settings of the method alone, and not by its company, its batch or what a pass holds: its map is the
        same in all of them.
        """
        many = method.rows_at_least(self.x.shape[1:]) >= PACKED_FROM[method.needs.gradients]
        return many and self.question.arithmetic is None and self.runner.packing.repays

    def _estimate(self, method: Method, score: Score, rng: Streams) -> tuple[Estimate, Tensor | None]:
        """Return the method's estimate, for several references the mean, and the standard deviation between them."""
        if method.needs.references or not method.needs.baseline:
            references = self.references if method.needs.references else self.references[0]
            return checked(method.run(score, self.x, references, rng), method, self.x), None
        count = len(self.references)
        found = []
        for k, reference in enumerate(self.references):
            at_baseline = None if self.at_references is None else self.at_references[k]
            compared = replace(score, baseline=reference, at_baseline=at_baseline)
            draws = rng.fork(f"reference {k}") if k else rng  # independent, so that errors average out
            found.append(checked(method.run(compared, self.x, reference, draws), method, self.x))
        if count == 1:
            return found[0], None
        return over_references(found)

    def _at_baseline(self, method: Method, estimate: Estimate) -> Tensor:
        """Return f(b) `(n,)`, for several references the mean, from the method's own passes or from shared ones."""
        own = self._own_at_baseline(method, estimate)
        if own is not None:
            return own
        if self.at_references is None:
            self._score_references()
        assert self.at_references is not None
        return self.at_references.mean(0)

    def _own_at_baseline(self, method: Method, estimate: Estimate) -> Tensor | None:
        own = estimate.own_scores if method.kebab() in self._own_scores else None
        return own.at_baseline if own else None

    def _score_references(self) -> None:
        """Compute scores `(references, batch)`; a reference shared by all examples is run once for each class."""
        before, own = _rows_run(self.runner), torch.arange(len(self.x))
        if type(self.input_pass.target) is Logit and not self.runner.given:
            classes = self.input_pass.target.listed(len(self.x))
            same = torch.tensor([classes.index(each) for each in classes])
        else:
            same = own
        owner = [same if reference.stride(0) == 0 else own for reference in self.references]
        run = [each.unique() for each in owner]
        rows = torch.cat([reference[some] for reference, some in zip(self.references, run, strict=True)])
        found = self._scores_beside_input(rows, torch.cat(run).tolist()).split([len(some) for some in run])
        parts = zip(found, run, owner, strict=True)
        self.at_references = torch.stack([part[torch.searchsorted(some, each)] for part, some, each in parts])
        self.baseline_rows = _rows_run(self.runner) - before

    def _compare_rows(self) -> None:
        """Check the model without a baseline: run example 0 alone, or a single example beside its mirror image."""
        before = _rows_run(self.runner)
        self._scores_beside_input(self.x.flip(-1) if len(self.x) == 1 else self.x[:0], [0] * (len(self.x) == 1))
        self._compared = _rows_run(self.runner) - before

    def _scores_beside_input(self, others: Tensor, examples: list[int]) -> Tensor:
        """Return the scores of `others`, and check that they do not change the score of example 0 in the same pass.

        Rows of all examples are packed together, so a model whose rows depend on each other would get wrong maps.
        The check costs one row, and is left out where that is known. Raises ValueError.
        """
        if self.question.apart:
            return self.score.select(examples).stream_values([others])[0]
        self._rows_compared = True
        rows, owners = torch.cat([others, self.x[:1]]), [*examples, 0]
        with self.runner.asking.on("again"):
            scores = self.score.select(owners).stream_values([rows])[0]
        first, again = self.input_pass.scores[0], scores[-1]
        scale = float(self.input_pass.scores.abs().amax().clamp(min=1e-3))
        if abs(float(again - first)) > max(1e-3, tolerance(self.runner.precision)) * scale:
            rounded = rounding(self.score, first, again, self.input_pass.outputs, rows, owners)
            if rounded is not None:
                self._rounded = [rounded]
                return scores[:-1]
            company = f"among {len(others)} other rows" if len(others) else "in a pass of its own"
            raise ValueError(
                f"model: the score of example 0 is {float(first):.6g} in its batch of {len(self.x)} but "
                f"{float(again):.6g} {company}: the output depends on the rest of the batch "
                "(normalisation over the batch axis?) or is random (dropout in a callable?); an explanation needs "
                "one answer per row"
            )
        return scores[:-1]

    def _shared_rows(self, method: Method, estimate: Estimate, mixed: bool) -> np.ndarray:
        """Return the (forward, backward, cached) rows of shared passes that this method needs."""
        needs = method.needs
        compares = needs.baseline and self._own_at_baseline(method, estimate) is None
        # Without a baseline the rows are those of the check in `_compare_rows`.
        compared: np.ndarray = self.baseline_rows if compares else self._compared * (len(self.x) > 1 or mixed)
        if self._alone:
            return compared
        if method.kebab() in self._own_scores:
            own = np.array([self.input_pass.rows * self._top_class, 0, 0])
        else:
            backward = needs.at_inputs or (needs.layer and self.input_pass.chosen_by_gradient)
            reread = self.input_pass.reread_rows if needs.layer else 0
            rows = self.input_pass.rows + reread
            own = np.array([rows, len(self.x) + reread if backward else 0, self._cached_at_inputs])
        total: np.ndarray = compared + own
        return total


def _rows_run(runner: Runner) -> np.ndarray:
    return np.array([runner.forward_rows, runner.backward_rows, runner.cached_rows])
