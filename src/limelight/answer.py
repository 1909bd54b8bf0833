"""Answering one question: what the methods share is worked out once, then each method makes its map."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .base.attribution import Attribution, Panel
from .base.notes import Note, notes_of, renumbered
from .base.version import versions
from .engine.input_pass import InputPass, input_pass
from .engine.layers import layer_name, layer_names
from .engine.runner import Runner
from .engine.score import Score
from .methods import METHODS, Estimate, Method
from .methods.base import OwnScores
from .question.output_targets import Neuron
from .question.per_example import for_examples
from .question.question import Question
from .question.random_streams import Streams
from .question.targets import ClassTarget, Logit, Target

SHORTFALL = 0.05  # of f(x) - f(baseline); a map that misses more carries a caution
_OTHER_DRAWS = "the random numbers are those of other examples (draws_of=)"


def answer(question: Question, methods: Sequence[Method]) -> Panel:
    """Explain the question's inputs by each method. Raises what `explain` raises."""
    _require_module(question, methods)
    question.require_every_example(*methods)
    streams = question.streams()
    references, classes, owners = question.references(streams), question.classes, question.owners()
    flat, asking, shares = question.flat(), list(methods), classes is not None
    if classes is not None:
        # As many questions about each example: it is repeated, and the passes run equal rows once.
        references, streams = _repeated(references, classes), streams.select(owners)
        asking = [for_examples(each, owners, question.inputs) for each in methods]
    with Runner(question.model, flat.inputs, question.rows_per_pass, question.progress, shares) as runner:
        layers = _layers(runner, flat)
        answers = Answers(runner, flat, asking, references, layers)
        attributions = [answers.by(each, streams.fork(each.kebab())) for each in asking]
    if question.draws_of is not None and not torch.equal(question.draws_of, question.inputs):
        note = Note("fact", _OTHER_DRAWS)
        attributions = [replace(each, notes=(*each.notes, note)) for each in attributions]
    if classes is not None:
        attributions = [
            _with_target_axis(replace(each, method=method), question, classes)
            for each, method in zip(attributions, methods, strict=True)
        ]
    return Panel(attributions, runner.forward_rows, runner.backward_rows)


def _repeated(references: Tensor, times: int) -> Tensor:
    """`(references, n, *features)` with each example repeated; what all examples share stays shared."""
    if references.stride(1) == 0:
        return references[:, :1].expand(-1, times * references.shape[1], *references.shape[2:])
    return references.repeat_interleave(times, 1)


def _with_target_axis(a: Attribution, question: Question, classes: int) -> Attribution:
    """The answers about a flat batch of examples x classes, with the classes as the second axis."""
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
        stderr=None if a.stderr is None else shaped(a.stderr),
        spread=None if a.spread is None else shaped(a.spread),
        outputs=None if a.outputs is None else a.outputs[::classes],
        notes=renumbered(a.notes, lambda row: divmod(row, classes)),
    )


def _require_module(question: Question, methods: Sequence[Method]) -> None:
    model = question.model
    if isinstance(model, nn.Module):
        return
    refused = [method.kebab() for method in methods if method.needs.gradients or method.needs.layer]
    if refused:
        free = [kind.kebab() for kind in METHODS if not (kind().needs.gradients or kind().needs.layer)]
        raise TypeError(
            f"model: {type(model).__name__} is a black box, and {', '.join(refused)} needs gradients or layers of "
            f"a torch.nn.Module; methods that need none: {', '.join(free)}. A differentiable function can be wrapped: "
            "limelight.Differentiable(function)"
        )
    if question.target.layer or question.layer is not None:
        raise TypeError("layer: a black box has no layers; pass the torch.nn.Module itself")


def _layers(runner: Runner, question: Question) -> tuple[str, ...]:
    target, layer, model = question.target, question.layer, question.model
    if isinstance(target, Neuron):
        layer_name(runner.module, target.at)
    if layer is None:
        return ()
    assert isinstance(model, nn.Module)
    return layer_names(model, layer)


class Answers:
    """The methods' answers to one question: the input pass and the baseline's scores are made once for all."""

    def __init__(
        self,
        runner: Runner,
        question: Question,
        methods: Sequence[Method],
        references: Tensor,
        layers: tuple[str, ...],
    ) -> None:
        self.runner, self.question, self.references = runner, question, references
        self.x = x = question.inputs
        target = question.target
        needs = [method.needs for method in methods]
        # Told once the class is known, by passes that hold the whole batch as far as is known by now.
        self._told = {method.kebab() for method in methods if method.needs.own_scores and len(x) <= runner.budget}
        self._chosen = isinstance(target, ClassTarget) and target.index is None  # a pass at x has to tell the class
        examples = torch.arange(len(x), device=x.device)
        self.clean: InputPass
        self.at_references: Tensor | None = None
        self.baseline_rows = 0
        self._probed = False
        self._lone = len(methods) == 1 and bool(self._told) and not self._chosen
        if self._lone:  # the method's own passes will tell all that is reported
            self.score = Score(runner, target, examples)
            return
        self.clean = input_pass(
            runner,
            x,
            target,
            gradient=any(each.at_inputs and not each.layer for each in needs),
            layers=layers,
            read_layer=any(each.layer for each in needs),
            layer_gradient=any(each.at_inputs and each.layer for each in needs),
            measure=len(x) > runner.budget or any(method.rows(x.shape[1:]) != 1 for method in methods),
        )
        self.score = Score(
            runner,
            self.clean.target,
            examples,
            self.clean.layers,
            x,
            self.clean.scores,
            self.clean.gradient,
            self.clean.activations,
        )
        compares = any(method.needs.baseline and method.kebab() not in self._told for method in methods)
        if compares:
            self._compare()
        elif len(x) > 1:
            self._probe_a_neighbour()

    def by(self, method: Method, rng: Streams) -> Attribution:
        before, start = _Cost.of(self.runner), time.perf_counter()
        self.runner.most_rows = 0
        estimate, spread = self._estimate(method, rng)
        mixed = self.runner.most_rows > 1  # rows of different points or examples stood in one pass
        if self._lone:
            self.clean = _learnt(self.score.target, estimate)
        own = _Cost.of(self.runner) - before
        at_baseline = self._at_baseline(method, estimate) if method.needs.baseline else None
        if mixed and not self._probed:
            self._probe_a_neighbour()
        cost = own + self._share(method, estimate, mixed)
        seconds = time.perf_counter() - start
        _require_finite(estimate, method)
        target = self.clean.target
        notes: list[str] = [*self.runner.notes, *estimate.notes]
        if method.needs.layer:
            notes += self.clean.notes
        silent = (estimate.values.flatten(1) == 0).all(1)
        notes += [Note("zero-map", "the map is identically zero", i) for i in silent.nonzero()[:, 0].tolist()]
        if at_baseline is not None and method.no_sum is None:
            notes += _missed(estimate, self.clean.scores, at_baseline)
        nan = torch.full_like(self.clean.scores, torch.nan)
        return Attribution(
            values=estimate.values,
            raw=estimate.raw,
            inputs=self.x,
            target=torch.tensor(target.listed(len(self.x))) if type(target) is Logit else target,
            score=self.clean.scores,
            baseline_score=nan if at_baseline is None else at_baseline,
            stderr=estimate.stderr,
            spread=spread,
            forward_rows=cost.forward,
            backward_rows=cost.backward,
            method=method,
            baseline=self.question.baseline,
            layer=self.clean.layer if method.needs.layer else estimate.layer,
            seed=self.question.seed,
            versions=versions(),
            notes=notes_of(notes),
            outputs=self.clean.outputs,
            complete=method.no_sum is None,
            seconds=seconds,
        )

    def _estimate(self, method: Method, rng: Streams) -> tuple[Estimate, Tensor | None]:
        """The method's estimate; over several references, their mean and standard deviation."""
        if method.needs.references:
            return _checked(method.run(self.score, self.x, self.references, rng), method, self.x), None
        if not method.needs.baseline:
            return _checked(method.run(self.score, self.x, self.references[0], rng), method, self.x), None
        count = len(self.references)
        found = []
        for k, reference in enumerate(self.references):
            at_baseline = None if self.at_references is None else self.at_references[k]
            score = replace(self.score, baseline=reference, at_baseline=at_baseline)
            draws = rng.fork(f"reference {k}") if k else rng  # its own, so that errors average out as the maps do
            found.append(_checked(method.run(score, self.x, reference, draws), method, self.x))
        if count == 1:
            return found[0], None
        values = torch.stack([each.values for each in found])
        spread = values.std(0)
        scatter = ", that of the samples included" if any(each.stderr is not None for each in found) else ""
        notes: list[str] = [f"mean over {count} references; spread is their standard deviation{scatter}"]
        notes += [Note.of(note).after(f"reference {k}: ") for k, each in enumerate(found) for note in each.notes]
        errors = [each.stderr for each in found if each.stderr is not None]
        # What the maps scatter by holds the references' share of the error and the samples'; the latter alone is known
        # better where there are few references.
        inner = torch.stack(errors).square().mean(0) if errors else torch.zeros_like(spread)
        raws = [each.raw for each in found if each.raw is not None]
        stderr = (torch.maximum(spread.square(), inner) / count).sqrt()
        raw = torch.stack(raws).mean(0) if raws else None
        told = _mean([each.own_scores for each in found])
        return Estimate(values.mean(0), stderr, raw, tuple(notes), told, found[0].layer), spread

    def _at_baseline(self, method: Method, estimate: Estimate) -> Tensor:
        """f(b) `(n,)`, over several references their mean: what the method's passes told, or passes of our own."""
        own = estimate.own_scores
        if own is not None and own.at_baseline is not None and method.kebab() in self._told:
            return own.at_baseline
        if self.at_references is None:
            self._compare()
        assert self.at_references is not None
        return self.at_references.mean(0)

    def _compare(self) -> None:
        before = self.runner.forward_rows
        self.at_references = self._at_references()
        self.baseline_rows = self.runner.forward_rows - before

    def _at_references(self) -> Tensor:
        """Scores `(references, batch)`; a reference shared by all examples is evaluated once for each class."""
        own = torch.arange(len(self.x))
        if type(self.clean.target) is Logit:
            classes = self.clean.target.listed(len(self.x))
            same = torch.tensor([classes.index(each) for each in classes])
        else:
            same = own
        owner = [same if reference.stride(0) == 0 else own for reference in self.references]
        asked = [each.unique() for each in owner]
        rows = torch.cat([reference[some] for reference, some in zip(self.references, asked, strict=True)])
        found = self._probe(rows, torch.cat(asked).tolist()).split([len(some) for some in asked])
        return torch.stack(
            [part[torch.searchsorted(some, each)] for part, some, each in zip(found, asked, owner, strict=True)]
        )

    def _probe_a_neighbour(self) -> None:
        """The probe where no baseline keeps it company: beside the other examples, or a single one beside itself
        mirrored."""
        self._probe(self.x.flip(-1) if len(self.x) == 1 else self.x[:0], [0] * (len(self.x) == 1))

    def _probe(self, company: Tensor, examples: list[int]) -> Tensor:
        """Scores of `company`, run beside example 0, whose score must not change by that.

        Rows of all examples are packed together, so a model that looks at a row's neighbours would be explained
        wrongly without a word. The check costs one row.
        """
        self._probed = True
        scores = self.score.select([*examples, 0]).stream_values([torch.cat([company, self.x[:1]])])[0]
        first, again = self.clean.scores[0], scores[-1]
        half = first.dtype in (torch.float16, torch.bfloat16)
        scale = float(self.clean.scores.abs().amax().clamp(min=1e-3))
        if abs(float(again - first)) > (1e-2 if half else 1e-3) * scale:
            raise ValueError(
                f"model: the score of example 0 is {float(first):.6g} in its batch of {len(self.x)} but "
                f"{float(again):.6g} among {len(company)} other rows: the output depends on the rest of the batch "
                "(normalisation over the batch axis?) or is random (dropout in a callable?); an explanation needs "
                "one answer per row"
            )
        return scores[:-1]

    def _share(self, method: Method, estimate: Estimate, mixed: bool) -> _Cost:
        """What this method would have paid of the shared passes on its own."""
        needs, told = method.needs, method.kebab() in self._told
        compares = needs.baseline and not (told and estimate.own_scores and estimate.own_scores.at_baseline is not None)
        compared = self.baseline_rows if compares else self._probe_rows(mixed)
        if self._lone:
            return _Cost(compared, 0)
        if told:
            return _Cost(self.clean.rows * self._chosen + compared, 0)
        backward = needs.at_inputs or (needs.layer and self.clean.chosen_by_gradient)
        reread = self.clean.reread_rows if needs.layer else 0
        return _Cost(self.clean.rows + compared + reread, len(self.x) + reread if backward else 0)

    def _probe_rows(self, mixed: bool) -> int:
        """Rows of the probe where no baseline keeps it company: none where no pass held more than one row."""
        return 1 if len(self.x) > 1 else 2 * mixed


def _learnt(target: Target, estimate: Estimate) -> InputPass:
    """What a lone method's own passes told, in place of a clean pass."""
    told = estimate.own_scores
    assert told is not None
    return InputPass(target, told.at_inputs, told.outputs, None)


def _mean(told: list[OwnScores | None]) -> OwnScores | None:
    """What the passes of several references told together."""
    first, at_baseline = told[0], [each.at_baseline for each in told if each and each.at_baseline is not None]
    if first is None:
        return None
    return replace(first, at_baseline=torch.stack(at_baseline).mean(0) if len(at_baseline) == len(told) else None)


@dataclass(frozen=True)
class _Cost:
    forward: int
    backward: int

    @staticmethod
    def of(runner: Runner) -> _Cost:
        return _Cost(runner.forward_rows, runner.backward_rows)

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(self.forward + other.forward, self.backward + other.backward)

    def __sub__(self, other: _Cost) -> _Cost:
        return _Cost(self.forward - other.forward, self.backward - other.backward)


def _checked(found: Any, method: Method, x: Tensor) -> Estimate:
    """The estimate that a method's `run` gave for x. TypeError where it is none, ValueError for another shape."""
    if not isinstance(found, Estimate) or not isinstance(found.values, Tensor):
        got = f"Estimate(values={type(found.values).__name__})" if isinstance(found, Estimate) else type(found).__name__
        raise TypeError(f"method: {type(method).__name__}.run gave {got}; it must return Estimate(values=a tensor)")
    shape, wanted = tuple(found.values.shape), [tuple(x.shape)]
    if x.ndim > 2:
        wanted.append((len(x), 1, *x.shape[2:]))  # channels count as one
    if shape not in wanted and (found.layer is None or shape[:1] != (len(x),)):  # a layer's own shape may be any
        raise ValueError(
            f"method: {type(method).__name__}.run gave values of shape {shape} for inputs {tuple(x.shape)}; they must "
            f"be {' or '.join(map(str, wanted))}"
        )
    if method.needs.own_scores and found.own_scores is None:
        raise ValueError(
            f"method: {type(method).__name__}.run told no scores, as needs.own_scores promises; use "
            "own_scores=OwnScores(...)"
        )
    if found.stderr is not None and found.stderr.shape != found.values.shape:
        raise ValueError(
            f"method: {type(method).__name__}.run gave a stderr of shape {tuple(found.stderr.shape)} for values of "
            f"shape {shape}; they must be alike"
        )
    return found


def _require_finite(estimate: Estimate, method: Method) -> None:
    bad = (~torch.isfinite(estimate.values)).flatten(1).any(1)
    if bool(bad.any()):
        which = ", ".join(map(str, bad.nonzero()[:, 0].tolist()))
        raise FloatingPointError(f"map of {method!r}: NaN or infinity for example {which}")


def _missed(estimate: Estimate, at_x: Tensor, at_baseline: Tensor) -> list[Note]:
    """A caution for each example whose values miss the promised sum by more than SHORTFALL of it."""
    change = at_x.double() - at_baseline.double()
    share = (estimate.values.double().flatten(1).sum(1) - change).abs() / change.abs()
    return [
        Note(
            "incomplete",
            f"INCOMPLETE, the values miss f(x) - f(baseline) by {float(share[i]):.0%}: take more nodes or samples, or "
            "set tolerance=",
            i,
        )
        for i in (share > SHORTFALL).nonzero()[:, 0].tolist()
    ]
