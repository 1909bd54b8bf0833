"""Ties at maxima: nobody gains from standing first, and two entries have one answer in every spelling."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.rules import ATTN_LRP, CP_LRP, DEEPLIFT, EXCITATION, composite, deep_taylor, multipliers
from tests.rules.helpers import constant

pytestmark = pytest.mark.quick

Pair = Callable[[Tensor, Tensor], Tensor]
MAXIMA: dict[str, Pair] = {
    "max_pool1d": lambda a, b: F.max_pool1d(torch.stack([a, b], 1)[:, None], 2)[:, 0, 0],
    "max_pool2d": lambda a, b: F.max_pool2d(torch.stack([a, b], 1)[:, None, None], (1, 2), padding=0)[:, 0, 0, 0],
    "adaptive_max_pool1d": lambda a, b: F.adaptive_max_pool1d(torch.stack([a, b], 1)[:, None], 1)[:, 0, 0],
    "amax": lambda a, b: torch.stack([a, b], 1).amax(1),
    "max over an axis": lambda a, b: torch.stack([a, b], 1).max(1).values,
    "aminmax": lambda a, b: torch.aminmax(torch.stack([a, b], 1), dim=1).max,
    "maximum": torch.maximum,
    "fmax": torch.fmax,
    "torch.max": torch.max,
    "method max": lambda a, b: a.max(b),
    "minimum of the negative": lambda a, b: -torch.minimum(-a, -b),
    "fmin of the negative": lambda a, b: -torch.fmin(-a, -b),
    "where": lambda a, b: torch.where(a > b, a, b),
    "where or equal": lambda a, b: torch.where(a >= b, a, b),
    "where below": lambda a, b: torch.where(a < b, b, a),
    "method where": lambda a, b: a.where(a > b, b),
    "clamp by a tensor": lambda a, b: a.clamp(min=b),
    "relu": lambda a, b: b + torch.relu(a - b),
    "relu, the other way": lambda a, b: a + (b - a).relu(),
    "minimum by relu": lambda a, b: a + b - (a - torch.relu(a - b)),
}


def _found(f: Pair, x: list[float], reference: list[float], rule: str) -> list[float]:
    rows, zero = torch.tensor([x], dtype=torch.float64), torch.tensor([reference], dtype=torch.float64)
    score = lambda r: f(r[:, 0], r[:, 1])  # noqa: E731
    values: list[float] = multipliers(score, rows, DEEPLIFT[rule], reference=zero).values[0].tolist()
    return values


@pytest.mark.parametrize("name", MAXIMA)
def test_two_entries_have_their_shapley_value_in_every_spelling(name: str) -> None:
    assert _found(MAXIMA[name], [2, 3], [0, 0], "reveal-cancel") == pytest.approx([1, 2], abs=1e-14)
    numbers = constant(40, 2, 2)
    for x, x0 in [*numbers.tolist(), [[1, 1], [0, 2]], [[1, 1], [2, 2]], [[0, 3], [3, 0]], [[1, 2], [1, 0]]]:
        first = (max(x[0], x0[1]) - max(x0) + max(x) - max(x0[0], x[1])) / 2
        expected = [first, max(x) - max(x0) - first]
        assert _found(MAXIMA[name], x, x0, "reveal-cancel") == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("name", [name for name in MAXIMA if "relu" not in name])
def test_rescale_shares_ties(name: str) -> None:
    """Both fall from a tie: half each. Both rise to a tie: half each. One rises alone: all of it."""
    f = MAXIMA[name]
    assert _found(f, [1, 2], [4, 4], "rescale") == pytest.approx([-1, -1])
    assert _found(f, [4, 4], [1, 2], "rescale") == pytest.approx([1, 1])
    assert _found(f, [6, 4], [0, 0], "rescale") == pytest.approx([6, 0])
    assert _found(f, [4, 4], [4, 4], "rescale") == [0, 0]


def test_the_minimum_of_two_does_not_depend_on_their_order() -> None:
    """Both tie at the baseline 0, which holds the minimum back as long as either stays there."""
    x = torch.tensor([[5.0, 2.0]]).double()
    for f in (lambda x: torch.minimum(x[:, :1], x[:, 1:]), lambda x: torch.minimum(x[:, 1:], x[:, :1])):
        for rule in ("rescale", "reveal-cancel"):
            assert ll.explain(ll.Differentiable(f), x, ll.DeepLift(rule)).values.tolist() == [[1, 1]]


@pytest.mark.parametrize(
    "method", [ll.DeepLift(), ll.DeepLift("reveal-cancel"), ll.DeepLift("genomics"), ll.DeepShap()]
)
def test_a_window_falls_from_a_flat_baseline_evenly(method: ll.Method) -> None:
    pool = nn.Sequential(nn.MaxPool2d(2), nn.Flatten()).double()
    x = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]], dtype=torch.float64)
    found = ll.explain(pool, x, method, target=0, baseline=1.0).values
    torch.testing.assert_close(found, torch.full_like(found, -0.15))


def _shapley(f: Callable[[list[float]], float], x: list[float], x0: list[float]) -> list[float]:
    """The mean over all orders in which the entries change."""
    totals, orders = [0.0] * len(x), list(itertools.permutations(range(len(x))))
    for order in orders:
        now = list(x0)
        for i in order:
            before = f(now)
            now[i] = x[i]
            totals[i] += (f(now) - before) / len(orders)
    return totals


@pytest.mark.parametrize("entries", [1, 2, 3, 4])
def test_windows_of_up_to_four_entries_have_shapley_values(entries: int) -> None:
    x, x0 = constant(6, entries), constant(6, entries, seed=1)
    x[1], x0[2] = x[1, 0], x0[2, 0]
    for least, score in (
        (False, lambda r: r.amax(1)),
        (False, lambda r: F.max_pool1d(r[:, None], entries)[:, 0, 0]),
        (True, lambda r: r.min(1)[0]),
        (True, lambda r: -F.max_pool2d(-r[:, None, None], (1, entries))[:, 0, 0, 0]),
    ):
        found = multipliers(score, x, DEEPLIFT["reveal-cancel"], reference=x0).values
        for values, row, row0 in zip(found, x.tolist(), x0.tolist(), strict=True):
            assert values.tolist() == pytest.approx(_shapley(min if least else max, row, row0), abs=1e-14)


def test_larger_windows_share_ties() -> None:
    x, x0 = torch.arange(5).double()[None], torch.ones(1, 5).double() * 6
    found = multipliers(lambda r: r.amax(1), x, DEEPLIFT["reveal-cancel"], reference=x0).values
    assert found[0].tolist() == pytest.approx([-0.4] * 5)


POOLS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "1d": (lambda x: F.max_pool1d(x, 2), (2, 8)),
    "2d": (lambda x: F.max_pool2d(x, 2), (2, 6, 6)),
    "2d overlapping": (lambda x: F.max_pool2d(x, 3, 1, 1), (2, 6, 6)),
    "2d strided and padded": (lambda x: F.max_pool2d(x, 3, 2, 1), (2, 7, 7)),
    "2d dilated": (lambda x: F.max_pool2d(x, 2, 1, 0, 2), (2, 6, 6)),
    "3d": (lambda x: F.max_pool3d(x, 2), (1, 4, 4, 4)),
    "adaptive": (lambda x: F.adaptive_max_pool2d(x, 4), (2, 6, 6)),
    "with indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], (2, 6, 6)),
    "over the map": (lambda x: x.amax((2, 3)), (2, 5, 5)),
    "over an axis": (lambda x: x.max(3).values, (2, 5, 5)),
}
RELEVANCE = [composite("epsilon"), composite("zero"), composite("epsilon-plus"), composite("gamma")]
RELEVANCE += [ATTN_LRP, CP_LRP, EXCITATION, deep_taylor()]


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_on_the_mirrored_map_has_the_same_maps(name: str) -> None:
    """Maps with many ties: small whole numbers, at x and at the reference."""
    pool, shape = POOLS[name]

    def mirrored(x: Tensor) -> Tensor:
        out = pool(x.flip(-1))
        return out.flip(-1) if out.ndim == x.ndim else out

    generator = torch.Generator().manual_seed(0)
    x, x0 = (torch.randint(-2, 3, (3, *shape), generator=generator).double() for _ in range(2))
    size = pool(x).flatten(1).shape[1]
    weight, after = constant(5, size), constant(5, seed=1)
    score = lambda f: lambda r: F.linear(f(r).flatten(1), weight).relu() @ after  # noqa: E731
    for propagation in [*DEEPLIFT.values(), *RELEVANCE]:
        given = {"reference": x0} if propagation.needs_reference else {}
        a, b = (multipliers(score(f), x, propagation, **given) for f in (pool, mirrored))
        torch.testing.assert_close(a.values, b.values, atol=1e-9, rtol=1e-9)
        if given:
            error = a.values.flatten(1).sum(1) - (score(pool)(x) - score(pool)(x0))
            assert error.abs().max() < 1e-12
        alone = multipliers(score(pool), x[1:2], propagation, **{k: v[1:2] for k, v in given.items()})
        torch.testing.assert_close(alone.values, a.values[1:2], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("method", [ll.DeepLift(), ll.DeepLift("reveal-cancel"), ll.DeepShap(), ll.LRP(), ll.AttnLRP()])
def test_a_network_with_mirrored_pools_has_the_same_maps(method: ll.Method) -> None:
    class Mirror(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool2d(x.flip(-1), 2).flip(-1)

    torch.manual_seed(0)
    conv, dense = nn.Conv2d(3, 8, 3).double(), nn.Linear(8, 4).double()
    x = torch.rand(4, 3, 34, 34).double()
    x[..., 10:20] = 0.5
    a, b = (
        ll.explain(
            nn.Sequential(conv, nn.ReLU(), pool, nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense).eval(),
            x,
            method,
            target=1,
        ).values
        for pool in (nn.MaxPool2d(2), Mirror())
    )
    assert (a - b).abs().max() <= 1e-9 * a.abs().max()


@pytest.mark.parametrize("propagation", RELEVANCE, ids=lambda each: each.name)
def test_relevance_is_shared_by_winners_that_tie(propagation: object) -> None:
    x = torch.tensor([[3.0, 3.0, 1.0, 3.0]]).double()
    for score in (
        lambda r: F.max_pool1d(r[:, None], 4)[:, 0, 0],
        lambda r: r.max(1).values,
        lambda r: r.amax(1),
        lambda r: torch.aminmax(r, dim=1)[1],
        lambda r: -((-r).min(1)[0]),
    ):
        found = multipliers(score, x, propagation).values[0]  # type: ignore[arg-type]
        expected = torch.tensor([1, 1, 0, 1]).double() * (1 / 3 if propagation is EXCITATION else 1)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
