"""Ghorbani's attack: a change nobody sees that keeps the answer and moves the map."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..base.named import require
from ..base.similarity import rank_correlation
from ..engine.model_copy import frozen_copy
from ..methods import InputXGradient, IntegratedGradients, Method
from ..model_edits.smooth_relu import Softened
from .base import Better, Check, Kind, Measured, NotApplicable, nan_where
from .case import Case
from .maps import space_of
from .similarity import top_overlap
from .stability import other_class

NODES = 8  # of the path whose map is attacked


@dataclass(frozen=True)
class Fragility(Check):
    r"""How much of the map's top k stays when an attacker moves each value by at most `eps` and keeps the label.

    From a random start within eps, `iterations` steps $x \leftarrow x - \alpha\,\mathrm{sign} \nabla D$, clipped to
    eps, where D is the share of |A| on the original top k ("top-k") or minus the squared distance of its centre of mass
    ("centre"). The gradient is that of a smooth stand-in for the map (softplus for ReLU, `beta`): the path's for
    IntegratedGradients, the product's for InputXGradient, the plain gradient's for all other methods, whose maps it
    then attacks by transfer. What is reported is always the method's own map on the model as it is, at the worst of
    `looks` iterates that keep the label.

    A model without classes has no label to keep. Value: overlap of the top k; `detail`: Spearman of |A|, the shift of
    the centre in pixels, and the overlap under random signs of the same size, the control. k is `k`, or 1000 of
    224 x 224 pixels, 2% of others. [ghorbani2019]
    """

    eps: float = 8 / 255
    step: float = 0.5 / 255
    iterations: int = 300
    loss: Literal["top-k", "centre"] = "top-k"
    k: int | None = None
    beta: float = 30.0
    looks: int = 10
    kind: ClassVar[Kind] = "robustness"
    better: ClassVar[Better | None] = "higher"
    needs_method: ClassVar[bool] = True
    meaning: ClassVar[str] = "share of the top pixels that survive an attack nobody can see"

    def __post_init__(self) -> None:
        require(self.loss in ("top-k", "centre"), self, "loss", "'top-k' or 'centre'")
        require(self.eps > 0, self, "eps", "a positive number")
        require(self.iterations >= 1, self, "iterations", "1 or more")
        require(1 <= self.looks <= self.iterations, self, "looks", "1 to iterations")

    def maps(self) -> float:
        return float(self.looks + 3 + 4 * self.iterations)

    def run(self, case: Case) -> Measured:
        if not isinstance(case.model, nn.Module) or case.target.layer is not None:
            raise NotApplicable(
                "the attack follows the gradient of the map, which needs a module and a score of its outputs"
            )
        own = _per_unit(case.attribution.values)
        count = own.shape[1]
        k = min(self.k or (1000 if count == 224 * 224 else max(1, count // 50)), count)
        chosen = torch.zeros_like(own).scatter_(1, own.topk(k, dim=1).indices, 1.0)
        worst = torch.full((len(case),), 2.0, dtype=torch.float64)
        detail = {name: torch.full_like(worst, torch.nan) for name in ("spearman", "centre shift")}
        points = NODES if isinstance(case.method, IntegratedGradients) else 1
        at = {round((j + 1) * self.iterations / self.looks) for j in range(self.looks)}
        with ExitStack() as stack:
            module = stack.enter_context(frozen_copy(case.model)).module
            start = 2 * case.rng.uniform("start", case.x.shape[1:], case.x) - 1
            moved = case.x + self.eps * start
            for iteration in range(1, self.iterations + 1):
                slope = torch.cat(
                    [self._slope(module, case.select([i]), moved[i : i + 1], own, chosen, i) for i in range(len(case))]
                )
                moved = case.x + (moved - self.step * slope.sign() - case.x).clamp(-self.eps, self.eps)
                case.score.runner.forward_rows += points * len(case)
                case.score.runner.backward_rows += 2 * points * len(case)  # the map, and its derivative
                if iteration in at:
                    self._look(case, moved, own, k, worst, detail)
        control = []
        for draw in range(3):
            signs = (case.rng.uniform(f"signs {draw}", case.x.shape[1:], case.x) - 0.5).sign()
            control.append(top_overlap(own, _per_unit(case.explain(x=case.x + self.eps * signs).values), k))
        detail["random signs"] = torch.stack(control).mean(0)
        values, reasons = nan_where(worst, worst > 1, "the attack never kept the label")
        return Measured(values, detail=detail, reasons=reasons, notes=(_described(case.method),))

    def _slope(self, module: nn.Module, case: Case, moved: Tensor, own: Tensor, chosen: Tensor, i: int) -> Tensor:
        """Gradient of D at one attacked example; zeros where the stand-in has none."""
        with torch.enable_grad(), Softened(self.beta):
            leaf = moved.detach().requires_grad_()
            units = _per_unit(_stand_in(case.method, case.reference())(leaf, lambda r: _scores(module, case, r)))
            share = units / units.sum(1, keepdim=True).clamp(min=1e-30)
            if self.loss == "top-k":
                aim = (share * chosen[i : i + 1]).sum()
            else:
                before = own[i : i + 1] / own[i : i + 1].sum().clamp(min=1e-30)
                aim = -(_centre(share, case.x) - _centre(before, case.x)).square().sum()
            if not aim.requires_grad:
                return torch.zeros_like(moved)
            return torch.autograd.grad(aim, leaf)[0]

    def _look(self, case: Case, moved: Tensor, own: Tensor, k: int, worst: Tensor, detail: dict[str, Tensor]) -> None:
        found = case.explain(x=moved)
        units = _per_unit(found.values)
        overlap = top_overlap(own, units, k).cpu()
        changed = other_class(case, found)
        kept = torch.ones_like(overlap, dtype=torch.bool) if changed is None else ~changed.cpu()
        better = kept & (overlap < worst)
        worst[better] = overlap[better]
        shift = (_centre(_share(units), case.x) - _centre(_share(own), case.x)).norm(dim=1)
        detail["spearman"][better] = rank_correlation(own, units).cpu()[better]
        detail["centre shift"][better] = shift.double().cpu()[better]


def _scores(module: nn.Module, case: Case, rows: Tensor) -> Tensor:
    owner = case.score.examples[:1].expand(len(rows))
    return case.target(module(rows), owner)


def _per_unit(values: Tensor) -> Tensor:
    """|A| of each unit `(n, units)`, absolute values summed over channels."""
    return (values.abs().sum(1) if values.ndim > 2 else values.abs()).flatten(1)


def _share(units: Tensor) -> Tensor:
    return units / units.sum(1, keepdim=True).clamp(min=torch.finfo(units.dtype).tiny)


def _centre(share: Tensor, x: Tensor) -> Tensor:
    """Centre of mass in pixels `(n, axes)` of shares `(n, units)`."""
    space = space_of(x)
    grid = share.reshape(len(share), *space)
    return torch.stack(
        [
            (grid.sum([a + 1 for a in range(len(space)) if a != axis]) * torch.arange(size, device=share.device)).sum(1)
            if len(space) > 1
            else (grid * torch.arange(size, device=share.device)).sum(1)
            for axis, size in enumerate(space)
        ],
        dim=1,
    )


Map = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


def _stand_in(method: Method | None, reference: Tensor) -> Map:
    """A map `(1, *features)` of one attacked row that autograd can follow."""

    def gradient(rows: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(f(rows).sum(), rows, create_graph=True)[0]

    def product(rows: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        return rows * gradient(rows, f)

    def path(rows: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        times = (torch.arange(NODES, dtype=rows.dtype, device=rows.device) + 0.5) / NODES
        points = reference + times.view(-1, *[1] * (rows.ndim - 1)) * (rows - reference)
        slopes = torch.autograd.grad(f(points).sum(), points, create_graph=True)[0]
        return (rows - reference) * slopes.mean(0, keepdim=True)

    if isinstance(method, IntegratedGradients):
        return path
    return product if isinstance(method, InputXGradient) else gradient


def _described(method: Method | None) -> str:
    if isinstance(method, IntegratedGradients):
        return f"attacked through the path's own map with {NODES} nodes"
    if isinstance(method, InputXGradient):
        return "attacked through the product's own map"
    return "attacked through the gradient's map"
