"""Adebayo's test: a map that stays the same when the model's weights are drawn anew does not explain the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..base.attribution import Attribution
from ..base.named import require
from ..base.similarity import rank_correlation
from ..model_edits.randomise import Init, redraw, redrawable
from ..question.targets import Logit, output_tensor
from .base import Better, Check, Kind, Measured, nan_where
from .case import Case
from .maps import units_of
from .similarity import hog, pearson, ssim

CONSTANT = "a map is constant: it has no order to compare"


@dataclass(frozen=True)
class Randomisation(Check):
    r"""The rank correlation of A with the map of the model with layers drawn anew, the class kept.

    `order` "cascade" draws anew from the top layer down, at `stages` depths: the top layer alone, then more, the last
    all of them. "independent" draws one layer at a time at these depths. `keep_class=False` explains the randomised
    model's own first class. `detail` has for each depth Spearman of |A| and of signed A, SSIM, the correlation of
    histograms of oriented gradients, and `entropy rise`, the relative growth of the map's histogram entropy under full
    randomisation (efficient MPRT).

    Value: Spearman of the signed A with the top layer drawn anew, the mean over `draws` draws. Above `most` fails: that
    map would be much the same for another class or an untrained classifier. The absolute values correlate more in all
    methods, because where a picture is plain no map has much. A test to fail, not a scale of quality.
    [adebayo2018] [hedstrom2024]
    """

    order: Literal["cascade", "independent"] = "cascade"
    stages: int = 5
    most: float = 0.7
    init: Init = "moments"
    draws: int = 3
    keep_class: bool = True
    kind: ClassVar[Kind] = "hard"
    better: ClassVar[Better | None] = "lower"
    needs_method: ClassVar[bool] = True
    meaning: ClassVar[str] = "how alike the map stays when the model's last layer is replaced by random numbers"

    def __post_init__(self) -> None:
        require(self.order in ("cascade", "independent"), self, "order", "'cascade' or 'independent'")
        require(self.stages >= 1, self, "stages", "1 or more")
        require(self.draws >= 1, self, "draws", "1 or more")
        require(self.init in ("moments", "permute", "identity"), self, "init", "'moments', 'permute' or 'identity'")

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
        values, reasons = nan_where(top, top.isnan(), CONSTANT)
        return Measured(values, values <= self.most, figures, reasons, (f"drawn anew, in turn: {', '.join(names)}",))

    def _stages(self, case: Case, seed: int) -> tuple[list[Attribution], list[str]]:
        found, names = [], []
        with redrawable(case.model, case.x) as (module, layers):
            originals = {name: _own(module, name) for name in layers}
            depths = sorted({round(k * (len(layers) - 1) / max(self.stages - 1, 1)) for k in range(self.stages)})
            done = 0
            for depth in depths:
                if self.order == "cascade":
                    for layer in layers[done : depth + 1]:
                        redraw(module, layer, self.init, seed)
                    done = depth + 1
                    names.append(layers[depth] if depth == 0 else f"down to {layers[depth] or 'the root'}")
                else:
                    redraw(module, layers[depth], self.init, seed)
                    names.append(layers[depth])
                found.append(case.explain(model=module) if self.keep_class else self._own_class(case, module))
                if self.order == "independent":
                    for name, parameter in originals[layers[depth]].items():
                        setattr(module.get_submodule(layers[depth]), name, parameter)
        return found, names

    def _own_class(self, case: Case, module: nn.Module) -> Attribution:
        with torch.no_grad():
            outputs = output_tensor(module(case.x))
        return case.explain(model=module, target=Logit(tuple(outputs.argmax(1).tolist())))


def _own(module: nn.Module, layer: str) -> dict[str, nn.Parameter]:
    return dict(module.get_submodule(layer).named_parameters(recurse=False))


def _entropy(a: Attribution) -> Tensor:
    """Entropy in nats of the histogram of the map's values, 100 equal bins over its own range."""
    units = units_of(a.values).double()
    low, high = units.amin(1, keepdim=True), units.amax(1, keepdim=True)
    bins = ((units - low) / (high - low).clamp(min=1e-300) * 100).long().clamp(max=99)
    counts = torch.zeros(len(units), 100, dtype=torch.float64, device=units.device)
    counts.scatter_add_(1, bins, torch.ones_like(units))
    found: Tensor = torch.special.entr(counts / units.shape[1]).sum(1)
    return found


def _spearman(a: Attribution, b: Attribution) -> Tensor:
    return rank_correlation(units_of(a.values.abs()), units_of(b.values.abs()))


def _signed(a: Attribution, b: Attribution) -> Tensor:
    return rank_correlation(units_of(a.values), units_of(b.values))


def _ssim(a: Attribution, b: Attribution) -> Tensor:
    return ssim(a.heatmap("abs"), b.heatmap("abs"))


def _hog(a: Attribution, b: Attribution) -> Tensor:
    return pearson(hog(a.heatmap("abs")), hog(b.heatmap("abs")))


_COMPARISONS = {"spearman": _spearman, "spearman signed": _signed, "ssim": _ssim, "hog": _hog}
