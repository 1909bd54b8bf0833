"""LIME: a linear surrogate of the score, near the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..base.named import require, require_number, require_whole
from ..base.notes import Note
from ..engine.score import Score
from ..question.random_streams import Streams
from .base import Estimate
from .coalitions import Game, GameMethod, check_table, every_coalition


@dataclass(frozen=True)
class Lime(GameMethod):
    r"""The coefficients of a weighted ridge regression of the score on the players' presence.

    $$\hat\beta = \arg\min_{\beta, \beta_0} \sum_S w_S\,\Bigl(v(S) - \beta_0 - \sum_{i \in S} \beta_i\Bigr)^2
      + \alpha \lVert\beta\rVert^2, \qquad w_S = \sqrt{\exp(-d_S^2 / \mathrm{width}^2)},\ d_S = 1 - \sqrt{|S| / M}$$

    over `samples` distinct coalitions, drawn with a fair coin for each player, and the input itself. If no more
    coalitions exist, all are run, and $\alpha$ is scaled by their number over `samples`, since the penalty is meant for
    so many rows. d is the cosine distance to the whole input. `notes` give the surrogate's weighted $R^2$; `stderr` is
    the regression's, robust to unequal variances. Raises ValueError for fewer samples than the M + 1 unknowns.
    [ribeiro2016]
    """

    samples: int = 1000
    kernel_width: float = 0.25
    alpha: float = 1.0

    no_sum: ClassVar[str | None] = "the coefficients of a surrogate fit the score, they do not add up to it"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, "samples", 2)
        require_number(self, "kernel_width", lambda width: width > 0, "a positive distance")
        require_number(self, "alpha", lambda alpha: alpha >= 0, "0 or a positive penalty")

    def rows(self, features: torch.Size) -> int | None:
        count = self.count(features)
        return None if count is None else (1 << count) - 2 if self._all(count) else self.samples

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        game = self.game(score, x, baseline, rng)
        designs = [self._design(game, i) for i in range(len(game.counts))]
        worth = game.worth(designs)
        values, errors, notes = [], [], []
        for i, each in enumerate(worth):
            game.enough(len(each) > game.counts[i])
            fit = self._fit(designs[i][: len(each)], each)
            values.append(fit[0])
            errors.append(fit[1])
            notes.append(Note("fact", fit[2], i))
        exact = all(map(self._all, game.counts)) and not game.interrupted
        return game.estimate(values, None if exact else errors, notes)

    def _all(self, players: int) -> bool:
        return players <= 62 and 2**players <= self.samples + 2

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

    def _fit(self, coalitions: Tensor, worth: Tensor) -> tuple[Tensor, Tensor, str]:
        """Return coefficients, their standard errors, and the text of a note on the fit."""
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
            return torch.zeros_like(values), torch.zeros_like(values), "R^2 is undefined: the score is the same for all"
        return values, errors, f"R^2 {1 - float((weight * residual.square()).sum()) / total:.3f} of the surrogate"
