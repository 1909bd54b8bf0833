"""What the model gets beside the inputs: it goes along with its example through every pass of every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.checks.base import Measured
from limelight.methods.backward import PatternMethod

from .networks import CASES, OFTEN, conv_net, pictures, some_and_all

D = torch.float64


class Scaled(nn.Module):
    """A network whose maps are shifted and scaled by what each example brings."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor | None = None, sign: float = 1.0) -> Tensor:
        x = x * scale[:, None, None, None]
        found: Tensor = self.net(x if shift is None else x + shift)
        return sign * found


def alone(net: Scaled, i: int, given: dict[str, Any]) -> Any:
    """The same function of example i alone, written over the tensors that it brings."""
    own = {name: each[i : i + 1] if isinstance(each, Tensor) else each for name, each in given.items()}

    class Bound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net.net

        def forward(self, x: Tensor) -> Tensor:
            x = x * own["scale"].view(-1, 1, 1, 1) + own["shift"]
            found: Tensor = own["sign"] * self.inner(x)
            return found

    return Bound()


# CAM's model is pooling and one linear layer, which the sign here is not; patterns are of another network.
RUN = tuple(each for each in CASES if not isinstance(each, PatternMethod | ll.CAM))


@some_and_all(OFTEN, RUN)
def test_every_method_runs_each_example_with_its_own(method: ll.Method) -> None:
    net, x = Scaled(), pictures(3)
    given = {
        "scale": torch.tensor([0.5, 1.0, 2.0], dtype=D),
        "shift": torch.linspace(-0.2, 0.2, 3 * 3 * 64, dtype=D).reshape(3, 3, 8, 8),
        "sign": -1.0,
    }
    batch = ll.explain(net, x, method, target=1, given=given, seed=3)
    for i in range(3):
        one = ll.explain(alone(net, i, given), x[i : i + 1], method, target=1, seed=3)
        assert torch.allclose(batch.score[i], one.score[0], rtol=1e-12)
        assert torch.allclose(batch.values[i], one.values[0], rtol=1e-9, atol=1e-12)


def test_spellings_targets_and_rows() -> None:
    net, x = Scaled(), pictures(2)
    scale, shift = torch.tensor([0.5, 2.0], dtype=D), torch.full((2, 3, 8, 8), 0.1, dtype=D)
    named = ll.explain(net, x, "integrated-gradients", target=1, given={"scale": scale, "shift": shift})
    placed = ll.explain(net, x, "integrated-gradients", target=1, given=(scale, shift))
    assert torch.equal(named.values, placed.values)
    single = ll.explain(net, x, "integrated-gradients", target=1, given=(scale, shift), rows_per_pass=1)
    assert torch.allclose(named.values, single.values, rtol=1e-9)
    several = ll.explain(net, x, "integrated-gradients", target=[[1, 2], [0, 1]], given=(scale, shift))
    assert torch.allclose(several.values[:, 0][0], named.values[0]) and torch.allclose(
        several.values[1, 1], named.values[1]
    )
    for model in (ll.prepare(net), lambda rows, *others: net(rows, *others)):
        found = ll.explain(model, x, "integrated-gradients", target=1, given=(scale, shift))
        assert torch.allclose(named.values, found.values, rtol=1e-9)
    only = ll.explain(net, x, "gradient", target=1, given=scale)
    assert torch.allclose(only.score, net(x, scale)[:, 1])


def test_equal_inputs_with_other_arguments_stay_apart() -> None:
    net, x = Scaled(), pictures(1).expand(2, -1, -1, -1)
    scale = torch.tensor([0.5, 2.0], dtype=D)
    a = ll.explain(net, x, "deep-lift", target=[[1, 2], [1, 2]], given={"scale": scale}, baseline=0.3)
    for i in range(2):
        one = ll.explain(
            net, x[i : i + 1], "deep-lift", target=[[1, 2]], given={"scale": scale[i : i + 1]}, baseline=0.3
        )
        assert torch.allclose(a.values[i], one.values[0]) and torch.allclose(a.baseline_score[i], one.baseline_score[0])


@pytest.mark.parametrize("check", ["deletion(steps=4)", "max-sensitivity(samples=2)", "completeness", "randomisation"])
def test_checks_carry_it_along(check: str) -> None:
    net, x = Scaled(), pictures(2)
    scale = torch.tensor([0.5, 2.0], dtype=D)
    batch = ll.check(net, x, "integrated-gradients", check, target=1, given={"scale": scale})[0]
    for i in range(2):
        one = ll.check(net, x[i : i + 1], "integrated-gradients", check, target=1, given={"scale": scale[i : i + 1]})[0]
        assert torch.allclose(batch.value[i], one.value[0], rtol=1e-6, equal_nan=True)


def test_what_does_not_fit_is_named() -> None:
    net, x = Scaled(), pictures(2)
    with pytest.raises(ValueError, match=r"given: 'scale' has shape \(3,\) for 2 examples; its first axis"):
        ll.explain(net, x, "gradient", target=1, given={"scale": torch.ones(3, dtype=D)})
    with pytest.raises(TypeError, match=r"given: float; use a mapping"):
        ll.explain(net, x, "gradient", target=1, given=2.0)
    with pytest.raises(TypeError, match="scale"):
        ll.explain(net, x, "gradient", target=1)


def test_examples_that_are_checked_one_by_one_keep_what_goes_along_with_them() -> None:
    """A check that fails for a batch is run for each example alone, and the first one's weights went with all."""

    class Alone(ll.checks.Gini):
        def run(self, case: Any) -> Any:
            if len(case) > 1:
                raise ValueError("one by one")
            return Measured(case.score.values(case.x + 1))

    class Weighted(nn.Module):
        def forward(self, x: Tensor, weights: Tensor) -> Tensor:
            return x * weights

    x, weights = torch.rand(3, 2, dtype=torch.float64), torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    (found,) = ll.check(Weighted(), x, "gradient", Alone(), target=0, given=(weights.double(),))
    assert torch.equal(found.value, ((x + 1) * weights)[:, 0]) and found.forward_rows >= 3
