"""The base of methods: frozen dataclasses of hyper-parameters with one pure function over a Score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..base.named import Named
from ..base.notes import Kind, Note
from ..base.view import FINE as FINE, SINGLE_PIXELS, View
from ..engine.score import Score
from ..question.random_streams import Streams
from ..rules import Shares

_OF_THE_CALL = {
    **{name: name for name in ("target", "baseline", "layer", "seed", "outputs", "given")},
    "target_layers": "layer",
    "target_layer": "layer",
    "baselines": "baseline",
    "model": "model",
}
"""What other libraries give to a method, and `explain` takes here, by their name and its name here."""

NOT_MULTIPLIED = "values are per unit of the input: times x - baseline they would add up to the change of the score"


@dataclass(frozen=True)
class Needs:
    """What a method needs of `explain()`, which prepares it once for all methods.

    `gradients`: the model must be differentiable. `at_inputs`: the gradient at x (at the layer, if the method reads
    one). `value`, `value_at_baseline`: f(x) and f(b), which are free at the input itself and cost a row each elsewhere.
    `baseline`: a baseline. `references`: all its references at once, `(references, n, *features)`, instead of one at a
    time. `layer`: a layer. `own_scores`: nothing, for the Estimate brings f(x), and with a baseline f(b), from the
    method's own passes.
    """

    gradients: bool = True
    at_inputs: bool = False
    value: bool = False
    value_at_baseline: bool = False
    baseline: bool = False
    references: bool = False
    layer: bool = False
    own_scores: bool = False


@dataclass(frozen=True)
class OwnScores:
    """Scores `(n,)` at x and at the baseline from a method's own passes, and the outputs at x where they are one number
    or vector a row."""

    at_inputs: Tensor
    at_baseline: Tensor | None
    outputs: Tensor | None


@dataclass(frozen=True)
class Estimate:
    """A method's result for a batch: `values` `(n, *features)` (channel axis 1 where channels count as one), `stderr`
    like values, `raw` the map before it was spread over the pixels, `raw_stderr` its standard errors where it holds
    more than the map, `own_scores` where `Needs.own_scores`, `layer` the layer that was read where the method names its
    own, `shares` what became of the score in a pass by rules, `halves` the maps of two halves of the samples, like
    values, where the method draws samples."""

    values: Tensor
    stderr: Tensor | None = None
    raw: Tensor | None = None
    notes: tuple[str, ...] = ()
    own_scores: OwnScores | None = None
    layer: str | None = None
    shares: Shares | None = None
    halves: tuple[Tensor, Tensor] | None = None
    raw_stderr: Tensor | None = None


def convergence(converged: bool, spent: str, detail: str, example: int) -> Note:
    """Note how an adaptive method ended: `"NOT converged after 40 samples, relative standard error 0.2"`."""
    kind: Kind = "fact" if converged else "not-converged"
    return Note(kind, f"{'' if converged else 'NOT '}converged {spent}, {detail}", example)


def interrupted(samples: Iterable[int]) -> Note:
    """Note that Ctrl-C ended the run after so many samples of each example."""
    counts = ", ".join(map(str, samples))
    return Note("not-converged", f"INTERRUPTED: the map rests on the {counts} samples that were run")


@dataclass(frozen=True)
class Method(Named, ABC):
    """Base of all methods. Subclasses are frozen dataclasses; their fields are the hyper-parameters."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Raise TypeError for the model, and for what the call takes, in the place of settings."""
        made = vars(cls).get("__dataclass_params__")
        if not (made and made.init):  # a class of a user's own, which takes what it takes
            return super().__new__(cls, *args, **settings)
        own = [each.name for each in fields(cls)]
        if args and isinstance(args[0], nn.Module) and own[:1] != ["layer"]:
            raise TypeError(
                f"{cls.__name__}: a method has settings alone; give the model to explain(model, inputs, "
                f"{cls.__name__}(...))"
            )
        for name in settings:
            if name in _OF_THE_CALL and name not in own:
                option = _OF_THE_CALL[name]
                what = "its first argument" if option == "model" else f"{option}="
                raise TypeError(f"{cls.__name__}: there is no setting {name!r}; give it to explain, as {what}")
        return super().__new__(cls, *args, **settings)

    no_sum: ClassVar[str | None] = None
    """Why the map's values promise no sum; None where they sum to f(x) - f(baseline)."""

    rows_at_most: ClassVar[bool] = False
    """Whether `rows` is a bound, because rows that turn out equal are run once."""

    two_precisions: ClassVar[bool] = False
    """Whether `run` uses `Score.bfloat16`, the rows in that precision, where it is given."""

    by_part: ClassVar[bool] = False
    """Whether it reads neighbourhoods, so that of several inputs each is explained by itself, beside the others."""

    pictures_only: ClassVar[bool] = False
    """Whether it refuses inputs that are no pictures, such as texts and series."""

    fixed_rows: ClassVar[int | None] = None
    """What `rows` returns unless a method overrides it."""

    per_unit: ClassVar[bool] = False
    """Whether values are slopes, per unit of each channel, whose sum over the channels of an embedding means nothing:
    a layer norm takes a constant that all channels share, so that gradients before it sum to 0."""

    view: ClassVar[View] = SINGLE_PIXELS
    """How its maps are read for figures at the scale they are drawn at; `FINE` where they scatter by pixel."""

    least_rows: ClassVar[int] = 32
    """The rows that one example costs at least, roughly, where `rows` is not known in advance."""

    @property
    def needs(self) -> Needs:  # a ClassVar where it does not depend on the hyper-parameters
        return Needs()

    def rows(self, features: torch.Size) -> int | None:
        """Return the model rows one example of this shape costs beyond f(x) and f(b); None if unknown in advance."""
        return self.fixed_rows

    def rows_at_least(self, features: torch.Size) -> int:
        """Return the rows that one example costs at least, roughly; by these the arithmetic of the rows is chosen."""
        found = self.rows(features)
        return self.least_rows if found is None else found

    def of_tokens(self) -> Method:
        """Return the method with what it takes by default where rows are embeddings `(channels, tokens)` of tokens."""
        return self

    @abstractmethod
    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        """Compute the map of each example: x and baseline are `(n, *features)`, aligned with `score` and `rng`."""
