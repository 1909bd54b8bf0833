"""Shapley interactions, against sums over every coalition and games whose interactions are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

import limelight as ll
from limelight.methods.interactions import _Round

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64


def by_definition(worth: Callable[[frozenset[int]], float], players: int) -> Tensor:
    """I of each pair as the sum over every coalition of the others."""
    found = torch.zeros(players, players, dtype=D)
    for i, j in combinations(range(players), 2):
        others = [k for k in range(players) if k not in (i, j)]
        for size in range(len(others) + 1):
            weight = math.factorial(size) * math.factorial(players - size - 2) / math.factorial(players - 1)
            for members in combinations(others, size):
                s = frozenset(members)
                found[i, j] += weight * (worth(s | {i, j}) - worth(s | {i}) - worth(s | {j}) + worth(s))
    return found + found.T


def looked_up(table: Tensor) -> Callable[[Tensor], Tensor]:
    """A model of 0/1 features whose outputs are looked up, feature i being bit i of the row's number."""
    return lambda rows: table[(rows.round().long() << torch.arange(rows.shape[1])).sum(1)][:, None]


def products(players: int, seed: int, most: int) -> Callable[[Tensor], Tensor]:
    """A game of 40 random products of 1 to `most` players."""
    generator = torch.Generator().manual_seed(seed)
    terms = []
    for _ in range(40):
        size = int(torch.randint(1, most + 1, (), generator=generator))
        members = torch.randperm(players, generator=generator)[:size]
        terms.append((members, float(torch.randn((), dtype=D, generator=generator))))
    return lambda rows: sum(weight * rows[:, members].prod(1) for members, weight in terms)[:, None]  # type: ignore[index]


def explained(model: Callable[[Tensor], Tensor], players: int, rounds: int = 16, **options: object) -> ll.Attribution:
    x = torch.ones(1, players, dtype=D)
    method = ll.ShapleyInteractions(rounds, **options)  # type: ignore[arg-type]
    return ll.explain(model, x, method, target=0, rows_per_pass=4096)


def matrices(a: ll.Attribution) -> tuple[Tensor, Tensor]:
    assert a.raw is not None and a.raw_stderr is not None
    return a.raw[0], a.raw_stderr[0]


@pytest.mark.parametrize("players", [1, 2, 3, 4, 6])
def test_exact_interactions_are_those_of_the_definition(players: int) -> None:
    table = torch.randn(2**players, dtype=D, generator=torch.Generator().manual_seed(players))
    a = explained(looked_up(table), players)
    raw, error = matrices(a)
    index = by_definition(lambda members: float(table[sum(1 << i for i in members)]), players)
    values = ll.explain(looked_up(table), torch.ones(1, players, dtype=D), "exact-shapley", target=0).values[0]
    torch.testing.assert_close(raw - raw.diag().diag(), index / 2)
    torch.testing.assert_close(raw.sum(1), values)  # rows sum to the Shapley values, the whole to the change
    assert float(raw.sum()) == pytest.approx(float(table[-1] - table[0]))
    torch.testing.assert_close(a.values[0], index.sum(1) / 2)
    assert bool((error == 0).all()) and a.stderr is not None and bool((a.stderr == 0).all())
    assert a.forward_rows == 3 + 2**players - 2 and "exact: every coalition was evaluated" in a.notes
    main = explained(looked_up(table), players, effect="main")
    torch.testing.assert_close(main.values[0], raw.diag())
    torch.testing.assert_close(main.values + a.values, values[None])


@pytest.mark.parametrize("players", [5, 13, 14])
def test_a_linear_game_has_no_interactions(players: int) -> None:
    weight = torch.linspace(-2, 3, players, dtype=D)
    a = explained(lambda rows: (rows @ weight)[:, None] + 1, players, rounds=2)
    torch.testing.assert_close(matrices(a)[0], weight.diag(), atol=1e-12, rtol=0)
    assert any("no interaction of two players differs from 0" in note for note in a.notes)
    x = torch.rand(1, 5, generator=torch.Generator().manual_seed(0)) * 300
    b = ll.explain(lambda rows: (rows * 0.1).sum(1, keepdim=True), x, "shapley-interactions", target=0)
    assert any("no interaction" in note for note in b.notes)  # what rounding leaves in float32 is none


@pytest.mark.parametrize("players", [2, 5, 13, 16])
def test_a_product_of_two_players_is_shared_by_both(players: int) -> None:
    """Half of it in each of the two places, and no main effect."""
    a = explained(lambda rows: 3 * rows[:, :1] * rows[:, 1:2], players, rounds=2)
    expected = torch.zeros(players, players, dtype=D)
    expected[0, 1] = expected[1, 0] = 1.5
    torch.testing.assert_close(matrices(a)[0], expected, atol=1e-12, rtol=0)
    assert any("strongest interactions of 1 that differ from 0: players 0 and 1: 3 +- 0" in note for note in a.notes)


@pytest.mark.parametrize("players", [3, 4, 5])
def test_symmetric_games(players: int) -> None:
    """Each size of S has the weight 1 / (M - 1). All needed: 1 for the others all there. One is enough: -1 for nobody.
    A quota q between: 1 for |S| = q - 2, -1 for |S| = q - 1, nothing in all."""
    for quota in range(1, players + 1):
        raw, _ = matrices(explained(lambda rows, q=quota: (rows.sum(1, keepdim=True) >= q).to(D), players))  # type: ignore[misc]
        index = {1: -1.0, players: 1.0}.get(quota, 0.0) / (players - 1)
        off = ~torch.eye(players, dtype=torch.bool)
        torch.testing.assert_close(raw[off], torch.full((players * (players - 1),), index / 2, dtype=D))
        torch.testing.assert_close(raw.sum(1), torch.full((players,), 1 / players, dtype=D))


@pytest.mark.parametrize("players", [13, 14])
def test_sampled_products_of_three_are_exact(players: int) -> None:
    """A mixed difference is then linear in the players before, and each order has its reverse."""
    f = products(players, 0, most=3)
    sampled, exact = explained(f, players, rounds=2), explained(f, players, rounds=200)
    assert any("exact" in note for note in exact.notes) and not any("exact" in note for note in sampled.notes)
    main = ~torch.eye(players, dtype=torch.bool)
    torch.testing.assert_close(matrices(sampled)[0][main], matrices(exact)[0][main], atol=1e-12, rtol=0)


@pytest.mark.parametrize("players", [2, 3, 6, 7])
def test_each_two_are_neighbours_once_in_each_direction_after_any_number_of_players(players: int) -> None:
    drawn = _Round(torch.randperm(players, generator=torch.Generator().manual_seed(0)))
    seen: dict[tuple[int, int], int] = {}
    after = torch.zeros(players - 1)
    for order, flags in zip(drawn.orders.tolist(), drawn.neighbours.tolist(), strict=True):
        assert sorted(order) == list(range(players))
        for k, flag in enumerate(flags):
            if flag:
                seen[order[k], order[k + 1]] = seen.get((order[k], order[k + 1]), 0) + 1
                after[k] += 1
    assert len(seen) == players * (players - 1) and set(seen.values()) == {1}
    assert len(after.unique()) == 1  # each size of S is as frequent, as the index weighs them


@pytest.mark.parametrize("players", [13, 14])
def test_sampled_interactions_have_no_bias_and_honest_errors(players: int) -> None:
    f = products(players, 1, most=7)
    exact, _ = matrices(explained(f, players, rounds=200))
    x = torch.ones(1, players, dtype=D)
    inside, mean = [], torch.zeros_like(exact)
    for seed in range(20):
        a = ll.explain(f, x, ll.ShapleyInteractions(8), target=0, seed=seed, rows_per_pass=8192)
        raw, error = matrices(a)
        assert float(raw.sum()) == pytest.approx(float(exact.sum())) and bool((raw == raw.T).all())
        inside.append((raw - exact).abs() <= 2.36 * error + 1e-12)  # 95% of Student's t with 7 degrees of freedom
        mean += raw / 20
        assert a.stderr is not None and a.forward_rows <= 3 + (ll.ShapleyInteractions(8).rows(x.shape[1:]) or 0)
    assert 0.9 <= float(torch.stack(inside).double().mean()) <= 0.99
    spread = float((mean - exact).norm() / exact.norm())
    assert spread < 0.1


def test_a_single_round_knows_no_error() -> None:
    a = explained(products(13, 0, most=5), 13, rounds=1)
    assert a.stderr is not None and bool(a.stderr.isnan().all()) and any("stderr is NaN" in each for each in a.cautions)
    assert not any("exact" in note for note in a.notes)


def test_pictures_several_references_and_files(tmp_path: object) -> None:
    """Players of different numbers are padded by NaN; errors of several references hold those between them."""
    labels = torch.stack([torch.arange(64) // 32, torch.arange(64) // 16]).reshape(2, 8, 8)
    method = ll.ShapleyInteractions(players=ll.Segments(labels))
    a = ll.explain(conv_net(), pictures(2), method, target=0)
    assert a.raw is not None and a.raw.shape == (2, 4, 4) and bool(a.raw[0, 2:].isnan().all())
    torch.testing.assert_close(a.raw.nansum((1, 2)), a.score - a.baseline_score)
    b = ll.explain(
        conv_net(), pictures(2), method, target=[[0, 1], [2, 3]], baseline=ll.Samples(pictures(3, seed=5), 3)
    )
    assert b.raw is not None and b.raw_stderr is not None and b.raw.shape == b.raw_stderr.shape == (2, 2, 4, 4)
    assert bool((b.raw_stderr[1] > 0).all())
    saved = ll.Attribution.load(b.save(f"{tmp_path}/b.safetensors"))
    assert saved.raw_stderr is not None and torch.equal(saved.raw_stderr[1], b.raw_stderr[1])
