"""Feature ablation: what the score loses with each part of the input gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..engine.score import Score
from ..question.players import Players, Segments
from ..question.random_streams import Streams
from .base import Estimate
from .coalitions import GameMethod


@dataclass(frozen=True)
class FeatureAblation(GameMethod):
    r"""Fill one part of the input from the baseline and see what the score loses, for each part by itself.

    $$d_j = f(x) - f(x \text{ with part } j \text{ filled})$$

    The parts are `players`, or integer labels `(*space)` or `(batch, *space)`; None is a 14 x 14 grid for pictures and
    each feature by itself for other inputs. `raw` `(n, parts)` holds one value a part, `values` shares it equally among
    the part's positions. One row a part. [zeiler2014]
    """

    players: Players | None = None

    no_sum: ClassVar[str | None] = "what parts take away one at a time adds up to no total unless they do not interact"

    def __post_init__(self) -> None:
        if isinstance(self.players, Tensor):
            object.__setattr__(self, "players", Segments(self.players))
        super().__post_init__()

    def rows(self, features: torch.Size) -> int | None:
        count = self.count(features)
        return 0 if count == 1 else count  # without its only part the input is the baseline

    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        game = self.game(score, x, baseline, rng)
        worth = game.worth([~torch.eye(count, dtype=torch.bool) for count in game.counts])
        game.enough(all(len(each) == count for each, count in zip(worth, game.counts, strict=True)))
        return game.estimate([full - each for full, each in zip(game.full, worth, strict=True)], None)
