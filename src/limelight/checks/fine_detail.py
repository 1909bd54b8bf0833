"""Does the fine detail of a map mean anything: what lies dark between its bright pixels?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import require
from .base import Measured, NotApplicable
from .case import Case, On
from .imputers import MeanColour
from .maps import order_of, places_of, space_of, units_of
from .removal import Faithfulness, Filling, hiding
from .shared import Asked


@dataclass(frozen=True)
class FineDetail(Faithfulness):
    r"""How much more hiding the bright pixels costs than hiding as many of the dark ones that lie between them.

    $$\frac{\Delta_b - \Delta_d}{|\Delta_b| + |\Delta_d|}, \quad \Delta_s = f(x) - f(x \text{ without } s)$$

    Bright are the `share` of pixels with the highest values. The gaps are the other pixels of which a bright one lies
    within `reach` pixels, a square around each; of these the ones with the lowest |A| are hidden, and of the bright
    ones the highest, as many of both as there are. 1: what the map leaves dark between bright pixels does not matter;
    0: it matters as much, so that the map's grain is no finding and only its coarse shape may be read; below 0: it
    matters more. `fill` is a number, a tensor, a Baseline or an Imputer; `on="probability"` takes the probability of
    the class. An example without gaps, with a map of one value, or whose score neither change moves has no figure.

        limelight.check(net, x, "gradient", limelight.FineDetail(share=0.1), target=0)[0].detail
    """

    share: float = 0.05
    reach: int = 1
    fill: Filling = field(default_factory=MeanColour)
    on: On = "score"
    meaning: ClassVar[str] = "how much more the bright pixels matter than the dark gaps between them; 0: no more"

    def __post_init__(self) -> None:
        require(0 < self.share < 1, self, "share", "a share of the pixels between 0 and 1")
        require(self.reach >= 1, self, "reach", "1 or more pixels")
        require(self.on in ("probability", "score"), self, "on", "'probability' or 'score'")

    def run(self, case: Case) -> Measured:
        if case.x.ndim != 4:
            raise NotApplicable("pixels have others between them in pictures (batch, channels, H, W)")
        score, notes = case.confidence(self.on)
        bright, gaps, paired = self._sets(case)
        hide = hiding(case, self.fill)
        asked = (Asked.itself(case.x), *(hide.asked(hidden, step) for step, hidden in enumerate((bright, gaps))))
        scores = case.scores(asked, score).double()
        of_bright, of_gaps = scores[0] - scores[1], scores[0] - scores[2]
        moved = of_bright.abs() + of_gaps.abs()
        values = (of_bright - of_gaps) / moved
        detail = {"bright": of_bright, "gaps": of_gaps, "pixels": paired}
        found = Measured(values, detail=detail, notes=notes)
        still = moved <= 2 * case.rounding(*scores)  # of two differences
        found = found.unknown_where(still, "neither the bright pixels nor the gaps move the score")
        found = found.unknown_where(paired == 0, "no dark pixel lies beside a bright one")
        units = units_of(case.attribution.values)
        return found.unknown_where(units.amax(1) == units.amin(1), "the map is one value everywhere: nothing is bright")

    def _sets(self, case: Case) -> tuple[Tensor, Tensor, Tensor]:
        """Return the bright pixels and the gaps `(n, units)` to hide, as many of both, and how many `(n,)`."""
        units, space = units_of(case.attribution.values), space_of(case.x)
        most = max(1, round(self.share * units.shape[1]))
        bright_place = places_of(order_of(units, case.rng))
        bright = bright_place < most
        near = F.max_pool2d(
            bright.view(-1, 1, *space).to(case.x.dtype), 2 * self.reach + 1, stride=1, padding=self.reach
        )
        between = (near.flatten(1) > 0) & ~bright
        count = between.sum(1).clamp(max=most)
        dark_place = places_of(order_of((-units.abs()).masked_fill(~between, -torch.inf), case.rng.fork("gaps")))
        return bright_place < count[:, None], dark_place < count[:, None], count
