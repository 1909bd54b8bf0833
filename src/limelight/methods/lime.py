"""LIME: a linear surrogate of the score, near the input."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..base.named import LATER, require, require_number, require_steadiness, require_whole
from ..base.notes import Note
from ..engine.score import Score
from ..question.random_streams import Streams
from .base import Estimate, convergence
from .coalitions import Game, GameMethod, check_table, every_coalition
from .stopping import Goal, Halves
from .two_precision import TwoPrecision

POOR_FIT = 0.5  # R^2 below which the surrogate leaves more of the score than it explains
FIRST_STAGE = 128  # samples at least before the first test of the steadiness; each later test doubles them
MOST_SHRUNK = 0.9  # share of a single player's effect that a coefficient should hold


@dataclass(frozen=True)
class Lime(GameMethod):
    r"""The coefficients of a weighted ridge regression of the score on the players' presence.

    $$\hat\beta = \arg\min_{\beta, \beta_0} \sum_S w_S\,\Bigl(v(S) - \beta_0 - \sum_{i \in S} \beta_i\Bigr)^2
      + \alpha \lVert\beta\rVert^2, \qquad w_S = \sqrt{\exp(-d_S^2 / \mathrm{width}^2)},\ d_S = 1 - \sqrt{|S| / M}$$

    over `samples` distinct coalitions, drawn with a fair coin for each player, and the input itself. If no more
    coalitions exist, all are run, and $\alpha$ is scaled by their number over `samples`, since the penalty is meant for
    so many rows. d is the cosine distance to the whole input. `notes` give the surrogate's weighted $R^2$, as a caution
    below 0.5, and say where the penalty takes more than a tenth of a single player's effect; `stderr` is the
    regression's, robust to unequal variances, and in two precisions (`methods/two_precision.py`) of both together.
    `steadiness` stops an example as soon as two runs would correlate by so much as drawn (the lower end of the interval
    of `Attribution.steadiness`) after 128 (or 4M), 256, ... samples; `samples` is then the most it may take.
    Raises ValueError for fewer samples than the M + 1 unknowns.
    [ribeiro2016]

    >>> ll.explain(model, x, ll.Lime(200, players=ll.Grid(4)), target=2).raw.shape
    torch.Size([2, 16])
    """

    samples: int = 1000
    kernel_width: float = 0.25
    alpha: float = 1.0
    steadiness: float | None = field(default=None, kw_only=True, metadata=LATER)

    no_sum: ClassVar[str | None] = "the coefficients of a surrogate fit the score, they do not add up to it"
    two_precisions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, "samples", 2)
        require_number(self, "kernel_width", lambda width: width > 0, "a positive distance")
        require_number(self, "alpha", lambda alpha: alpha >= 0, "0 or a positive penalty")
        require_steadiness(self)

    def rows(self, features: torch.Size) -> int | None:
        count = self.count(features)
        if count is None or (self.steadiness is not None and not self._all(count)):
            return None
        return (1 << count) - 2 if self._all(count) else self.samples

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        game = self.game(score, x, baseline, rng)
        designs = game.once_per_draws(lambda i: self._design(game, i))
        values, errors, notes, halves = [], [], list[Note](), list[Halves | None]()
        one = self.steadiness is not None  # steadiness is read in one precision
        in_two = [game.bfloat16 is not None and not one and not self._all(count) for count in game.counts]
        worth = self._worth(
            game, [design[: 0 if two else None] for design, two in zip(designs, in_two, strict=True)], notes
        )
        for i, each in enumerate(worth):
            if in_two[i]:
                fit, note = self._fit_in_two(game, i, designs[i])
                notes.append(note)
                halves.append(None)
            else:
                game.enough(len(each) > game.counts[i])
                fit = self._fit(designs[i][: len(each)], each)
                halves.append(self._halves(designs[i], each))
            values.append(fit.values)
            errors.append(fit.errors)
            notes.append(Note("caution" if fit.share < POOR_FIT else "fact", fit.quality, i))
            notes += self._shrunk(game, i, fit)
        exact = all(map(self._all, game.counts)) and not game.interrupted
        return game.estimate(values, None if exact else errors, notes, halves)

    def _worth(self, game: Game, designs: list[Tensor], notes: list[Note]) -> list[Tensor]:
        """Score the coalitions of each example, of those with a goal only until it is met."""
        if self.steadiness is None:
            return game.worth(designs)
        goal = Goal(None, self.steadiness, self.view)
        found: list[Tensor] = [torch.zeros(0) for _ in designs]
        taken, active = [0] * len(designs), list(range(len(designs)))
        while active and not game.interrupted:
            for i in active:
                samples = max(FIRST_STAGE, 4 * game.counts[i], 2 * (taken[i] - 1))
                taken[i] = len(designs[i]) if self._all(game.counts[i]) else min(len(designs[i]), samples + 1)
            scored = game.worth(
                [design[: n if i in active else 0] for i, (design, n) in enumerate(zip(designs, taken, strict=True))]
            )
            for i in list(active):
                found[i], last = scored[i], taken[i] == len(designs[i])
                if self._all(game.counts[i]):
                    active.remove(i)
                    continue
                done, detail = game.met(goal, i, 0.0, self._halves(designs[i], found[i]))
                if done or last:
                    notes.append(convergence(done, f"after {taken[i] - 1} samples", detail, i))
                    active.remove(i)
        return found

    def _halves(self, design: Tensor, worth: Tensor) -> Halves | None:
        """Return the coefficients from both halves of the samples, each with the input; None where all are run."""
        players = design.shape[1]
        if self._all(players) or len(worth) < 2 * players + 4:
            return None
        first, second = (
            self._fit(design[part], worth[part]).values
            for part in (torch.cat([torch.tensor([0]), torch.arange(k, len(worth), 2)]) for k in (1, 2))
        )
        return first, second

    def _all(self, players: int) -> bool:
        return players <= 62 and 2**players <= self.samples + 2

    def _shrunk(self, game: Game, i: int, fit: _Fit) -> list[Note]:
        """Return a caution where the penalty takes much of the effect of a single player, which is f(x) - f(b)."""
        change = float(game.change[i])
        if game.counts[i] > 1 or not change or float(fit.values[0]) / change > MOST_SHRUNK:
            return []
        share = float(fit.values[0]) / change
        text = f"the penalty alpha={self.alpha:g} leaves {share:.1%} of the single player's effect {change:.4g}"
        return [Note("caution", f"{text}; use more players, or alpha=0", i)]

    def _design(self, game: Game, i: int) -> Tensor:
        players = game.counts[i]
        if self._all(players):
            return every_coalition(players).flip(0)  # the input itself first
        more = f"{players + 1} or more: a surrogate of {players} players has more unknowns"
        require(self.samples > players, self, "samples", more)
        check_table(self.samples, players, "samples")
        generator = game.rng.generators("coalitions")[i]
        found: dict[bytes, np.ndarray] = {}
        while len(found) < self.samples:
            for row in generator.random((self.samples, players)) < 0.5:
                if row.any() and not row.all():
                    found.setdefault(np.packbits(row).tobytes(), row)
        drawn = torch.from_numpy(np.stack(list(found.values())[: self.samples]))
        return torch.cat([torch.ones(1, players, dtype=torch.bool), drawn])

    def _fit_in_two(self, game: Game, i: int, design: Tensor) -> tuple[_Fit, Note]:
        """Fit example i's coalitions in two precisions; the input itself, the first of them, is known in float32."""
        assert game.bfloat16 is not None
        rows, drawn = TwoPrecision(game.bfloat16.cost), design[1:]
        everything = range(len(drawn))

        def add(samples: range) -> None:
            part = drawn[samples.start : samples.stop]
            rows.add(game.worth_of(i, part), game.worth_of(i, part, bfloat16=True))

        add(rows.next(everything))
        cheap = game.worth_of(i, drawn, bfloat16=True) if rows.pays else game.full[:0]
        if not bool(torch.isfinite(cheap).all()):
            rows.give_up()
        if not rows.pays:
            return self._fit(design, game.worth_of(i, design)), rows.note(len(drawn), "samples", i)
        full = game.full[i : i + 1]
        # The surrogate explains a part of the variance: only the rest of it is the samples' error.
        rows.judge_by(self._fit(design, torch.cat([full, cheap])).left)
        add(rows.next(everything[len(rows.exact) :]))
        known, mean = rows.corrected(len(drawn))
        fit = self._fit(design, torch.cat([full, known, cheap[len(known) :] + mean]))
        best = self._fit(design, torch.cat([full, rows.exact, cheap[len(known) :] + mean]))
        return replace(fit, quality=best.quality, share=best.share), rows.note(len(drawn), "samples", i)

    def _fit(self, coalitions: Tensor, worth: Tensor) -> _Fit:
        present = coalitions.double()
        distance = 1 - present.mean(1).sqrt()
        weight = (-(distance**2) / (2 * self.kernel_width**2)).exp()
        share = (weight / weight.sum())[:, None]
        centred, response = present - (share * present).sum(0), worth - (share[:, 0] * worth).sum()
        normal = (weight[:, None] * centred).T @ centred
        normal.diagonal().add_(self.alpha * len(coalitions) / (self.samples + 1))
        inverse = torch.linalg.pinv(normal, hermitian=True)
        values = inverse @ ((weight[:, None] * centred).T @ response)
        residual = response - centred @ values
        spare = len(worth) - len(values) - 1
        pull = inverse @ (centred * (weight * residual)[:, None]).T
        errors = (pull.square().sum(1) * (len(worth) / spare if spare > 0 else torch.nan)).sqrt()
        total = float((weight * response.square()).sum())
        if total <= 1e-24 * float((weight * worth.square()).sum()):
            none = torch.zeros_like(values)
            return _Fit(none, none, "R^2 is undefined: the score is the same for all", 1.0, 0.0)
        explained = 1 - float((weight * residual.square()).sum()) / total
        quality = f"R^2 {explained:.3f} of the surrogate"
        if explained < POOR_FIT:
            quality += ", which misses most of the score's variance: its coefficients are no effects"
        return _Fit(values, errors, quality, explained, float(residual.square().sum()) / max(1, spare))


@dataclass(frozen=True)
class _Fit:
    """Coefficients, their standard errors, the text of a note on R^2, R^2, and the residuals' variance, unweighted."""

    values: Tensor
    errors: Tensor
    quality: str
    share: float
    left: float
