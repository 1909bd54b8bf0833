"""What an attack costs, and when it ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from ..networks import conv_net, pictures


def finding(net: nn.Module, x: torch.Tensor, method: object, **settings: object) -> ll.Finding:
    return ll.check(net, x, method, ll.Fragility(**settings), target=0)[0]  # type: ignore[arg-type]


def rows(found: ll.Finding) -> int:
    return found.forward_rows + found.backward_rows


def test_the_default_costs_a_tenth_of_the_paper_s_steps() -> None:
    """A step of the gradient's attack is 1 forward and 2 backward rows, a look and a random sign 1 and 1: 300 steps, 10
    looks and 3 signs were 926 rows of an example."""
    before = 300 * 3 + 13 * 2
    for k in (6, 60):
        found = finding(conv_net(), pictures(1), "gradient", k=k)
        assert rows(found) <= 24 * 3 + 7 * 2 < 0.1 * before


def test_the_attack_on_an_example_ends_where_nothing_is_left_to_win() -> None:
    """A linear model's gradient never moves: the first look of four finds it as before, and is the last."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double()
    found = finding(net, pictures(2), "gradient", iterations=8, looks=4)
    once = finding(net, pictures(2), "gradient", iterations=8, looks=1)
    assert found.value.tolist() == [1.0, 1.0]
    # 8 steps and a look, against 4 steps and two: the first look enters 1, the second finds nothing below it. A look at
    # two examples is 2 rows of each and the one that compares a pass of two with a pass of one.
    assert rows(once) - rows(found) == 2 * 4 * 3 - (2 * 2 + 1)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_few_iterations_need_no_other_setting(iterations: int) -> None:
    found = finding(conv_net(), pictures(2), "gradient", iterations=iterations, k=6)
    assert not found.value.isnan().any()


def test_steps_cross_eps_whatever_their_number() -> None:
    one = finding(conv_net(), pictures(2), "gradient", iterations=3, k=6)
    same = finding(conv_net(), pictures(2), "gradient", iterations=3, k=6, step=5 * (8 / 255) / 3)
    assert one.value.tolist() == same.value.tolist()
    with pytest.raises(ValueError, match=r"Fragility\.step=0: use a positive number"):
        ll.Fragility(step=0)


class Beside(nn.Module):
    """Scores of the picture in the colours that a second input weighs, all alike where it is left out."""

    def __init__(self, weights: Tensor | None = None) -> None:
        super().__init__()
        self.net, self.weights = conv_net(), weights

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        own = self.weights if weights is None else weights
        found: Tensor = self.net(x if own is None else x * own[:, :, None, None])
        return found


@pytest.mark.parametrize("method", ["gradient", "integrated-gradients"])
def test_the_attack_is_on_the_model_with_what_each_example_carries(method: str) -> None:
    x, weights = pictures(2), torch.tensor([[3.0, 0.0, -1.0], [0.5, -2.0, 0.0]], dtype=torch.float64)
    check = ll.Fragility(iterations=4, looks=1, k=6)
    found = ll.check(Beside(), x, method, check, target=1, given={"weights": weights})[0]
    for i in range(2):
        built_in = ll.check(Beside(weights[i : i + 1]), x[i : i + 1], method, check, target=1)[0]
        assert float(found.value[i]) == float(built_in.value)
        for name in ("spearman", "centre shift"):
            torch.testing.assert_close(found.detail[name][i], built_in.detail[name][0])


def test_tokens_are_not_attacked() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            found: Tensor = self.head(self.table(ids).tanh().mean(1))
            return found

    found = ll.check(Tokens(), torch.tensor([[1, 2, 3], [4, 5, 6]]), "gradient", ll.Fragility(), target=0)[0]
    assert found.value.isnan().all() and "at their embedding" in found.reason
