"""The backward pass by rules, from a score function to an attribution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.errors import NO_GRADIENT, NoGradient
from ..base.notes import Note
from .engine import OnUncovered, Propagate, Propagation
from .parts import Parts, change, of_sign
from .ruled import jvp, ratio, stabilised
from .shares import CONSTANTS, Shares
from .tape import OtherPath, Tape


@dataclass(frozen=True)
class Propagated:
    """The results of a backward pass. `values` and `multiplier` have the input's shape, `score` one number per row.

    `reference_score` has one number per row of the reference. `outputs` are the model's outputs at x, where they are
    known and a number or vector per row. `shares` are, for propagations of relevance, what biases and the like took.
    """

    values: Tensor
    multiplier: Tensor
    score: Tensor
    reference_score: Tensor | None
    notes: tuple[str, ...]
    shares: Shares | None = None
    outputs: Tensor | None = None

    @staticmethod
    def joined(parts: Sequence["Propagated"]) -> "Propagated":
        """Return the results of all rows from those of passes over some, without outputs."""
        references = [each.reference_score for each in parts if each.reference_score is not None]
        return Propagated(
            torch.cat([each.values for each in parts]).contiguous(),
            torch.cat([each.multiplier for each in parts]).contiguous(),
            torch.cat([each.score for each in parts]),
            torch.cat(references) if len(references) == len(parts) else None,
            tuple(dict.fromkeys(note for each in parts for note in each.notes)),
            Shares.joined([each.shares for each in parts]),
        )


def multipliers(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    propagation: Propagation,
    *,
    reference: Tensor | None = None,
    on_uncovered: OnUncovered = "error",
    at: Callable[[], Tensor] | None = None,
) -> Propagated:
    """Propagate the score of every row of `x` backwards by the propagation's rules.

    `forward(rows) -> (rows,)` scores each row; the parameters it uses must not require gradients. `reference`
    (one row or one per row of `x`) is needed by propagations that compare with one. `at()` is called after each
    forward pass and returns its intermediate tensor to stop at; the result then has that tensor's shape.

    Raises UncoveredOperator where the model uses an operator that has no rule, OtherPath where the reference takes
    another path through the model's code, ValueError for a missing reference.
    """
    if not propagation.needs_reference:
        return _propagate(forward, x, propagation, None, on_uncovered, at)
    if reference is None:
        raise ValueError(f"{propagation.name} compares with a reference: pass reference=")
    if reference.shape[0] not in (1, x.shape[0]) or reference.shape[1:] != x.shape[1:]:
        raise ValueError(f"reference has shape {tuple(reference.shape)}: it must be one row or one per row of x")
    try:
        return _propagate(forward, x, propagation, reference, on_uncovered, at)
    except OtherPath:
        if reference.shape[0] == x.shape[0]:
            raise
        # A shared reference row cannot follow a model that folds its rows into other axes: repeat it.
        repeated = reference.expand_as(x).contiguous()
        return _propagate(forward, x, propagation, repeated, on_uncovered, at)


def _propagate(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    propagation: Propagation,
    reference: Tensor | None,
    on_uncovered: OnUncovered,
    at: Callable[[], Tensor] | None,
) -> Propagated:
    tape, reference_score, start_at = Tape(), None, reference
    if reference is not None:
        with torch.no_grad(), Propagate(propagation, None, tape, on_uncovered):
            reference_score = forward(reference.detach().clone())
            start_at = reference if at is None else at().detach()
        tape.replaying = True
    leaf = x.detach().clone().requires_grad_()
    run = Propagate(propagation, leaf, tape, on_uncovered)
    with torch.enable_grad(), run:
        score = forward(leaf.clone())  # a clone: the model may write into its input
    tape.finish()
    if score.shape != x.shape[:1]:
        raise ValueError(f"forward returned shape {tuple(score.shape)} for {x.shape[0]} rows: one number a row needed")
    if not score.requires_grad:
        if run.constants:
            raise ValueError(
                f"{propagation.name} takes the output of {', '.join(run.constants)} for a constant, and the score has "
                "no other way to the input; explain a number before it, such as the logit (target=Logit(class))"
            )
        raise NoGradient(NO_GRADIENT)
    if propagation.own_rule not in (None, *run.used_rules):
        run.note(
            Note(
                "plain-gradient",
                f"PLAIN GRADIENT: no ReLU ran, which alone {propagation.name} treats otherwise; GELU, SiLU and other "
                "smooth units are left as they are",
            )
        )
    run.audit(score)
    wrt = leaf if at is None else at()
    terms = _terms(wrt, start_at, run) if propagation.part and start_at is not None else None
    run.forget()
    start = torch.ones_like(score) if propagation.start == "score" else 1 / stabilised(score.detach(), 1e-12)
    run.propagating = True
    variables = [wrt] if terms is None else [wrt, *terms.variables]
    found = torch.autograd.grad(score, variables, start, retain_graph=run.keeps_graph, allow_unused=True)
    run.propagating = False
    slopes = [torch.zeros_like(wrt) if slope is None else slope for slope in found]
    values = multiplier = slopes[0]
    if terms is not None:
        values, multiplier = terms.of_sign(propagation.part == "positive", slopes)
    elif propagation.answer == "relevance":
        values = multiplier * (wrt.detach() if start_at is None else wrt.detach() - start_at)
        values = values + _at_input(wrt, run)
    values, multiplier = values[: len(x)], multiplier[: len(x)]  # a program of a fixed number of rows ran more
    run.forget()
    if reference_score is not None and run.normalised:
        # The contributions sum to the score's difference; a shared reference was scored for the first row only.
        ratio = values.flatten(1).abs().sum(1) / values.flatten(1).sum(1).abs().clamp(min=1e-300)
        run.note(f"health ratio sum|C|/|score - reference score|: {ratio.max().item():.3g} at most")
    shares = None
    if propagation.counts:
        shares = Shares.of(score.detach() * start, values, run.taken, of_one=propagation.start == "unit")
    return Propagated(values, multiplier, score.detach(), reference_score, tuple(run.notes), shares)


@dataclass(frozen=True)
class _Terms:
    """The parts of a unit's change as numbers, and as variables: a pair for each time that a rule read them."""

    change: Parts
    variables: list[Tensor]

    def of_sign(self, positive: bool, slopes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the part's contribution and multiplier, from the slopes at the unit and at the variables."""
        up, down = (sum(slopes[first::2], slopes[0]) for first in (1, 2))
        return of_sign(positive, self.change, (up, down))


def _terms(wrt: Tensor, reference: Tensor, run: Propagate) -> _Terms:
    pairs = [pair for unit, pair in run.read if unit is wrt]
    return _Terms(change(wrt, reference, run), [each for pair in pairs for each in pair])


def _at_input(root: Tensor, run: Propagate) -> Tensor:
    """Map relevance at first layers' inputs to the model's input.

    Between them lie normalisation, padding and reordering: $a_i = c_i x_{p(i)} + d_i$. Each $R_i$ belongs to its
    pixel p(i); dividing by $c_i$ before the transposed map cancels the scale, so that the sum is kept. Padding, which
    is no pixel's, keeps what it got.
    """
    total = torch.zeros_like(root)
    for at, relevance in run.first_relevances:
        scale = jvp(at, root, torch.ones_like(root))
        run.take(CONSTANTS, relevance * (scale == 0), late=True)
        (pixels,) = torch.autograd.grad(at, root, ratio(relevance, scale), retain_graph=True)
        total = total + pixels
    return total.detach()
