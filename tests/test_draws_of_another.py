"""Examples with the random numbers of another one: each map is still of its own input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limelight as ll

D = torch.float64
GAMES = (
    *("exact-shapley", "kernel-shap(samples=40)", "shapley-sampling(3)", "permutation-shap(2)", "partition-shap(20)"),
    *("shapley-interactions(2)", "lime(samples=50)"),
)


def columns() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return net, torch.randn(3, 6, dtype=D)


@pytest.mark.parametrize("method", GAMES)
def test_games_of_different_inputs_share_no_rows(method: str) -> None:
    """With the draws of the first for all, as `draws_of` allows; the scores of the coalitions are each input's own."""
    net, x = columns()
    together = ll.explain(net, x, method, target=0, draws_of=x[:1])
    for i in range(3):
        alone = ll.explain(net, x[i : i + 1], method, target=0, draws_of=x[:1])
        torch.testing.assert_close(together.values[i], alone.values[0])


@pytest.mark.parametrize("method", ["exact-shapley", "lime(samples=50)", "occlusion", "rise(masks=20)"])
def test_sensitivity_to_small_changes_is_of_the_maps_of_each_change(method: str) -> None:
    """|A(x + u) - A(x)| / |A(x)| for every u alone. Checks explain all changes together, with the draws of x."""
    net, x = columns()
    seen: list[torch.Tensor] = []

    class Noted(ll.MaxSensitivity):
        def _near(self, case: object, draw: int) -> torch.Tensor:
            seen.append(super()._near(case, draw))  # type: ignore[arg-type]
            return seen[-1]

    found = ll.check(net, x[:1], method, Noted(samples=4, radius=0.2), target=0)[0]
    own = ll.explain(net, x[:1], method, target=0).values
    changed = [ll.explain(net, each, method, target=0, draws_of=x[:1]).values for each in seen]
    expected = max(float((each - own).norm() / own.norm()) for each in changed)
    assert len(seen) == 4 and float(found.value) == pytest.approx(expected)
