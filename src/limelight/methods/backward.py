"""Backward methods: a backward pass with other rules at some operators. The rules are in `limelight.rules`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .. import rules
from ..base.named import LATER, is_finite, require
from ..base.notes import Note
from ..base.prepared import PreparedModel
from ..engine.model_copy import frozen_copy
from ..engine.programs import rows_taken
from ..engine.score import Score
from ..engine.scorer import Scorer
from ..question.given import batches_of
from ..question.random_streams import Streams
from ..rules import Patterns, Propagated, Propagation, ZBox
from ..rules.engine import Entry, OnUncovered
from ..rules.patterns import Estimator
from .base import FINE, NOT_MULTIPLIED, Estimate, Method, Needs, OwnScores
from .moments import Moments


@dataclass(frozen=True)
class Backward(Method):
    """Base of the backward methods. `on_uncovered="gradient"` takes the derivative at operators without a rule and
    notes it; the default raises `UncoveredOperator`, which names the operator and the model's line."""

    on_uncovered: OnUncovered = field(default="error", kw_only=True)
    view = FINE
    needs: ClassVar[Needs] = Needs(own_scores=True)
    fixed_rows: ClassVar[int | None] = 1
    propagation: ClassVar[Propagation]  # of methods whose rules depend neither on settings nor on the model

    def __post_init__(self) -> None:
        require(self.on_uncovered in ("error", "gradient"), self, "on_uncovered", "'error' or 'gradient'")

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        return _estimate(self.propagated(score, x, self.propagation))

    def propagated(self, score: Score, x: Tensor, by: Propagation, reference: Tensor | None = None) -> Propagated:
        found = score.propagate(x, by, reference, self.on_uncovered)
        boxes = [rule for _, rule in by.entries if isinstance(rule, ZBox) and score.stops_at is None]
        return replace(found, notes=(*found.notes, *(note for box in boxes for note in box.note(x))))


def in_half_precision(method: Method, precision: torch.dtype) -> tuple[Note, ...]:
    """Caution where relevance was computed in bfloat16 or float16: rules divide by sums that rounding leaves nothing
    of."""
    ruled = [each for each in (method, getattr(method, "inner", None)) if isinstance(each, Backward)]
    if precision in (torch.bfloat16, torch.float16) and any(not each.per_unit for each in ruled):
        name = str(precision).removeprefix("torch.")
        return (Note("caution", f"relevance was computed in {name}, whose rounding it keeps; use model.float()"),)
    return ()


def _estimate(found: Propagated) -> Estimate:
    own_scores = OwnScores(found.score, found.reference_score, found.outputs)
    return Estimate(found.values, notes=found.notes, own_scores=own_scores, shares=found.shares)


@dataclass(frozen=True)
class DeepLift(Backward):
    r"""Multipliers of finite differences from the baseline, $\sum_i m_i (x_i - b_i) = f(x) - f(b)$. [shrikumar2017]

    `rule`: "rescale" everywhere; "reveal-cancel" separates positive from negative changes of a nonlinearity's input;
    "genomics" does so after dense layers only. For a softmax classifier explain the logit with CentredLogit.
    `multiply=False` gives the multipliers $m_i$ themselves, in units of the score per unit of the input: no sum.

    `part`: "positive" or "negative" gives what one part of each unit's change contributes, $C^\pm = m^\pm \Delta^\pm$;
    the two add up to the contributions. A unit's parts are the terms $w\,\Delta$ of one sign in the affine operator
    that made it, or what a nonlinearity made of them; of all else, the input too, that of the change's own sign.

        limelight.explain(net, x, AtLayer(DeepLift("reveal-cancel", part="negative"), "1"), target=0).raw

    >>> a = ll.explain(model, x, ll.DeepLift("reveal-cancel"), target=ll.CentredLogit(2))
    >>> bool((a.delta.abs() < 1e-5).all())
    True
    """

    rule: Literal["rescale", "reveal-cancel", "genomics"] = "rescale"
    multiply: bool = field(default=True, kw_only=True, metadata=LATER)
    part: Literal["both", "positive", "negative"] = field(default="both", kw_only=True, metadata=LATER)

    needs: ClassVar[Needs] = Needs(baseline=True, own_scores=True)
    fixed_rows: ClassVar[int | None] = None  # the examples of a pass share the row of an equal reference
    least_rows: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rule in rules.DEEPLIFT, self, "rule", ", ".join(map(repr, rules.DEEPLIFT)))
        require(self.part in ("both", "positive", "negative"), self, "part", "'both', 'positive' or 'negative'")

    @property
    def no_sum(self) -> str | None:  # type: ignore[override]
        if self.part != "both":
            return "one part of the changes alone: the parts of both signs add up to f(x) - f(b)"
        return None if self.multiply else NOT_MULTIPLIED

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        by = rules.DEEPLIFT[self.rule] if self.part == "both" else rules.of_part(self.rule, self.part)
        found = self.propagated(score, x, by, baseline)
        return _estimate(found if self.multiply else replace(found, values=found.multiplier))


@dataclass(frozen=True)
class DeepShap(Backward):
    r"""DeepLIFT (Rescale) averaged over the baseline's references, an estimate of Shapley values. [lundberg2017]

    Complete against the mean of f over the references; `stderr` is that of the mean over them. `multiply=False` gives
    the mean of the multipliers, in units of the score per unit of the input.

    >>> data = ll.Samples(torch.rand(20, 3, 16, 16), 5)
    >>> ll.explain(model, x, ll.DeepShap(), target=2, baseline=data).values.shape
    torch.Size([2, 3, 16, 16])
    """

    multiply: bool = field(default=True, kw_only=True, metadata=LATER)

    needs: ClassVar[Needs] = Needs(baseline=True, references=True, own_scores=True)
    fixed_rows: ClassVar[int | None] = None  # twice the number of references
    least_rows: ClassVar[int] = 2

    @property
    def no_sum(self) -> str | None:  # type: ignore[override]
        return None if self.multiply else NOT_MULTIPLIED

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        moments, notes, at_baseline = Moments(x, in_halves=False), dict[str, None](), []
        example = torch.arange(len(x), device=x.device)
        for references in baseline.split(max(1, score.rows_per_pass // len(x))):
            found = self.propagated(
                score.select(example.repeat(len(references))),
                x.repeat(len(references), *[1] * (x.ndim - 1)),
                rules.DEEPLIFT["rescale"],
                references.flatten(0, 1),
            )
            for values in (found.values if self.multiply else found.multiplier).split(len(x)):
                moments.add(example, values)
            assert found.reference_score is not None
            at_baseline += found.reference_score.split(len(x))
            notes |= dict.fromkeys(found.notes)
        stderr = moments.standard_error() if len(baseline) > 1 else None
        outputs = None if found.outputs is None else found.outputs[: len(x)]
        own_scores = OwnScores(found.score[: len(x)], torch.stack(at_baseline).mean(0), outputs)
        return Estimate(moments.mean(), stderr, notes=tuple(notes), own_scores=own_scores)


def _require_box(method: Method, low: float, high: float) -> None:
    require(is_finite(high), method, "high", "a number")
    require(is_finite(low) and low < high, method, "low", f"a number below high={high!r}")


def _without_overflow(found: Propagated, method: Method) -> Propagated:
    """Return the result. Raises FloatingPointError where rules without biases multiplied relevance past all numbers."""
    if not bool(found.values.isfinite().all()):
        raise FloatingPointError(
            f"{type(method).__name__}.bias=False: relevance outgrew {found.values.dtype}, for the epsilon rule "
            "multiplies it where a layer's terms nearly cancel without the bias; use bias=True, or z+ rules for "
            "convolutions: LRP('epsilon-plus', bias=False)"
        )
    return found


def _require_bias(method: Method, bias: object) -> None:
    require(isinstance(bias, bool), method, "bias", "True or False")


@dataclass(frozen=True)
class LRP(Backward):
    r"""Layer-wise relevance propagation by a composite of rules. [bach2015] [montavon2019]

    `composite` is a name ("activated-plus", "epsilon-plus", "epsilon-alpha2-beta1", "epsilon-gamma-box", "epsilon",
    "gamma", "zero", and the "-flat" forms) or a Propagation of your own; `rules` are (predicate, rule) pairs that
    precede it. The default has $z^+$ without biases at convolutions that an activation follows, and epsilon at other
    convolutions and at dense layers; "epsilon-plus" has $z^+$ with biases at every convolution. `low` and `high` bound
    the input for the box rule. `bias=False` shares relevance without the biases of any rule, which then take none of
    it. The notes say how much of the score biases, epsilon and softmax took.

        limelight.explain(net, x, LRP("epsilon", bias=False), target=0).notes

    >>> a = ll.explain(model, x, ll.LRP("epsilon-plus"), target=2)
    >>> a.values.shape, a.forward_rows
    (torch.Size([2, 3, 16, 16]), 3)
    """

    composite: str | Propagation = "activated-plus"
    rules: tuple[Entry, ...] = ()
    low: float = 0.0
    high: float = 1.0
    bias: bool = True

    no_sum: ClassVar[str | None] = "biases, epsilon and softmax take relevance, so the values do not sum to the score"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = isinstance(self.composite, Propagation) or self.composite in rules.COMPOSITES
        require(known, self, "composite", f"a Propagation or one of {', '.join(rules.COMPOSITES)}")
        _require_box(self, self.low, self.high)
        _require_bias(self, self.bias)

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        chosen = self.composite
        if isinstance(chosen, str):
            chosen = rules.composite(chosen, self.low, self.high)
        chosen = chosen.prepend(*self.rules)
        if self.bias:
            return _estimate(self.propagated(score, x, chosen))
        return _estimate(_without_overflow(self.propagated(score, x, chosen.tuned(bias=False)), self))


@dataclass(frozen=True)
class DeepTaylor(Backward):
    r"""Deep Taylor decomposition: bias-free $z^+$, and at the first layer $w^2$, or the box rule between `low` and
    `high` where both are given. A decomposition of a positive score. [montavon2017]

    >>> ll.explain(model, x, ll.DeepTaylor(low=0, high=1), target=ll.Probability(2)).values.shape
    torch.Size([2, 3, 16, 16])
    """

    low: float | None = None
    high: float | None = None

    no_sum: ClassVar[str | None] = "softmax, constants and epsilon may take relevance from the sum of the values"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low is not None and self.high is not None:
            _require_box(self, self.low, self.high)

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        found = self.propagated(score, x, rules.deep_taylor(self.low, self.high))
        negative = (found.score <= 0).nonzero()[:, 0].tolist()
        notes = [Note("caution", "the score is not positive, so there is nothing to decompose", i) for i in negative]
        return _estimate(replace(found, notes=(*found.notes, *notes)))


def estimate_patterns(
    model: nn.Module | PreparedModel, batches: Iterable[Tensor], estimator: Estimator = "two-component"
) -> Patterns:
    """Estimate the signal's direction at every affine operator from batches `(rows, *features)`, or from one tensor.

    Memory does not grow with the data, and the model does not change. A program that was exported for a fixed number
    of rows gets passes of so many. `Patterns.save(path)` and `Patterns.load(path, model)` keep them with the model's
    fingerprint. Raises ValueError without any batch, and where the last rows are too few for such a pass.
    [kindermans2018]
    """
    if isinstance(model, PreparedModel):
        model = model.snapshot
    given = batches_of(batches, "batches")
    first = list(itertools.islice(given, 1))
    example = first[0][:1] if first else None
    with frozen_copy(model, example) as copy:
        taken = rows_taken(dict(copy.module.named_modules()))
        if example is not None:
            copy.prove(taken.padded(example))
        return rules.estimate_patterns(copy.run, taken.passes(itertools.chain(first, given)), model, estimator)


@dataclass(frozen=True)
class PatternMethod(Backward):
    """Base of the pattern methods: `patterns` come from `limelight.estimate_patterns(model, batches)`, or are the
    name of a file that `Patterns.save` or `limelight patterns` wrote for the model."""

    patterns: Patterns | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.patterns is None or isinstance(self.patterns, Patterns | str)
        require(known, self, "patterns", "limelight.estimate_patterns(model, batches) or the name of a file")

    def patterns_of(self, model: nn.Module) -> Patterns:
        """Return the patterns. Raises ValueError where none are given, or for another model's."""
        if self.patterns is None:
            raise ValueError(
                f"{type(self).__name__}.patterns=None: estimate them from data first, "
                "patterns=limelight.estimate_patterns(model, batches), or 'limelight patterns PICTURES -o FILE' and "
                "patterns='FILE'"
            )
        if isinstance(self.patterns, str):
            return Patterns.load(self.patterns, model)
        return self.patterns.checked(model, f"{type(self).__name__}.patterns={self.patterns!r}")


@dataclass(frozen=True)
class PatternNet(PatternMethod):
    """The signal the score responds to, from a backward pass with patterns in place of weights. [kindermans2018]

    >>> patterns = ll.estimate_patterns(model, [torch.rand(8, 3, 16, 16) for _ in range(4)])
    >>> ll.explain(model, x, ll.PatternNet(patterns), target=2).values.shape
    torch.Size([2, 3, 16, 16])
    """

    no_sum: ClassVar[str | None] = "PatternNet shows the signal's direction, not its share of the score"

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        return _estimate(self.propagated(score, x, rules.pattern_net(self.patterns_of(score.model))))


@dataclass(frozen=True)
class PatternAttribution(PatternMethod):
    """The contribution of each input's signal, from a backward pass with patterns times weights. [kindermans2018]

    >>> patterns = ll.estimate_patterns(model, [torch.rand(8, 3, 16, 16) for _ in range(4)])
    >>> ll.explain(model, x, ll.PatternAttribution(patterns), target=2).values.shape
    torch.Size([2, 3, 16, 16])
    """

    no_sum: ClassVar[str | None] = "pattern attribution is a root-point estimate whose sum is not promised"

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        return _estimate(self.propagated(score, x, rules.pattern_attribution(self.patterns_of(score.model))))


@dataclass(frozen=True)
class ExcitationBackprop(Backward):
    """Winner-take-all probability of a walk down the excitatory connections. `contrastive` subtracts that of a walk
    from all other outputs and keeps the positive part. [zhang2018]

    The values are a probability in networks of affine layers, rectifiers and pooling. Where a sum, norm or attention
    hands on terms of both signs, a caution says how much of the map is negative.

    >>> ll.explain(model, x, ll.ExcitationBackprop(), target=2).values.sum((1, 2, 3))
    tensor([1.0000, 1.0000])
    """

    contrastive: bool = False

    no_sum: ClassVar[str | None] = "the values share out 1 and not the score"

    def rows(self, features: torch.Size) -> int | None:
        return 2 if self.contrastive else 1

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        def walk(forward: Scorer, rows: Tensor, reference: Tensor | None) -> Propagated:
            return rules.excitation(
                forward, rows, contrastive=self.contrastive, at=forward.at, on_uncovered=self.on_uncovered
            )

        return _estimate(score.propagate_by(walk, x, passes=2 if self.contrastive else 1))


@dataclass(frozen=True)
class TransformerLRP(Backward):
    """Base of LRP for transformers. With `bias=False` biases take no relevance, as in LRP."""

    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_bias(self, self.bias)

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        if self.bias:
            return _estimate(self.propagated(score, x, self.propagation))
        return _estimate(_without_overflow(self.propagated(score, x, rules.without_biases(self.propagation)), self))


@dataclass(frozen=True)
class AttnLRP(TransformerLRP):
    """LRP with rules for attention: first-order for softmax, halves for products, constant scales. [achtibat2024]

    `bias=False` shares relevance without biases, which then take none of it.

    >>> ll.explain(model, x, ll.AttnLRP(), target=2).values.shape
    torch.Size([2, 3, 16, 16])
    """

    no_sum: ClassVar[str | None] = "biases and softmax take relevance, so the values do not sum to the score"
    propagation: ClassVar[Propagation] = rules.ATTN_LRP


@dataclass(frozen=True)
class CPLRP(TransformerLRP):
    """Conservative propagation: attention weights and normalisation scales are constants. [ali2022]

    `bias=False` shares relevance without biases, which then take none of it.

    >>> ll.explain(model, x, ll.CPLRP(), target=2).values.shape
    torch.Size([2, 3, 16, 16])
    """

    no_sum: ClassVar[str | None] = "biases take relevance, so the values do not sum to the score"
    propagation: ClassVar[Propagation] = rules.CP_LRP
