"""The contract with the model: what runs is the user's function, and its gradient is the true one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll

from .networks import CASES, patterns_for

every_case = pytest.mark.parametrize("method", CASES, ids=repr)


class Stem(nn.Module):
    """A convolution and an evaluating batch norm whose gradient arrives in channels-last strides, from tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6)
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6 * 4, 5)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 2)
            self.norm.running_mean.uniform_(-0.5, 0.5)
            self.norm.running_var.uniform_(0.5, 2)
        self.double().eval()

    def normalise(self, y: Tensor) -> Tensor:
        return self.norm(y)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.normalise(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(F.gelu(self.mix(tokens)).flatten(1))


class Functional(Stem):
    """The same through torch.nn.functional."""

    def normalise(self, y: Tensor) -> Tensor:
        norm = self.norm
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps)


class Native(Stem):
    """The same through the operator that exported programs call."""

    def normalise(self, y: Tensor) -> Tensor:
        norm = self.norm
        arguments = (norm.weight, norm.bias, norm.running_mean, norm.running_var, 0.1, norm.eps)
        return torch.ops.aten._native_batch_norm_legit_no_training(y, *arguments)[0]


class OneByOne(Stem):
    """The same, row by row inside the model, so that every norm sees a single row in any batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(OneByOne, self).forward(row) for row in x.split(1)])


class Plain(Stem):
    """The definition: scale and shift."""

    def normalise(self, y: Tensor) -> Tensor:
        norm = self.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        return y * scale[:, None, None] + shift[:, None, None]


SPELLINGS = (Stem, Functional, Native, OneByOne)
X = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("net", SPELLINGS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "method", ["gradient", "input-x-gradient", "integrated-gradients(midpoint(4))", "smooth-grad(samples=4)"]
)
def test_gradients_through_a_batch_norm_are_those_of_scale_and_shift(net: type[Stem], method: str) -> None:
    expected = ll.explain(Plain(), X, method, target=1).values
    for options in ({}, {"rows_per_pass": 1}):
        found = ll.explain(net(), X, method, target=1, **options).values  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_the_gradient_is_the_slope_of_the_score() -> None:
    net = Stem()
    direction = torch.rand(X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 0.5
    up, down = (net(X + step * 1e-5 * direction)[0, 1] for step in (1, -1))
    slope = (ll.explain(net, X, "gradient", target=1).values * direction).sum()
    assert float(slope) == pytest.approx(float(up - down) / 2e-5, rel=1e-6)


@every_case
@pytest.mark.parametrize("net", [Stem, Functional], ids=lambda kind: kind.__name__)
def test_one_picture_alone_has_the_map_that_it_has_in_a_batch(method: ll.Method, net: type[Stem]) -> None:
    model = net()

    def explained(x: Tensor, **options: Any) -> Tensor | str:
        try:
            return ll.explain(model, x, patterns_for(model, method), target=1, **options).values
        except ValueError as error:  # a method that this network does not suit
            return type(error).__name__

    whole = explained(X.expand(2, -1, -1, -1))
    for options in ({}, {"rows_per_pass": 1}):
        alone = explained(X, **options)
        if isinstance(alone, str) or isinstance(whole, str):
            assert alone == whole
        else:
            torch.testing.assert_close(alone[0], whole[0], atol=1e-12, rtol=1e-9)
