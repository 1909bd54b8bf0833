"""Kriging of games against the direct formulas: one factor for all games on the same pairs, blocks, the same errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import limelight as ll
from limelight.methods import kriging
from limelight.methods.kernel_shap import _distinct
from limelight.methods.kriging import STRENGTHS, Kriged, Pairs, shapley_by_kriging

from .networks import conv_net, pictures

D = torch.float64


def sampled(players: int, pairs: int, games: int = 1, seed: int = 0) -> list[Pairs]:
    """Games of tanh units, on the same pairs: every player alone, then those that KernelShap draws."""
    generator = torch.Generator().manual_seed(seed)
    drawn = _distinct(np.random.Generator(np.random.Philox(key=seed)), pairs - players, players)
    coalitions = torch.cat([torch.eye(players, dtype=torch.bool), drawn])
    signs = torch.cat([torch.ones(1, players), coalitions * 2.0 - 1]).double()
    found = []
    for _ in range(games):
        weight = torch.randn(players, 5, dtype=D, generator=generator) / math.sqrt(players)
        odd = 2 * (torch.tanh(signs @ weight) * torch.arange(1, 6)).sum(1)
        found.append(Pairs(coalitions, odd[1:], float(odd[0])))
    return found


def direct(game: Pairs) -> Kriged:
    """The posterior mean and deviation by whole inverses, with an integral over each player's own product."""
    signs = torch.cat([torch.ones(1, game.coalitions.shape[1]), game.coalitions * 2.0 - 1]).double()
    data = torch.cat([torch.tensor([game.change], dtype=D), game.differences])
    pairs, players = signs.shape
    few = max(1024, 2 * players)

    def covariance(z: Tensor, c: float) -> Tensor:
        u = z @ z.T * c / players
        return (u.sinh() - u) / (math.sinh(c) - c) + 1e-9 * torch.eye(len(z), dtype=D)

    def likelihood(z: Tensor, d: Tensor, c: float) -> float:
        inverse = covariance(z, c).inverse()
        inner = z.T @ inverse @ z
        rest = inverse - inverse @ z @ inner.inverse() @ z.T @ inverse
        size = (len(d) - players) * torch.log(d @ rest @ d)
        return -0.5 * float(size + torch.logdet(covariance(z, c)) + torch.logdet(inner))

    c = max(STRENGTHS, key=lambda each: likelihood(signs[:few], data[:few], each))
    whole, a = covariance(signs, c), c / players
    inverse = whole.inverse()
    on_linear = torch.linalg.solve(signs.T @ inverse @ signs, signs.T @ inverse)
    rest = inverse - inverse @ signs @ on_linear
    nodes, weight = np.polynomial.legendre.leggauss(32)
    with_data = torch.zeros(players, pairs, dtype=D)
    for node, share in zip(nodes, weight / 2, strict=True):
        each = math.cosh(a) + node * signs * math.sinh(a)
        with_data += (share * signs * math.sinh(a) * each.prod(1, keepdim=True) / each).T
    with_data = (with_data - a * signs.T) / (math.sinh(c) - c)
    both = (math.cosh(a) + np.outer(nodes, nodes) * math.sinh(a)) ** (players - 1)
    own = (math.sinh(a) * (weight @ both @ weight) / 4 - a) / (math.sinh(c) - c)
    weights = on_linear + with_data @ rest
    variance = own - 2 * (weights * with_data).sum(1) + ((weights @ whole) * weights).sum(1)
    scale = ((rest @ data).square() / rest.diagonal())[1:].mean() * (pairs - players) / (pairs - players - 2)
    values = weights @ data
    return Kriged(values + (game.change - values.sum()) / players, (scale * variance).sqrt(), weights[:, 1:])


def close(found: Kriged, expected: Kriged) -> None:
    for name in ("values", "errors", "weights"):
        one, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(one, other, atol=1e-8 * float(other.abs().max()), rtol=0)


@pytest.mark.parametrize(("players", "pairs"), [(5, 14), (13, 40), (30, 90), (20, 1100)])
def test_values_errors_and_weights_are_those_of_the_direct_solve(
    players: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kriging, "_BLOCK", 37)
    games = sampled(players, pairs, 2 if pairs < 1000 else 1)
    for game, found in zip(games, shapley_by_kriging(games, weights=True), strict=True):
        close(found, direct(game))


def test_games_on_other_pairs_of_one_size_are_solved_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, third = sampled(8, 30), sampled(8, 30, seed=1), sampled(8, 24, seed=2)
    games = [*one, *third, *other]
    for most in (1 << 23, 1):  # several designs at a time, and one after the other
        monkeypatch.setattr(kriging, "_CELLS", {"cpu": most})
        for game, found in zip(games, shapley_by_kriging(games, weights=True), strict=True):
            close(found, direct(game))


def test_linear_games_beside_others_are_exact() -> None:
    (game,) = sampled(6, 20)
    weight = torch.linspace(-1, 2, 6, dtype=D)
    linear = Pairs(game.coalitions, (game.coalitions * 2.0 - 1).double() @ weight, float(weight.sum()))
    found, curved = shapley_by_kriging([linear, game], weights=True)
    torch.testing.assert_close(found.values, weight, atol=1e-12, rtol=0)
    assert not bool(found.errors.any())
    close(curved, direct(game))
    few = Pairs(linear.coalitions[:7], game.differences[:7], game.change)
    (unknown,) = shapley_by_kriging([few])
    assert bool(unknown.errors.isnan().all()) and float(unknown.values.sum()) == pytest.approx(game.change)


def factors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the size of every covariance that is factored from now on."""
    seen: list[int] = []
    made = kriging._Fit._covariance

    def counted(self: kriging._Fit, signs: Tensor) -> Tensor:
        seen.extend([signs.shape[1]] * len(signs))
        return made(self, signs)

    monkeypatch.setattr(kriging._Fit, "_covariance", counted)
    return seen


def test_all_targets_share_the_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, method = conv_net(), pictures(2), ll.KernelShap(150, players=ll.Grid(4))
    seen = factors(monkeypatch)
    one = ll.explain(net, x, method, target=[0, 3])
    alone = len(seen)
    seen.clear()
    several = ll.explain(net, x, method, target=[[0, 1, 2, 3, 4]] * 2)
    # For each example, and each half of its pairs, the trials are made once; a target may choose a strength of its own.
    assert alone <= 2 * 3 * (len(STRENGTHS) + 1) and len(seen) <= 2 * 3 * 2 * len(STRENGTHS)
    assert len(seen) < 2 * alone
    assert one.stderr is not None and several.stderr is not None
    torch.testing.assert_close(several.values[0, 0], one.values[0], atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(several.stderr[1, 3], one.stderr[1], atol=1e-10, rtol=1e-6)


@pytest.mark.long
def test_memory_is_a_few_covariances() -> None:
    """Of 2,048 pairs a covariance takes 32 MiB; the earlier solve held ten, and an integral for every node."""
    games = sampled(60, 2048)
    with torch.autograd.profiler.profile(profile_memory=True) as run:
        shapley_by_kriging(games)
    held = most = 0
    for event in sorted(run.kineto_results.events(), key=lambda each: each.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    assert most < 3.5 * 2049**2 * 8
