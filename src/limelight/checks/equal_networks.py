"""Hard checks with another network that answers the same: written differently, or of inputs that are shifted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..base.named import require
from ..engine.runner import Runner
from ..engine.score import Score
from ..methods.backward import LRP
from ..model_edits.input_shift import compensated
from ..model_edits.rewrite import rewritten
from ..question.per_example import rebuilt
from ..rules import composite
from .base import Measured, NotApplicable, Tolerated, relative_difference
from .case import Case
from .exhibits import exhibit, exhibited
from .shared import Asked

SMALL = 1e-10  # the stabiliser where a difference may come from that of the rules, 1e-6
NEAR = 3  # random points around each example at which two networks are compared besides the example


@dataclass(frozen=True, eq=False)
class ImplementationInvariance(Tolerated):
    r"""$\max|A_1 - A_2| / \max|A_1|$ between the model and an equal one written differently. [sundararajan2017]

    `other` is that network; None rewrites the model's own layers on a copy. A linear layer or convolution between two
    rectifiers, with or without batch norm, has inputs $a \ge 0$ and hands $\mathrm{relu}(u - v)$ on, which is
    $\mathrm{relu}(\mathrm{relu}(u) - v)$ for any $v \ge 0$: it becomes $\mathrm{relu}(u) - v$ with
    $v = \tfrac12 W^- a$. Other linear layers are split in two over permuted channels, relu(h) is h + relu(-h). Layers
    whose output the map reads stay. That both agree is checked at the examples and at random points around them; the
    notes say what was rewritten.

        limelight.check(net, x, "deep-lift", "implementation-invariance")[0].notes
    """

    other: nn.Module | None = None
    tolerance: float = 1e-3
    meaning: ClassVar[str] = "how much the map changes when the same network is written differently"
    brief: ClassVar[tuple[str, str]] = ("the same for equal networks", "differs between equal networks")
    passes: ClassVar[str] = "an equal network that is written differently gets the same map"
    fails: ClassVar[str] = "an equal network that is written differently gets another map"

    def __post_init__(self) -> None:
        require(self.tolerance > 0, self, "tolerance", "a positive share of the map's maximum")

    def maps(self) -> float:
        return 1.0

    def run(self, case: Case) -> Measured:
        if self.other is not None:
            return self._compare(case, self.other, ("a network that was given",))
        read = tuple((case.attribution.layer or "").split(", "))
        with case.edited(("rewritten", read), lambda: rewritten(case.model, case.x, read)) as (module, done):
            if not done:
                raise NotApplicable(
                    "no layer of the model could be rewritten (nn.Linear, nn.ReLU, convolutions between rectifiers); "
                    "pass other="
                )
            return self._compare(case, module, done)

    def _compare(self, case: Case, other: nn.Module, done: tuple[str, ...]) -> Measured:
        if case.target.layer is not None:
            raise NotApplicable("the target reads a layer, which a rewritten network need not have")
        again = case.explain(model=other)
        values = relative_difference(case.attribution.values, again.values)
        notes = tuple(f"rewritten: {each}" for each in done)
        if bool((values > self.tolerance).any()) and (steady := _less_stabilised(case)) is not None:
            # What a stabiliser takes where a layer's terms nearly cancel is no matter of how the network is written.
            values = relative_difference(steady.explain().values, steady.explain(model=other).values)
            notes += (f"compared with epsilon={SMALL:g} in the rules of both, so that stabilisers alone fail no map",)
        shown = exhibited(case, lambda: [exhibit("the network written differently", case.x, case.x, again)])
        found = replace(self.judged_maps(values, case, notes=notes), exhibits=shown)
        return found.unknown_where(~_agree(case, other), "the two networks differ in score here, so their maps may too")


def _less_stabilised(case: Case) -> Case | None:
    """Return the case with a smaller stabiliser in every rule of LRP; None for methods without those rules."""

    def smaller(part: Any) -> Any:
        if not isinstance(part, LRP):
            return part
        given = part.composite
        propagation = composite(given, part.low, part.high) if isinstance(given, str) else given
        return replace(part, composite=propagation.tuned(epsilon=SMALL))

    method = rebuilt(case.method, smaller)
    return None if method == case.method else replace(case, method=method)


def scores_around(case: Case, other: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the scores `(1 + NEAR, n)` by the model and by another: of the examples, then of points around them."""
    x = case.x

    def near(k: int) -> Tensor:
        return x + 0.1 * (2 * case.rng.uniform(f"near {k}", x.shape[1:], x) - 1)

    def of_other() -> Tensor:
        with Runner(other, x, case.score.rows_per_pass, None, given=case.question.given) as runner:
            found = Score(runner, case.target, case.score.examples).stream_values(iter([x, *map(near, range(NEAR))]))
        case.score.runner.forward_rows += runner.forward_rows
        return found

    ours = case.scores([Asked.itself(x), *(Asked.drawn(("near", k), x, partial(near, k)) for k in range(NEAR))])
    return ours, case.once(("scores around", other), of_other)


def _agree(case: Case, other: nn.Module) -> Tensor:
    """Whether both networks give each example `(n,)` the same score, and random points around it."""
    ours, theirs = scores_around(case, other)
    tolerance = 1e-7 if case.x.dtype == torch.float64 else 1e-3
    scale = ours.abs().amax(0).clamp(min=1e-3)
    return ((ours - theirs).abs().amax(0) <= tolerance * scale) & torch.isfinite(theirs).all(0)


@dataclass(frozen=True)
class InputShift(Tolerated):
    r"""Kindermans' test: shift every input by `shift` and let the first layer's bias take it back.

    Both models give the same outputs (asserted), so the same map is due: $\max|A_1 - A_2| / \max|A_1|$. Methods that
    multiply with the input, or compare with a fixed reference, fail it; a reference that moves along
    (`limelight.Minimum()`) passes. The bias is changed on a copy of the model. In float32 rounding alone moves a
    gradient by up to a percent, where units sit at their kinks; failures are tens of percent. [kindermans2019]
    """

    shift: float = 0.5
    tolerance: float = 0.05
    meaning: ClassVar[str] = "how much the map changes under a shift that changes nothing in the model's answer"
    brief: ClassVar[tuple[str, str]] = ("free of where zero lies", "depends on where zero lies")
    passes: ClassVar[str] = "the map does not depend on where zero lies"
    fails: ClassVar[str] = (
        "the map depends on where zero lies: choose a baseline with a meaning, or one that moves along"
    )

    def __post_init__(self) -> None:
        require(self.shift != 0, self, "shift", "a number other than 0")
        require(self.tolerance > 0, self, "tolerance", "a positive share of the map's maximum")

    def maps(self) -> float:
        return 1.0

    def run(self, case: Case) -> Measured:
        if case.question.texts:
            raise NotApplicable("embeddings of tokens have no zero that a reader knows, so none is moved")
        edited = case.edited(("shifted", self.shift), lambda: compensated(case.model, case.x, self.shift))
        with edited as (module, note):
            found = case.explain(model=module, x=case.x + self.shift)
        change = (found.score - case.attribution.score).abs().double()
        scale = case.attribution.score.abs().double().clamp(min=1e-3)
        values = relative_difference(case.attribution.values, found.values)
        scores = [(f"score {score:.4g}",) for score in found.score.tolist()]
        label = f"input {self.shift:+g}, which the first layer takes back"
        shown = exhibited(case, lambda: [exhibit(label, case.x + self.shift, case.x, found, scores)])
        measured = self.judged_maps(values, case, {"score change": change}, (note, *found.cautions))
        return replace(measured, exhibits=shown).unknown_where(
            change > 1e-3 * scale, "the compensated model's score differs, so the comparison would mean nothing"
        )
