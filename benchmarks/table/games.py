"""Cases of Shapley values and surrogates whose exact values are known."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from math import factorial
from typing import Any

import numpy as np
import shap
import torch
from captum import attr
from captum._utils.models.linear_model import SkLearnLinearRegression
from lime.lime_image import LimeImageExplainer
from torch import Tensor, nn

import limelight as ll

from .row import Row

GROUPS, EACH, ROWS_ASKED, SEEDS = 7, 7, 500, 5
PLAYERS = GROUPS * EACH


class Game(nn.Module):
    """49 columns in seven groups; the score is the sum of a small network's output for each group."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Parameter(torch.randn(GROUPS, EACH, 16, dtype=torch.float64) / EACH**0.5 * 2)
            self.second = nn.Parameter(torch.randn(GROUPS, 16, dtype=torch.float64) / 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("ngi,gih->ngh", x.unflatten(1, (GROUPS, EACH)), self.first).tanh()
        return torch.einsum("ngh,gh->n", hidden, self.second)[:, None]


@cache
def example() -> tuple[Game, Tensor]:
    return Game().eval(), torch.rand(1, PLAYERS, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5


@cache
def exact() -> Tensor:
    """The Shapley values: groups do not interact, so each takes its own 2^7 coalitions."""
    net, x = example()
    subsets = torch.tensor(list(product([0.0, 1.0], repeat=EACH)), dtype=torch.float64)
    values = torch.zeros(GROUPS, EACH, dtype=torch.float64)
    place = 2 ** torch.arange(EACH - 1, -1, -1)
    for group in range(GROUPS):
        rows = torch.zeros(len(subsets), GROUPS, EACH, dtype=torch.float64)
        rows[:, group] = subsets * x.unflatten(1, (GROUPS, EACH))[0, group]
        with torch.no_grad():
            worth = net(rows.flatten(1))[:, 0]
        for player in range(EACH):
            for subset in subsets[subsets[:, player] == 0]:
                size = int(subset.sum())
                weight = factorial(size) * factorial(EACH - size - 1) / factorial(EACH)
                index = int((subset.long() * place).sum())
                values[group, player] += weight * (worth[index + int(place[player])] - worth[index])
    return values.flatten()


def _off(found: Tensor) -> float:
    return float((found.flatten() - exact()).norm() / exact().norm())


def _mean(run: Callable[[int], Tensor]) -> float:
    return float(np.mean([_off(run(seed)) for seed in range(SEEDS)]))


def _kernel_shap() -> Row:
    net, x = example()

    def ours() -> float:
        return _mean(lambda seed: ll.explain(net, x, ll.KernelShap(ROWS_ASKED), target=0, seed=seed).values)

    def captum() -> float:
        def run(seed: int) -> Tensor:
            torch.manual_seed(seed)
            found: Tensor = attr.KernelShap(net).attribute(x, target=0, n_samples=ROWS_ASKED, perturbations_per_eval=50)
            return found

        return _mean(run)

    def peer() -> float:
        def worth(rows: Any) -> Any:
            with torch.no_grad():
                return net(torch.as_tensor(rows))[:, 0].numpy()

        def run(seed: int) -> Tensor:
            np.random.seed(seed)
            explainer = shap.KernelExplainer(worth, np.zeros((1, PLAYERS)))
            found = explainer.shap_values(x.numpy(), nsamples=ROWS_ASKED, silent=True, l1_reg=False)
            return torch.as_tensor(found)

        return _mean(run)

    sides = {"limelight": ours, "captum": captum, "shap": peer}
    title = f"KernelSHAP of {PLAYERS} players by {ROWS_ASKED} rows"
    right = f"the exact values; distance as a share of their length, mean of {SEEDS} seeds (smaller is better)"
    return Row("kernel-shap", title, right, sides, None)


def _permutations() -> Row:
    net, x = example()

    def ours() -> float:
        orders = ROWS_ASKED // PLAYERS
        return _mean(lambda seed: ll.explain(net, x, ll.PermutationShap(orders), target=0, seed=seed).values)

    def captum() -> float:
        def run(seed: int) -> Tensor:
            torch.manual_seed(seed)
            orders = ROWS_ASKED // PLAYERS
            found: Tensor = attr.ShapleyValueSampling(net).attribute(
                x, target=0, n_samples=orders, perturbations_per_eval=50
            )
            return found

        return _mean(run)

    def peer() -> float:
        def worth(rows: Any) -> Any:
            with torch.no_grad():
                return net(torch.as_tensor(rows))[:, 0].numpy()

        def run(seed: int) -> Tensor:
            explainer = shap.PermutationExplainer(worth, np.zeros((1, PLAYERS)), seed=seed)
            found = explainer(x.numpy(), max_evals=ROWS_ASKED, silent=True)
            return torch.as_tensor(found.values)

        return _mean(run)

    sides = {"limelight": ours, "captum": captum, "shap": peer}
    title = f"Shapley values of {PLAYERS} players by orders, {ROWS_ASKED} rows"
    right = f"the exact values; distance as a share of their length, mean of {SEEDS} seeds (smaller is better)"
    return Row("permutations", title, right, sides, None)


def _lime() -> Row:
    """Four players have 16 coalitions: a fit over all of them does not depend on a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 3), nn.Softmax(1)).eval()
        x = torch.rand(1, 3, 16, 16)
    quarters = torch.arange(16)[:, None] // 8 * 2 + torch.arange(16) // 8

    def compared(run: Callable[[int], Tensor]) -> float:
        first, second = run(0), run(1)
        return float((first - second).norm() / first.norm())

    def ours() -> float:
        def run(seed: int) -> Tensor:
            raw = ll.explain(net, x, ll.Lime(players=ll.Segments(quarters)), target=2, seed=seed).raw
            assert raw is not None
            return raw

        return compared(run)

    def captum() -> float:
        def run(seed: int) -> Tensor:
            torch.manual_seed(seed)
            found: Tensor = attr.Lime(net, interpretable_model=SkLearnLinearRegression()).attribute(
                x, target=2, feature_mask=quarters[None, None], n_samples=1000, perturbations_per_eval=50
            )
            return found[0, 0, ::8, ::8].flatten()

        return compared(run)

    def peer() -> float:
        def scores(pictures: Any) -> Any:
            rows = torch.as_tensor(np.array(pictures), dtype=torch.float32).permute(0, 3, 1, 2)
            return net(rows).detach().numpy()

        def run(seed: int) -> Tensor:
            found = LimeImageExplainer(random_state=seed).explain_instance(
                x[0].permute(1, 2, 0).double().numpy(), scores, labels=[2], top_labels=None, hide_color=0,
                num_samples=1000, segmentation_fn=lambda _: quarters.numpy(),
            )  # fmt: skip
            return torch.tensor([value for _, value in sorted(found.local_exp[2])])

        return compared(run)

    sides = {"limelight": ours, "captum": captum, "lime": peer}
    notes = {"captum": "with a linear fit; its default, a lasso, makes all four values 0"}
    title = "LIME of 4 players, two seeds, 1,000 samples"
    right = "the same values, since there are 16 coalitions; the distance of the two (smaller is better)"
    return Row("lime-seeds", title, right, sides, None, notes=notes)


ROWS = (_kernel_shap(), _permutations(), _lime())
