"""What a check runs on: a map of a batch, its question, and the means to explain it again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ..answer import answer
from ..base.arithmetic import decimals_of, rounding_of
from ..base.attribution import Attribution
from ..base.errors import NotApplicable
from ..base.types import Model
from ..engine.budget import MOST_ROWS
from ..engine.runner import Runner
from ..engine.score import Score
from ..methods import Method
from ..methods.backward import PatternMethod
from ..question.baselines import Baseline
from ..question.per_example import for_examples, rebuilt
from ..question.question import Question
from ..question.random_streams import Streams
from ..question.readings import Reading, alike, read_outputs
from ..question.registries import as_baseline, as_target
from ..question.targets import Logit, Probability, Target
from ..rules.patterns import fingerprint
from .shared import Asked, Shared, key_of

On = Literal["probability", "score"]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Case:
    """One map of a batch, with its question and the means to explain it again.

    `method` is None where a finished map was given. The question's target has its classes filled in, so that a check
    explains the same class whatever it does to the input or to the model. `score` runs the model on rows, and its
    runner counts all rows that the case has cost. `mask` is `(n, 1, H, W)`, booleans. `shared` is what the checks of
    the call share, `keeps_exhibits` whether they keep what can be looked at.
    """

    question: Question
    method: Method | None
    attribution: Attribution
    mask: Tensor | None
    score: Score
    rng: Streams
    shared: Shared = field(default_factory=Shared)
    keeps_exhibits: bool = False

    @property
    def x(self) -> Tensor:
        """The inputs `(n, *features)`."""
        return self.question.inputs

    @property
    def model(self) -> Model:
        return self.question.model

    @property
    def target(self) -> Target:
        return self.question.target

    def __len__(self) -> int:
        return len(self.x)

    def scores(self, asked: Iterable[Asked], score: Score | None = None) -> Tensor:
        """Return the scores `(k, n)` of a stream of k changed inputs, each run once for all checks of the call.

        `score`: the one of `confidence`, where it is not the case's own.
        """
        own = self.score if score is None else score
        return self.shared.scores(own, (key_of(own.target), self.question.arithmetic), self.rng.keys, asked)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute()` finds about these inputs and their target, once for all checks of the call.

        `key`: what it depends on besides, of which the map is no part.
        """
        runner = self.score.runner
        own = key, key_of(self.target), self.question.arithmetic, *self.rng.keys
        return self.shared.once(own, compute, lambda: runner.forward_rows + runner.backward_rows)

    def edited(self, key: Hashable, make: Callable[[], AbstractContextManager[T]]) -> AbstractContextManager[T]:
        """Open the changed copy of the model that `make()` opens, which other maps of the call may share.

        `key`: what it depends on besides the model and these inputs.
        """
        return self.shared.copy((key, *self.rng.keys), make)

    def explain(
        self,
        *,
        model: Model | None = None,
        x: Tensor | None = None,
        target: Target | None = None,
        baseline: Baseline | Tensor | None = None,
        rows_per_pass: int | None = None,
        apart: bool = False,
        packs_by_method: bool = False,
    ) -> Attribution:
        """Return the method's map of the same question, with the given parts replaced.

        `apart` as in `Question`. `packs_by_method`: pack rows where the method takes many of them, and not because the
        map's are packed: a model with weights of its own has to be packed and proven anew.
        """
        if self.method is None:
            raise NotApplicable("this check explains again, and only a finished map was given")
        method, own = self.method, self.question
        if model is not None and model is not own.model:
            method = rebuilt(method, lambda part: _for_copy(part, own.model, model))
        question = replace(
            (own if model is None else own.with_model(model)).with_inputs(own.inputs if x is None else x),
            target=own.target if target is None else target,
            baseline=own.baseline if baseline is None else as_baseline(baseline),
            rows_per_pass=rows_per_pass or own.rows_per_pass,
            arithmetic=None if packs_by_method and own.arithmetic == "packed" else own.arithmetic,
            apart=apart,
        )
        (found,) = answer(question, [method]).values()
        self.score.runner.forward_rows += found.forward_rows
        self.score.runner.backward_rows += found.backward_rows
        return found

    def confidence(self, on: On) -> tuple[Score, tuple[str, ...]]:
        """Return the score that a curve shows, and notes: the class's probability where outputs are several logits."""
        outputs = self.attribution.outputs
        if on == "score" or type(self.target) is not Logit or outputs is None or outputs.ndim != 2:
            return self.score, ()
        reading = self._reading(outputs)
        notes = tuple(reading.notes(matters=True))
        if all(kind in ("probabilities", "sigmoids") for kind in reading.kinds):
            return self.score, notes
        if outputs.shape[1] < 2:
            return self.score, (*notes, "a single output has no probability: the score itself was taken")
        if "logits" not in reading.kinds:
            return self.score, (*notes, f"a {reading.kinds[0]} has no probability: the score itself was taken")
        target = Probability(self.target.index, kinds=alike(reading.kinds) or reading.kinds)
        return replace(self.score, target=target, inputs=None, at_inputs=None), notes

    @property
    def decimals(self) -> int | None:
        """The decimals that a black box rounds its outputs to; None where they do not look rounded, and of a module."""
        outputs = self.attribution.outputs
        if outputs is None or self.score.runner.differentiable:
            return None
        return decimals_of(outputs)

    def rounding(self, *scores: Tensor) -> Tensor:
        """Return how far `(n,)` a difference of two of these scores `(n,)` may be off by rounding.

        That is arithmetic's, or that of the outputs of a black box, half a step each.
        """
        arithmetic = rounding_of(self.score.runner.precision, *scores)
        return arithmetic if self.decimals is None else arithmetic.clamp(min=10.0**-self.decimals)

    def _reading(self, outputs: Tensor) -> Reading:
        """Return what the outputs at x are: as the map says, for a map from elsewhere as they read now."""
        kinds, declared = self.attribution.output_kinds, self.question.outputs
        made_by = self.score.runner.outputs_made_by
        if declared is None and len(kinds) == len(outputs):
            return Reading(kinds, "operator" if made_by in kinds else "values")
        return read_outputs(outputs, declared, made_by)

    def reference(self) -> Tensor:
        """Return the baseline's first reference `(n, *features)`."""
        return self.question.references(self.rng)[0]

    def select(self, index: list[int]) -> Case:
        """Return the same case for some of the examples."""
        chosen = torch.tensor(index, device=self.x.device)

        def part(value: Any) -> Any:
            return value[chosen.to(value.device)] if isinstance(value, Tensor) and len(value) == len(self.x) else value

        question = self.question.select(index)
        inputs, examples = question.inputs, torch.arange(len(index), device=self.x.device)
        names = ("values", "raw", "target", "score", "baseline_score", "stderr", "raw_stderr", "spread", "outputs")
        parts = {name: part(getattr(self.attribution, name)) for name in names}
        kinds = self.attribution.output_kinds
        kinds = tuple(kinds[i] for i in index) if len(kinds) == len(self.x) else kinds
        texts = tuple(self.attribution.texts[i] for i in index) if self.attribution.texts else ()
        attribution = replace(self.attribution, **parts, inputs=inputs, output_kinds=kinds, texts=texts)
        return replace(
            self,
            question=question,
            method=for_examples(self.method, index, self.x),
            attribution=attribution,
            mask=part(self.mask),
            score=Score(self.score.runner, question.target, examples, inputs=inputs, at_inputs=attribution.score),
            rng=self.rng.select(index),
            shared=Shared(),
        )


def _for_copy(part: Any, model: Model, copy: Model) -> Any:
    """Return `part` with the patterns of the model entered for its changed copy, which is explained with the same."""
    if not (isinstance(part, PatternMethod) and isinstance(model, nn.Module) and isinstance(copy, nn.Module)):
        return part
    return replace(part, patterns=replace(part.patterns_of(model), model=fingerprint(copy)))


def question_about(attribution: Attribution, question: Question) -> Question:
    """Return the question of a map: its own inputs, classes, baseline, layer and seed, with the options of `question`.

    Raises ValueError for several targets per example, and for a target or baseline that a file could not hold.
    """
    if attribution.score.ndim > 1:
        raise ValueError(
            f"target: {attribution.score.shape[1]} for each example; checks take one target, so check each in turn"
        )
    for name in ("target", "baseline"):
        if isinstance(getattr(attribution, name), str):
            raise ValueError(
                f"{name}: the file could not hold {getattr(attribution, name)}; explain again, or use "
                f"dataclasses.replace(attribution, {name}=...)"
            )
    return replace(
        question,
        inputs=attribution.inputs,
        target=as_target(attribution.target, len(attribution.inputs)),
        baseline=attribution.baseline,
        layer=attribution.layer,
        seed=attribution.seed,
        arithmetic=question.arithmetic or (None if attribution.arithmetic == "compiled" else attribution.arithmetic),
    )


@contextmanager
def open_case(
    question: Question,
    attribution: Attribution,
    method: Method | None,
    mask: Tensor | None = None,
    shared: Shared | None = None,
) -> Iterator[Case]:
    """Yield the case of a map, with the model ready to run rows. Raises what `question_about` raises.

    `shared`: what it shares with the cases of other maps of the same model; None shares between its own checks alone.
    """
    own = question_about(attribution, question)
    x = own.inputs
    rows = own.rows_per_pass or MOST_ROWS.get(x.device.type)
    with torch.inference_mode(False), ExitStack() as stack:
        shared = stack.enter_context(Shared()) if shared is None else shared
        runner = stack.enter_context(Runner(own.model, x, rows, own.progress, declared=own.outputs, given=own.given))
        if own.arithmetic == "packed":
            stack.enter_context(runner.packing.wanted(True))
        if own.arithmetic is None:
            stack.enter_context(runner.compiling.wanted())
        score = Score(runner, own.target, torch.arange(len(x), device=x.device), inputs=x, at_inputs=attribution.score)
        yield Case(own, method, attribution, mask, score, Streams.of(x, own.seed), shared)
