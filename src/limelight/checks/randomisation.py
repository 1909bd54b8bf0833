"""Adebayo's test: a map that stays the same when the model's weights are replaced does not explain the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..base.arithmetic import rounding_of
from ..base.attribution import Attribution
from ..base.named import require
from ..base.similarity import centred_ranks, correlation_of_ranks
from ..engine.runner import Runner
from ..engine.score import Score
from ..model_edits.randomise import Drawn, Init, Replaced, layers_read, put_back, redraw, redrawable, varies
from ..question.output_targets import Similarity
from ..question.targets import Logit
from .base import HardCheck, Measured, as_wide
from .case import Case
from .exhibits import Curve, Exhibit, exhibit, exhibited
from .maps import CONSTANT, hog, pearson, ssim, units_of

NOTHING = "the score depends on no layer whose parameters could be replaced"


@dataclass(frozen=True)
class Randomisation(HardCheck):
    r"""The rank correlation of A with the map of the model with layers replaced by random ones, for the same class.

    `order` "cascade" replaces layers from the top down, at `stages` depths: the top layer alone, then more, at last all
    of them. "independent" replaces one layer at a time at these depths. Layers that the score does not read, such as an
    auxiliary head, are left out and named in a note; a tied weight is replaced wherever it is used.
    `keep_class=False` explains the randomised model's own first class. `detail` has for each depth Spearman of |A| and
    of signed A, SSIM, the correlation of histograms of oriented gradients, and `entropy rise`, the relative growth of
    the map's histogram entropy under full randomisation (efficient MPRT).

    Value: Spearman of the signed A with the top layer replaced, the mean over `draws` draws; under `Similarity`, of an
    embedding without a classifier, with all layers replaced, because one of its blocks decides little. Above `most`
    fails: that map would be much the same for another class or an untrained classifier. Absolute values correlate more
    for all methods, because every map is small where a picture is plain. A lower value is not a better map.
    [adebayo2018] [hedstrom2024]
    """

    order: Literal["cascade", "independent"] = "cascade"
    stages: int = 5
    most: float = 0.7
    init: Init = "moments"
    draws: int = 3
    keep_class: bool = True
    own_rows: ClassVar[int] = 3  # to find the layers' order, and which of them the score reads
    meaning: ClassVar[str] = "how alike the map stays when the model's last layer is replaced by random numbers"
    brief: ClassVar[tuple[str, str]] = ("follows the weights", "hardly follows the weights")
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
        with case.edited("redrawable", lambda: redrawable(case.model, case.x)) as (module, layers):
            read = case.once("layers read", lambda: _read(case, module, layers))
            # Networks of random layers are the same for all maps: what is drawn is kept where there are several.
            drawn: Drawn | None = case.once("drawn", dict) if case.shared.several else None
            groups: dict[tuple[bool, ...], list[int]] = {}
            for i, column in enumerate(read.T.tolist()):
                groups.setdefault(tuple(column), []).append(i)
            parts = []
            for column, index in groups.items():
                whole = len(index) == len(case)
                own = [layer for layer, is_read in zip(layers, column, strict=True) if is_read]
                others = [layer for layer, is_read in zip(layers, column, strict=True) if not is_read]
                part = self._measured(case if whole else case.select(index), module, own, drawn)
                left = (f"left out, as the score does not depend on them: {', '.join(others)}",) if others else ()
                place = "" if whole else f"examples {', '.join(map(str, index))}: "
                parts.append((index, replace(part, notes=tuple(place + note for note in (*part.notes, *left)))))
        return _joined(parts)

    def _measured(self, case: Case, module: nn.Module, layers: list[str], drawn: Drawn | None) -> Measured:
        """Run the test on examples whose scores read these layers, top first."""
        if not layers:
            return Measured(torch.full((len(case),), torch.nan, dtype=torch.float64), reasons=(NOTHING,) * len(case))
        own = case.attribution
        draws = [self._stages(case, module, layers, draw, drawn) for draw in range(self.draws)]
        names = draws[0][1]
        maps = [found for found, _ in draws]
        figures: dict[str, Tensor] = {}
        for name, (read, compare) in _COMPARISONS.items():
            if case.x.ndim == 4 or name.startswith("spearman"):
                mine = read(own)
                each = torch.stack([torch.stack([compare(mine, read(m)) for m in found], 1) for found in maps])
                figures[name] = each.nanmean(0)
        figures["entropy rise"] = _entropy(maps[0][-1]) / _entropy(own).clamp(min=1e-12) - 1
        top = figures["spearman signed"][:, -1 if _is_without_head(case) else 0]
        notes = (f"layers replaced, in turn: {', '.join(names)}",)
        measured = self.judged(top, case.x, figures, notes)
        shown = exhibited(case, lambda: self._exhibits(case, names, maps[0], figures["spearman signed"]))
        return replace(measured, exhibits=shown).unknown_where(top.isnan(), CONSTANT)

    def _exhibits(
        self, case: Case, names: Sequence[str], maps: Sequence[Attribution], alike: Tensor
    ) -> list[Exhibit | Curve]:
        """Return the first draw's map at each depth; `alike` `(n, depths)` is the mean over draws."""
        lines = [[(f"rank correlation {each:.2f}",) for each in depth] for depth in alike.T.tolist()]
        places = zip(names, maps, lines, strict=True)
        return [exhibit(f"random {name}", case.x, case.x, found, each, own_scale=True) for name, found, each in places]

    def _stages(
        self, case: Case, module: nn.Module, layers: list[str], draw: int, drawn: Drawn | None
    ) -> tuple[list[Attribution], list[str]]:
        """Explain with layers of the copy replaced at each depth; the maps and the names of the depths."""
        target, seed = None if self.keep_class else Logit(), case.question.seed + draw
        found: list[Attribution] = []
        names: list[str] = []
        done, cascade = 0, self.order == "cascade"
        replaced: list[Replaced] = []
        try:
            # A norm at the top, as embeddings have, keeps its scale when it is drawn anew: the first depth goes down to
            # the first layer with a matrix, which decides.
            bottom = len(layers) - 1
            first = next((k for k, each in enumerate(layers) if _has_matrix(module.get_submodule(each))), 0)
            if self.stages == 1 and _is_without_head(case):
                first = bottom
            depths = {first + round(k * (bottom - first) / max(self.stages - 1, 1)) for k in range(self.stages)}
            for depth in sorted(depths):
                last = layers[depth]
                for each in layers[done : depth + 1] if cascade else [last]:
                    replaced.append(redraw(module, each, self.init, seed, drawn))
                names.append(f"down to {last or 'the root'}" if cascade and depth > first else last)
                # The first network shows that the copy's rows are independent; the others are the same code.
                apart = draw > 0 or bool(found)
                found.append(case.explain(model=module, target=target, apart=apart, packs_by_method=True))
                done = depth + 1
                while replaced and not cascade:
                    put_back(replaced.pop())
        finally:  # the copy may be that of other maps too
            while replaced:  # the last first: a tied weight was replaced more than once
                put_back(replaced.pop())
        return found, names


def _is_without_head(case: Case) -> bool:
    return isinstance(case.target, Similarity)


def _has_matrix(layer: nn.Module) -> bool:
    """Whether a layer has a matrix that can be drawn anew; one of equal numbers stays as it is."""
    return any(each.ndim > 1 and varies(each) for each in layer.parameters(recurse=False))


def _read(case: Case, module: nn.Module, layers: list[str]) -> Tensor:
    """Find whether the score of each example reads each of the layers of the copy, `(layers, n)`."""
    runner = case.score.runner

    def opened() -> Runner:
        rows, own = case.score.rows_per_pass, case.question
        return Runner(module, case.x, rows, None, declared=own.outputs, given=own.given)

    def scores() -> Tensor:
        with opened() as redrawn:
            found = Score(redrawn, case.target, case.score.examples).stream_values(iter([case.x]))[0]
        runner.forward_rows += redrawn.forward_rows
        return found

    with opened() as own:  # on a copy of its own, which redrawing the layers of `module` does not change
        score = Score(own, case.target, case.score.examples)
        before = cache(lambda: score.stream_values(iter([case.x]))[0])

        def changed() -> Tensor:
            return (scores() - before()).abs() > rounding_of(own.precision, before())

        read = layers_read(score, case.x, module, layers, changed, case.question.seed)
    runner.forward_rows += own.forward_rows
    runner.backward_rows += own.backward_rows
    return read


def _joined(parts: Sequence[tuple[list[int], Measured]]) -> Measured:
    """Put the results on parts of the examples in the order of these; of fewer depths, figures are filled with NaN."""
    if len(parts) == 1:
        return parts[0][1]
    order = torch.tensor([i for index, _ in parts for i in index]).argsort()
    measured = [part for _, part in parts]
    names = dict.fromkeys(name for part in measured for name in part.detail)
    never = [torch.zeros(len(index), dtype=torch.bool) for index, _ in parts]
    passed = [no if part.passed is None else part.passed.cpu() for part, no in zip(measured, never, strict=True)]
    reasons = [each for part in measured for each in part.reasons or ("",) * len(part.values)]
    return Measured(
        torch.cat([part.values.double().cpu() for part in measured])[order],
        torch.cat(passed)[order],
        {name: torch.cat(as_wide([_detail(part, name) for part in measured]))[order] for name in names},
        tuple(reasons[i] for i in order.tolist()),
        tuple(note for part in measured for note in part.notes),
        tuple(each.at(index) for index, part in parts for each in part.exhibits),
    )


def _detail(part: Measured, name: str) -> Tensor:
    return part.detail.get(name, part.values).double().cpu()  # a part without figures has NaN as its values


def _entropy(a: Attribution) -> Tensor:
    """Compute the entropy in nats of the histogram of the map's values, 100 equal bins over its own range."""
    units = units_of(a.values).double()
    low, high = units.amin(1, keepdim=True), units.amax(1, keepdim=True)
    bins = ((units - low) / (high - low).clamp(min=1e-300) * 100).long().clamp(max=99)
    counts = torch.zeros(len(units), 100, dtype=torch.float64, device=units.device)
    counts.scatter_add_(1, bins, torch.ones_like(units))
    found: Tensor = torch.special.entr(counts / units.shape[1]).sum(1)
    return found


# What is read of each map, the user's once for all, and how two of these are compared.
_COMPARISONS: dict[str, tuple[Callable[[Attribution], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "spearman": (lambda a: centred_ranks(units_of(a.values.abs())), correlation_of_ranks),
    "spearman signed": (lambda a: centred_ranks(units_of(a.values)), correlation_of_ranks),
    "ssim": (lambda a: a.heatmap("abs"), ssim),
    "hog": (lambda a: hog(a.heatmap("abs")), pearson),
}
