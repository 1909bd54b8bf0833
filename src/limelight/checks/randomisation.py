"""Adebayo's test: a map that stays the same when the model's weights are replaced does not explain the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..base.attribution import Attribution
from ..base.named import require
from ..base.similarity import rank_correlation
from ..model_edits.randomise import Init, redraw, redrawable
from ..question.targets import Logit
from .base import HardCheck, Measured
from .case import Case
from .maps import CONSTANT, hog, pearson, ssim, units_of


@dataclass(frozen=True)
class Randomisation(HardCheck):
    r"""The rank correlation of A with the map of the model with layers replaced by random ones, for the same class.

    `order` "cascade" replaces layers from the top down, at `stages` depths: the top layer alone, then more, at last all
    of them. "independent" replaces one layer at a time at these depths. `keep_class=False` explains the randomised
    model's own first class. `detail` has for each depth Spearman of |A| and of signed A, SSIM, the correlation of
    histograms of oriented gradients, and `entropy rise`, the relative growth of the map's histogram entropy under full
    randomisation (efficient MPRT).

    Value: Spearman of the signed A with the top layer replaced, the mean over `draws` draws. Above `most` fails: that
    map would be much the same for another class or an untrained classifier. Absolute values correlate more for all
    methods, because every map is small where a picture is plain. A lower value is not a better map.
    [adebayo2018] [hedstrom2024]
    """

    order: Literal["cascade", "independent"] = "cascade"
    stages: int = 5
    most: float = 0.7
    init: Init = "moments"
    draws: int = 3
    keep_class: bool = True
    own_rows: ClassVar[int] = 1  # to find the layers' order
    meaning: ClassVar[str] = "how alike the map stays when the model's last layer is replaced by random numbers"
    passes: ClassVar[str] = "the map changes when the classifier is replaced by random numbers"
    fails: ClassVar[str] = (
        "the map hardly changes when the classifier is replaced by "
        "random numbers: it may show the picture more than the decision"
    )

    def __post_init__(self) -> None:
        require(self.order in ("cascade", "independent"), self, "order", "'cascade' or 'independent'")
        require(self.stages >= 1, self, "stages", "1 or more")
        require(self.draws >= 1, self, "draws", "1 or more")
        require(self.init in ("moments", "permute", "identity"), self, "init", "'moments', 'permute' or 'identity'")

    def limit(self, x: Tensor) -> float:
        return self.most

    def maps(self) -> float:
        return float(self.stages * self.draws)

    def run(self, case: Case) -> Measured:
        own = case.attribution
        draws = [self._stages(case, case.question.seed + draw) for draw in range(self.draws)]
        names = draws[0][1]
        maps = [found for found, _ in draws]
        figures: dict[str, Tensor] = {}
        for name, compare in _COMPARISONS.items():
            if case.x.ndim == 4 or name.startswith("spearman"):
                each = torch.stack([torch.stack([compare(own, m) for m in found], 1) for found in maps])
                figures[name] = each.nanmean(0)
        figures["entropy rise"] = _entropy(maps[0][-1]) / _entropy(own).clamp(min=1e-12) - 1
        top = figures["spearman signed"][:, 0]
        notes = (f"layers replaced, in turn: {', '.join(names)}",)
        return self.judged(top, case.x, figures, notes).unknown_where(top.isnan(), CONSTANT)

    def _stages(self, case: Case, seed: int) -> tuple[list[Attribution], list[str]]:
        """Explain with layers replaced at each depth; the maps and the names of the depths."""
        found, names, done = [], [], 0
        cascade = self.order == "cascade"
        with redrawable(case.model, case.x) as (module, layers):
            for depth in sorted({round(k * (len(layers) - 1) / max(self.stages - 1, 1)) for k in range(self.stages)}):
                last = layers[depth]
                originals = dict(module.get_submodule(last).named_parameters(recurse=False))
                for layer in layers[done : depth + 1] if cascade else [last]:
                    redraw(module, layer, self.init, seed)
                names.append(f"down to {last or 'the root'}" if cascade and depth else last)
                found.append(case.explain(model=module, target=None if self.keep_class else Logit()))
                done = depth + 1
                for name, parameter in () if cascade else originals.items():
                    setattr(module.get_submodule(last), name, parameter)
        return found, names


def _entropy(a: Attribution) -> Tensor:
    """Compute the entropy in nats of the histogram of the map's values, 100 equal bins over its own range."""
    units = units_of(a.values).double()
    low, high = units.amin(1, keepdim=True), units.amax(1, keepdim=True)
    bins = ((units - low) / (high - low).clamp(min=1e-300) * 100).long().clamp(max=99)
    counts = torch.zeros(len(units), 100, dtype=torch.float64, device=units.device)
    counts.scatter_add_(1, bins, torch.ones_like(units))
    found: Tensor = torch.special.entr(counts / units.shape[1]).sum(1)
    return found


_COMPARISONS: dict[str, Callable[[Attribution, Attribution], Tensor]] = {
    "spearman": lambda a, b: rank_correlation(units_of(a.values.abs()), units_of(b.values.abs())),
    "spearman signed": lambda a, b: rank_correlation(units_of(a.values), units_of(b.values)),
    "ssim": lambda a, b: ssim(a.heatmap("abs"), b.heatmap("abs")),
    "hog": lambda a, b: pearson(hog(a.heatmap("abs")), hog(b.heatmap("abs"))),
}
