"""What arithmetic rounds away is no failure of an exact method."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.base.arithmetic import rounding_of, sum_rounding
from limelight.methods import Estimate

from ..networks import conv_net, pictures


class Nearly(nn.Module):
    """A score near 9 that changes by no more than rounding between x and 0."""

    def forward(self, x: Tensor) -> Tensor:
        return 9.0 + (x[:, :1] - x[:, 1:2]) * (1 + x[:, 2:3])


X = torch.tensor([[0.5, 0.49999976, 0.3], [0.25, 0.25, 0.125]])
EXACT = ["exact-shapley", "integrated-gradients", "permutation-shap"]


@pytest.mark.parametrize("method", EXACT, ids=str)
def test_an_exact_method_is_not_blamed_for_rounding(method: ll.Method | str) -> None:
    a = ll.explain(Nearly(), X, method, target=0, baseline=0.0)
    assert (a.score - a.baseline_score).abs().max() < 1e-6
    assert not [note for note in a.cautions if "INCOMPLETE" in note]
    found = ll.check(Nearly(), X, a, ll.Completeness(), target=0)[0]
    assert found.passed is True and found.value.tolist() == [0, 0], found


def test_a_sum_where_there_is_no_change_fails() -> None:
    """Values that add up to a half where f(x) = f(b): no division by 0, no missing figure, a failure."""
    a = ll.explain(Nearly(), X, "integrated-gradients", target=0, baseline=0.0)
    object.__setattr__(a, "values", a.values + torch.tensor([[0.0, 0.0, 0.5]]))
    found = ll.check(Nearly(), X, a, ll.Completeness(), target=0)[0]
    assert found.passed is False and found.each is not None and found.each.tolist() == [False, False]
    assert bool(found.value.isfinite().all()) and float(found.value.min()) > 1


def test_the_caution_names_the_sum_where_the_change_is_rounding() -> None:
    class Doubled(ll.IntegratedGradients):
        def run(self, *given: object) -> Estimate:
            found = super().run(*given)  # type: ignore[arg-type]
            return Estimate(found.values + 0.5)

    notes = [n for n in ll.explain(Nearly(), X, Doubled(), target=0, baseline=0.0).cautions if n.kind == "incomplete"]
    assert len(notes) == 2
    assert all("which is 0 up to rounding: they sum to 1.5" in note and "inf" not in note for note in notes)


class Flat(nn.Module):
    """A score of 9 that differs between rows by no more than a few roundings."""

    def forward(self, x: Tensor) -> Tensor:
        return 9.0 + 2e-6 * torch.sin(100 * x.flatten(1).sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("method", "most", "at_first"),
    [
        ("rise(masks=2048, cells=4, tolerance=0.05)", 2048, 128),
        ("permutation-shap(permutations=64, players=grid(4), tolerance=0.05)", 64 * 15, 8 * 15),
        ("kernel-shap(samples=2048, players=grid(4), tolerance=0.05)", 2048, 256),
    ],
)
def test_sampling_ends_where_only_rounding_is_left(method: str, most: int, at_first: int) -> None:
    """No number of samples brings the error of a constant below a share of itself."""
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    a = ll.explain(Flat(), x, method, target=0, arithmetic="plain")  # on any processor
    assert a.stderr is not None and 0 < float(a.stderr.max()) <= float(rounding_of(torch.float32, a.score))
    assert not [note for note in a.notes if note.kind == "not-converged"]
    assert a.forward_rows <= at_first + 8 < most


def test_rounding_is_that_of_the_largest_number() -> None:
    eps = torch.finfo(torch.float32).eps
    at_x, at_b = torch.tensor([4.0, -1.0]), torch.tensor([-8.0, 0.5])
    assert rounding_of(torch.float32, at_x, at_b).tolist() == [64 * 8 * eps, 64 * eps]
    values = torch.tensor([[1.0, -1.0], [100.0, -100.0]])
    assert sum_rounding(values, at_x, at_b).tolist() == [64 * 8 * eps, 64 * 200 * eps]
    assert float(rounding_of(torch.int64, at_x).max()) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_fails_no_map_by_its_rounding(dtype: torch.dtype) -> None:
    """Equal maps come out .001 to .02 of their maximum apart; a zero that matters is no rounding."""
    net, x = conv_net().to(dtype), pictures(2).to(dtype)
    checks = [ll.LogitShift(), ll.Linearity(), ll.ImplementationInvariance(), ll.Determinism()]
    method = "kernel-shap(samples=64, players=grid(4))"
    for found in ll.check(net, x, method, checks, target=0):
        assert found.passed is not False, found
        for value, reason in zip(found.value.tolist(), found.reasons, strict=True):
            assert math.isnan(value) == bool(reason) and (value != value or value <= found.limit)  # type: ignore[operator]
    shifted = ll.check(net, x, "input-x-gradient", ll.InputShift(2.0), target=0)[0]
    assert shifted.value.isnan().all() or shifted.passed is False
