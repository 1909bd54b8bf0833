"""Ghorbani's attack: an invisible change of the input that keeps the model's answer and moves the map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..base.named import require
from ..base.similarity import rank_correlation
from ..engine.as_written import eagerly
from ..engine.carried import arguments, carrying
from ..engine.graph import make_exact
from ..engine.model_copy import frozen_copy
from ..engine.programs import rows_taken
from ..methods import DeepLift, InputXGradient, IntegratedGradients, Method
from ..model_edits.smooth_relu import Softened
from .base import Better, Check, Kind, Measured, NotApplicable
from .case import Case
from .exhibits import Curve, Exhibit, exhibit, exhibited
from .maps import space_of, top_overlap, units_of
from .stability import other_class

NODES = 8  # of the path whose map is attacked
Score = Callable[[Tensor], Tensor]
Map = Callable[[Tensor, Score, Case], Tensor]


@dataclass(frozen=True)
class Fragility(Check):
    r"""How much of the map's top k stays when an attacker moves each value by at most `eps` and keeps the label.

    From a random start within eps, up to `iterations` steps $x \leftarrow x - \alpha\,\mathrm{sign} \nabla D$, clipped
    to eps. $\alpha$ is `step`, None for 5 eps over the iterations. D is the share of |A| on the original top k
    ("top-k") or minus the squared distance of its centre of mass ("centre"). The gradient is that of a smooth
    substitute of the map (softplus for ReLU, `beta`): the path's for IntegratedGradients and, as the nearest that is
    smooth, for DeepLift, the product's for InputXGradient, the plain gradient's for all other methods, which are thus
    attacked by transfer. The reported maps are the method's own on the unchanged model, at the worst of `looks`
    iterates, or as many as there are, that keep the label. The attack on an example ends with the first look that finds
    it no worse, and once nothing of the top k is left. `Fragility(step=0.5 / 255, iterations=300)` takes the paper's
    steps, at over ten times the cost.

    A model without classes has no label to keep. Value: overlap of the top k; `detail`: Spearman of |A|, the shift of
    the centre in pixels, and the overlap under random signs of the same size, the control. k is `k`, or 1000 of
    224 x 224 pixels, 2% of others. [ghorbani2019]
    """

    eps: float = 8 / 255
    step: float | None = None
    iterations: int = 24
    loss: Literal["top-k", "centre"] = "top-k"
    k: int | None = None
    beta: float = 30.0
    looks: int = 4
    kind: ClassVar[Kind] = "robustness"
    better: ClassVar[Better | None] = "higher"
    meaning: ClassVar[str] = "share of the top pixels that survive an invisible attack"

    def __post_init__(self) -> None:
        require(self.loss in ("top-k", "centre"), self, "loss", "'top-k' or 'centre'")
        require(self.eps > 0, self, "eps", "a positive number")
        require(self.iterations >= 1, self, "iterations", "1 or more")
        require(self.looks >= 1, self, "looks", "1 or more")
        require(self.step is None or self.step > 0, self, "step", "a positive number, or None")

    def maps(self) -> float:
        return float(min(self.looks, self.iterations) + 3 + 4 * self.iterations)

    def run(self, case: Case) -> Measured:
        if not isinstance(case.model, nn.Module) or case.target.layer is not None:
            raise NotApplicable(
                "the attack follows the gradient of the map, which needs a module and a score of its outputs"
            )
        parts = case.question.given.parts
        if parts is not None and parts.embedding is not None:
            raise NotApplicable("the attack changes inputs, and whole numbers are explained at their embedding")
        own = units_of(case.attribution.values.abs())
        count = own.shape[1]
        k = min(self.k or (1000 if count == 224 * 224 else max(1, count // 50)), count)
        chosen = torch.zeros_like(own).scatter_(1, own.topk(k, dim=1).indices, 1.0)
        worst = torch.full((len(case),), 2.0, dtype=torch.float64)
        detail = {name: torch.full_like(worst, torch.nan) for name in ("spearman", "centre shift")}
        seen, maps = case.x.cpu().clone(), case.attribution.viewed().cpu().clone()
        substitute, points, note = _substitute(case.method)
        step = 5 * self.eps / self.iterations if self.step is None else self.step
        looks = min(self.looks, self.iterations)
        at = {round((j + 1) * self.iterations / looks) for j in range(looks)}
        attacked = list(range(len(case)))
        alone = [case.select([i]) for i in range(len(case))]
        moved = case.x + self.eps * (2 * case.rng.uniform("start", case.x.shape[1:], case.x) - 1)
        with frozen_copy(case.model, case.x[:1]) as copied:
            copied.prove(case.x[:1])
            for iteration in range(1, self.iterations + 1):
                for i in attacked:
                    row = slice(i, i + 1)
                    slope = self._slope(substitute, copied.module, alone[i], moved[row], own[row], chosen[row])
                    change = moved[row] - step * slope.sign() - case.x[row]
                    moved[row] = case.x[row] + change.clamp(-self.eps, self.eps)
                case.score.runner.forward_rows += points * len(attacked)
                case.score.runner.backward_rows += 2 * points * len(attacked)  # the map, and its derivative
                if iteration in at:
                    before = worst.clone()
                    self._look(case, attacked, moved, own, k, worst, detail, (seen, maps))
                    attacked = [i for i in attacked if 0 < worst[i] < before[i]]
                if not attacked:
                    break
        control: list[Tensor] = []
        for draw in range(3):
            signs = (case.rng.uniform(f"signs {draw}", case.x.shape[1:], case.x) - 0.5).sign()
            control.append(top_overlap(own, units_of(case.explain(x=case.x + self.eps * signs).values.abs()), k))
        detail["random signs"] = torch.stack(control).mean(0)
        shown = exhibited(case, lambda: self._exhibits(case, seen, maps, worst, detail["spearman"]))
        found = Measured(worst, detail=detail, notes=(note,), exhibits=shown)
        return found.unknown_where(worst > 1, "the attack never kept the label")

    def _slope(
        self, substitute: Map, module: nn.Module, case: Case, moved: Tensor, own: Tensor, chosen: Tensor
    ) -> Tensor:
        """Compute the gradient of D at one attacked example; zeros where the substitute has none."""

        taken = rows_taken(dict(module.named_modules()))

        def score(rows: Tensor) -> Tensor:
            examples = case.score.examples[:1].expand(len(rows))
            with eagerly(), carrying(case.question.given, examples):
                placed, named = arguments(taken.padded(rows))
                outputs = taken.cut(module(*placed, **named), len(rows))
            scores = case.target(outputs, examples)
            make_exact(scores)
            return scores

        with torch.enable_grad(), Softened(self.beta):
            leaf = moved.detach().requires_grad_()
            share = _share(units_of(substitute(leaf, score, case).abs()))
            if self.loss == "top-k":
                aim = (share * chosen).sum()
            else:
                aim = -(_centre(share, case.x) - _centre(_share(own), case.x)).square().sum()
            if not aim.requires_grad:
                return torch.zeros_like(moved)
            return torch.autograd.grad(aim, leaf)[0]

    def _look(
        self,
        case: Case,
        attacked: list[int],
        moved: Tensor,
        own: Tensor,
        k: int,
        worst: Tensor,
        detail: dict[str, Tensor],
        kept: tuple[Tensor, Tensor],
    ) -> None:
        """Enter the figures of the attacked examples that keep their label and overlap less than at earlier looks."""
        part = case.select(attacked)
        found = part.explain(x=moved[attacked])
        before, units = own[attacked], units_of(found.values.abs())
        overlap = top_overlap(before, units, k).cpu()
        changed = other_class(part, found)
        better = overlap < worst[attacked]
        if changed is not None:
            better &= ~changed.cpu()
        shift = (_centre(_share(units), case.x) - _centre(_share(before), case.x)).norm(dim=1)
        where = torch.tensor(attacked)[better]
        worst[where] = overlap[better]
        detail["spearman"][where] = rank_correlation(before, units).cpu()[better]
        detail["centre shift"][where] = shift.double().cpu()[better]
        for one, other in zip(kept, (moved[attacked], found.viewed()), strict=True):
            one[where] = other.cpu()[better]

    def _exhibits(self, case: Case, seen: Tensor, maps: Tensor, worst: Tensor, alike: Tensor) -> list[Exhibit | Curve]:
        """Return the attacked pictures with their maps."""
        pairs = zip(worst.tolist(), alike.tolist(), strict=True)
        lines = [
            (f"{overlap:.0%} of the top pixels stay", f"rank correlation of the magnitudes {rho:.2f}")
            if overlap <= 1
            else ("never with the same label",)
            for overlap, rho in pairs
        ]
        return [exhibit(f"attacked, each value within {self.eps:.3g}", seen, case.x, maps, lines)]


def _share(units: Tensor) -> Tensor:
    return units / units.sum(1, keepdim=True).clamp(min=1e-30)


def _centre(share: Tensor, x: Tensor) -> Tensor:
    """Compute the centre of mass in pixels `(n, axes)` of shares `(n, units)`."""
    axes = [torch.arange(size, device=share.device) for size in space_of(x)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    return (share[:, None] * places).sum(2)


def _gradient(rows: Tensor, score: Score, case: Case) -> Tensor:
    return torch.autograd.grad(score(rows).sum(), rows, create_graph=True)[0]


def _product(rows: Tensor, score: Score, case: Case) -> Tensor:
    return rows * _gradient(rows, score, case)


def _path(rows: Tensor, score: Score, case: Case) -> Tensor:
    reference = case.reference()
    times = (torch.arange(NODES, dtype=rows.dtype, device=rows.device) + 0.5) / NODES
    points = reference + times.view(-1, *[1] * (rows.ndim - 1)) * (rows - reference)
    return (rows - reference) * _gradient(points, score, case).mean(0, keepdim=True)


def _substitute(method: Method | None) -> tuple[Map, int, str]:
    """Choose a map `(1, *features)` of one row that autograd can follow; its rows, and a note that names it."""
    if isinstance(method, IntegratedGradients):
        return _path, NODES, f"attacked through the path's own map with {NODES} nodes"
    if isinstance(method, InputXGradient):
        return _product, 1, "attacked through the product's own map"
    if isinstance(method, DeepLift):
        return _path, NODES, f"attacked through the map of Integrated Gradients with {NODES} nodes"
    return _gradient, 1, "attacked through the gradient's map"
