"""The case a check looks at: a map of a batch, the question it answers, and the means to ask it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..base.attribution import Attribution
from ..base.errors import NotApplicable
from ..engine.runner import MOST_ROWS, Model, Runner
from ..engine.score import Score
from ..explain import explain
from ..methods import Method
from ..methods.backward import PatternMethod
from ..question.baselines import Baseline
from ..question.per_example import for_examples, rebuilt
from ..question.random_streams import Streams
from ..question.targets import Logit, Probability, Target, are_probabilities, as_target
from ..rules.patterns import fingerprint

On = Literal["probability", "score"]


@dataclass
class Spent:
    """Model rows that checking a case has cost so far."""

    forward_rows: int = 0
    backward_rows: int = 0


@dataclass(frozen=True, eq=False)
class Case:
    """One map of a batch `x` `(n, *features)` and the whole question behind it.

    `method` is None where a finished map was handed in. `target` has its classes filled in, so that a check asks about
    the same class whatever it does to the input or to the model. `score` runs the model on rows; `mask` is
    `(n, 1, H, W)`, booleans.
    """

    model: Model
    x: Tensor
    method: Method | None
    attribution: Attribution
    target: Target
    baseline: Baseline
    layer: str | None
    seed: int
    rows_per_pass: int | None
    mask: Tensor | None
    score: Score
    rng: Streams
    spent: Spent = field(default_factory=Spent)
    progress: Callable[[int], None] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def explain(
        self,
        *,
        model: Model | None = None,
        x: Tensor | None = None,
        target: Target | None = None,
        baseline: Baseline | Tensor | None = None,
        rows_per_pass: int | None = None,
    ) -> Attribution:
        """The method's map of the same question, with what is given put in place of the original."""
        if self.method is None:
            raise NotApplicable("this check explains again, and only a finished map was given")
        method = self.method
        if model is not None and model is not self.model:
            method = rebuilt(method, lambda part: _for_copy(part, self.model, model))
        found = explain(
            self.model if model is None else model,
            self.x if x is None else x,
            method,
            target=self.target if target is None else target,
            baseline=self.baseline if baseline is None else baseline,
            layer=self.layer,
            seed=self.seed,
            draws_of=self.x,  # or the map would change by its noise alone
            rows_per_pass=rows_per_pass or self.rows_per_pass,
            progress=self.progress or False,
        )
        self.spent.forward_rows += found.forward_rows
        self.spent.backward_rows += found.backward_rows
        return found

    def confidence(self, on: On) -> tuple[Score, tuple[str, ...]]:
        """The score that a curve is drawn of: the class's probability where outputs are logits of several classes."""
        outputs = self.attribution.outputs
        if on == "score" or type(self.target) is not Logit or outputs is None or outputs.ndim != 2:
            return self.score, ()
        if outputs.shape[1] < 2:
            return self.score, ("a single output has no probability: the score itself was taken",)
        if are_probabilities(outputs):
            return self.score, ()
        return replace(self.score, target=Probability(self.target.index), inputs=None, at_inputs=None), ()

    def reference(self) -> Tensor:
        """The baseline's first reference `(n, *features)`."""
        return self.baseline.references(self.x, self.rng.fork("baseline"))[0]

    def select(self, index: list[int]) -> Case:
        """The same case for some of the examples."""
        chosen = torch.tensor(index, device=self.x.device)

        def part(value: Any) -> Any:
            return value[chosen.to(value.device)] if isinstance(value, Tensor) and len(value) == len(self.x) else value

        x = self.x[chosen]
        target = select_target(self.target, index)
        names = ("values", "raw", "target", "score", "baseline_score", "stderr", "spread", "outputs")
        attribution = replace(
            self.attribution, **{name: part(getattr(self.attribution, name)) for name in names}, inputs=x
        )
        score = Score(self.score.runner, target, torch.arange(len(x), device=x.device))
        return replace(
            self,
            x=x,
            method=for_examples(self.method, index, self.x),
            attribution=attribution,
            target=target,
            baseline=for_examples(self.baseline, index, self.x),
            mask=part(self.mask),
            score=replace(score, inputs=x, at_inputs=attribution.score),
            rng=self.rng.select(index),
        )


def _for_copy(part: Any, model: Model, copy: Model) -> Any:
    """The patterns of the model for a changed copy of it, which is asked with the same."""
    if not (isinstance(part, PatternMethod) and isinstance(model, nn.Module) and isinstance(copy, nn.Module)):
        return part
    return replace(part, patterns=replace(part.patterns_of(model), model=fingerprint(copy)))


def select_target(target: Target, index: list[int]) -> Target:
    """The target of some of the examples."""
    classes = getattr(target, "index", None)
    if isinstance(classes, tuple):
        return replace(target, index=tuple(classes[i] for i in index))  # type: ignore[type-var]
    if target.per_example is not None:
        raise NotApplicable(f"target: {target!r} is written for its batch; check the examples with a target for each")
    return target


@contextmanager
def open_case(
    model: Model,
    attribution: Attribution,
    method: Method | None,
    mask: Tensor | None,
    rows_per_pass: int | None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Case]:
    """The case of a map, with the model ready to run rows. Raises ValueError for several targets for each example."""
    x = attribution.inputs
    if attribution.score.ndim > 1:
        raise ValueError(
            f"target: {attribution.score.shape[1]} for each example; checks look at one target, so ask for each in turn"
        )
    target = as_target(attribution.target, len(x))
    rows = rows_per_pass or MOST_ROWS.get(x.device.type)
    with torch.inference_mode(False), Runner(model, x, rows, progress) as runner:
        examples = torch.arange(len(x), device=x.device)
        yield Case(
            model=model,
            x=x,
            method=method,
            attribution=attribution,
            target=target,
            baseline=attribution.baseline,
            layer=attribution.layer,
            seed=attribution.seed,
            rows_per_pass=rows_per_pass,
            mask=mask,
            score=Score(runner, target, examples, inputs=x, at_inputs=attribution.score),
            rng=Streams.of(x, attribution.seed),
            progress=progress,
        )
