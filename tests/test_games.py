"""The Shapley family, against sums over every coalition and order."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64
SAMPLED = (ll.KernelShap, ll.ShapleySampling, ll.PermutationShap)


def ones(players: int) -> Tensor:
    return torch.ones(1, players, dtype=D)


def by_definition(worth: Callable[[frozenset[int]], float], players: int) -> list[float]:
    """The mean over every order of what each player adds when it comes in."""
    total = [0.0] * players
    for order in permutations(range(players)):
        for k, player in enumerate(order):
            before = frozenset(order[:k])
            total[player] += worth(before | {player}) - worth(before)
    return [each / math.factorial(players) for each in total]


def game(table: Tensor) -> Callable[[Tensor], Tensor]:
    """A model of 0/1 features whose outputs `table[code]` are looked up, feature i being bit i of the code."""

    def model(rows: Tensor) -> Tensor:
        code = (rows.round().long() << torch.arange(rows.shape[1])).sum(1)
        return table[code].reshape(len(rows), -1)

    return model


def random_table(players: int, seed: int = 0) -> Tensor:
    return torch.randn(2**players, dtype=D, generator=torch.Generator().manual_seed(seed))


def interactions(players: int, seed: int = 0, most: int = 4) -> Tensor:
    """30 random products of 1 to `most` players."""
    generator = torch.Generator().manual_seed(seed)
    present = (torch.arange(2**players)[:, None] >> torch.arange(players)) & 1
    table = torch.zeros(2**players, dtype=D)
    for _ in range(30):
        size = int(torch.randint(1, most + 1, (), generator=generator))
        members = torch.randperm(players, generator=generator)[:size]
        table += torch.randn((), dtype=D, generator=generator) * present[:, members].prod(1)
    return table


def relu_net() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.copy_(torch.tensor([-10.0, 1, 1, 1]))
        net[2].weight.fill_(1)
        net[2].bias.fill_(-1)
    return net


@pytest.mark.parametrize("method", [ll.ExactShapley(), ll.KernelShap()], ids=repr)
def test_worked_numbers(method: ll.Method) -> None:
    # Three units relu(s + 1) are linear from 0 on, 3 s + 3. relu(s - 10) depends on the order: 20 brings 10 as the
    # first and 20 otherwise, so (10 + 20 + 20)/3 = 50/3 from it, 50 brings 140/3 and 30 brings 80/3.
    a = ll.explain(relu_net(), torch.tensor([[20.0, 50, 30]], dtype=D), method, target=0)
    expected = torch.tensor([[60 + 50 / 3, 150 + 140 / 3, 90 + 80 / 3]], dtype=D)
    torch.testing.assert_close(a.values, expected, atol=1e-10, rtol=0)
    assert [round(float(v), 4) for v in a.values[0]] == [76.6667, 196.6667, 116.6667]
    assert a.forward_rows == 1 + 1 + 1 + 6 and a.stderr is None
    pairs = lambda x: (x[:, 0] * x[:, 2] + x[:, 1] + x[:, 2] + x[:, 2] * x[:, 3])[:, None]  # noqa: E731
    b = ll.explain(pairs, ones(4), method)
    torch.testing.assert_close(b.values, torch.tensor([[0.5, 1, 2, 0.5]], dtype=D), atol=1e-12, rtol=0)


@pytest.mark.parametrize("players", [1, 2, 5])
def test_exact_values_are_the_mean_over_orders(players: int) -> None:
    table = random_table(players)
    expected = by_definition(lambda members: float(table[sum(1 << i for i in members)]), players)
    for method in (ll.ExactShapley(), ll.KernelShap()):
        found = ll.explain(game(table), ones(players), method, target=0).values[0]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=D))


@pytest.mark.parametrize("players", [11, 12])
def test_kernel_shap_is_exact_up_to_twelve_players(players: int) -> None:
    f = game(random_table(players))
    exact = ll.explain(f, ones(players), ll.ExactShapley(), target=0)
    a = ll.explain(f, ones(players), ll.KernelShap(), target=0)
    torch.testing.assert_close(a.values, exact.values)
    assert a.forward_rows == exact.forward_rows == 2**players - 2 + 3
    assert "exact: every coalition was evaluated" in a.notes
    assert ll.KernelShap().rows(torch.Size((players,))) == 2**players - 2


@pytest.mark.parametrize("samples", [14, 15, 20, 29, 30, 34, 35, 60, 200])
def test_a_linear_model_is_exact_at_any_number_of_samples_that_determines_it(samples: int) -> None:
    weight = torch.linspace(-2, 3, 15, dtype=D)
    f = lambda x: (x * weight).sum(1, keepdim=True) + 1  # noqa: E731
    a = ll.explain(f, ones(15) * 2, ll.KernelShap(samples), baseline=0.5)
    torch.testing.assert_close(a.values[0], weight * 1.5, atol=1e-10, rtol=0)
    assert a.forward_rows == 3 + (samples // 2 * 2 if samples >= 30 else samples)
    assert a.stderr is not None and (samples >= 30) == bool((a.stderr == 0).all())
    assert any("stderr is NaN" in note for note in a.notes) == (samples < 30)


def test_a_game_of_pairs_is_exact_from_twice_the_players_on() -> None:
    table = interactions(13, most=2)
    exact = ll.explain(game(table), ones(13), ll.ExactShapley(), target=0).values
    torch.testing.assert_close(ll.explain(game(table), ones(13), ll.KernelShap(26), target=0).values, exact)


def test_products_of_three_are_learnt_where_the_samples_suffice() -> None:
    """286 triples of 13 players and 13 linear effects are fixed by some 300 pairs; plain regression stays at noise."""
    table = interactions(13, most=3)
    exact = ll.explain(game(table), ones(13), ll.ExactShapley(), target=0).values
    found = ll.explain(game(table), ones(13), ll.KernelShap(900), target=0).values
    assert float((found - exact).abs().max()) < 1e-3 * float(exact.abs().max())


@pytest.mark.parametrize("method", [ll.KernelShap(13), ll.KernelShap(2), ll.Lime(15), ll.Lime(3)], ids=repr)
def test_fewer_samples_than_unknowns_are_refused(method: ll.Method) -> None:
    with pytest.raises(ValueError, match=rf"{type(method).__name__}.samples=\d+: use 1[46] or more"):
        ll.explain(lambda x: x.sum(1, keepdim=True), ones(15), method)


def test_more_samples_than_the_covariance_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"KernelShap\.samples=20000: use 16384 or less"):
        ll.explain(lambda x: x.sum(1, keepdim=True), ones(20), ll.KernelShap(20000))


def test_more_than_sixteen_players_are_too_many_for_every_coalition() -> None:
    with pytest.raises(ValueError, match="gives 17 players"):
        ll.explain(lambda x: x.sum(1, keepdim=True), ones(17), "exact-shapley")
    with pytest.raises(ValueError, match="use fewer, such as Grid"):
        ll.explain(
            lambda x: x.flatten(1).sum(1, keepdim=True), torch.ones(1, 1, 128, 128), "permutation-shap(players=Pixels)"
        )


@pytest.mark.parametrize("method", [ll.KernelShap(100), ll.ShapleySampling(8), ll.PermutationShap(8)], ids=repr)
def test_sampled_values_always_sum_to_the_change(method: ll.Method) -> None:
    a = ll.explain(game(random_table(13)), ones(13), method, target=0)
    assert abs(float(a.delta)) < 1e-10


ORDERS = (ll.ShapleySampling, ll.PermutationShap)


@pytest.mark.parametrize("tolerance", [None, 0.01])
@pytest.mark.parametrize("kind", [*ORDERS, ll.KernelShap])
def test_values_are_exact_once_every_coalition_is_known(kind: type[ll.Method], tolerance: float | None) -> None:
    """f = relu(a - 1) b + c b at (3, 2, 5) from 0: a b is 2 of f's 14 less b, c b is 10, shared by halves."""
    f = lambda x: ((x[:, 0] - 1).relu() * x[:, 1] + x[:, 2] * x[:, 1])[:, None]  # noqa: E731
    x = torch.tensor([[3.0, 2, 5]], dtype=D)
    for seed in range(20):
        a = ll.explain(f, x, kind(tolerance=tolerance), target=0, seed=seed)  # type: ignore[call-arg]
        torch.testing.assert_close(a.values, torch.tensor([[2.0, 7, 5]], dtype=D), atol=1e-12, rtol=0)
        assert a.forward_rows <= 9 and "exact: every coalition was evaluated" in a.notes
        assert a.stderr is None or bool((a.stderr == 0).all())
        assert not a.cautions


@pytest.mark.parametrize("kind", ORDERS)
def test_orders_that_cost_as_much_as_all_coalitions_run_them_all(kind: type[ll.Method]) -> None:
    """Six players have 62 coalitions, which 12 orders of 5 rows do not reach and 14 do."""
    table, features = random_table(6), torch.Size((6,))
    exact = ll.explain(game(table), ones(6), ll.ExactShapley(), target=0).values
    for seed in range(5):
        few, enough = (ll.explain(game(table), ones(6), kind(n), target=0, seed=seed) for n in (12, 14))  # type: ignore[call-arg]
        assert few.stderr is not None and bool((few.stderr > 0).all()) and few.forward_rows < 3 + 60
        assert not any("exact" in note for note in few.notes)
        assert enough.stderr is not None and bool((enough.stderr == 0).all()) and enough.forward_rows == 3 + 62
        torch.testing.assert_close(enough.values, exact)
    assert kind(14).rows(features) == 62 and kind(12).rows(features) == 60  # type: ignore[call-arg]


def test_of_several_examples_those_with_few_players_are_exact() -> None:
    """Segments of 2 and of 16 players: the note is of the example that it is true of."""
    labels = torch.stack([torch.arange(16) // 8, torch.arange(16)]).reshape(2, 4, 4)
    x = torch.rand(2, 1, 4, 4, dtype=D, generator=torch.Generator().manual_seed(0))
    f = lambda rows: rows.flatten(1).square().sum(1, keepdim=True).sin()  # noqa: E731
    for kind in (ll.ShapleySampling, ll.PermutationShap, ll.KernelShap):
        a = ll.explain(f, x, kind(40, players=ll.Segments(labels)), target=0)
        assert [note.example for note in a.notes if note.text.startswith("exact")] == [0]
        assert a.stderr is not None and bool((a.stderr[0] == 0).all()) and bool((a.stderr[1] > 0).all())


@pytest.mark.parametrize("kind", ORDERS)
def test_a_single_player_gets_the_whole_change(kind: type[ll.Method]) -> None:
    a = ll.explain(lambda x: x.exp(), torch.ones(1, 1, dtype=D), kind(), target=0)
    assert float(a.values) == pytest.approx(math.e - 1) and float(a.stderr) == 0 and not a.cautions  # type: ignore[arg-type]


def test_opposite_orders_are_exact_for_pairs_and_independent_ones_are_not() -> None:
    table = interactions(8, most=2)
    exact = ll.explain(game(table), ones(8), ll.ExactShapley(), target=0).values
    paired = ll.explain(game(table), ones(8), ll.PermutationShap(2), target=0).values
    torch.testing.assert_close(paired, exact)
    assert not torch.allclose(ll.explain(game(table), ones(8), ll.ShapleySampling(2), target=0).values, exact)


def test_no_coalition_is_run_twice() -> None:
    seen: list[tuple[float, ...]] = []

    def f(rows: Tensor) -> Tensor:
        seen.extend(tuple(row) for row in rows.tolist())
        return rows.prod(1, keepdim=True) + rows.sum(1, keepdim=True)

    x = torch.arange(1.0, 7.0, dtype=D)[None]
    for method in (ll.ShapleySampling(200), ll.PermutationShap(200), ll.KernelShap(30), ll.PartitionShap(), ll.Lime()):
        seen.clear()
        a = ll.explain(f, x, method, target=0)
        assert len(seen) == a.forward_rows
        assert len(set(seen)) == len(seen) - 1  # the probe asks about x a second time
    assert a.forward_rows == 3 + 62  # 200 orders of six players have no more to ask than this


def test_classes_of_one_example_share_their_rows() -> None:
    """The same picture once for each class costs the coalitions of one class, whatever the method."""
    net, x = conv_net(), pictures(1)
    for method in (
        ll.KernelShap(40, players=ll.Grid(3)),
        ll.PermutationShap(4, players=ll.Grid(3)),
        ll.Lime(30, players=ll.Grid(3)),
    ):
        one = ll.explain(net, x, method, target=0)
        every = ll.explain(net, x.expand(5, -1, -1, -1), method, target=range(5))
        assert every.forward_rows - (5 + 5 + 1) == one.forward_rows - (1 + 1 + 1)  # f(x), f(b), the probe
        for k in range(5):
            alone = ll.explain(net, x, method, target=k)
            torch.testing.assert_close(every.values[k], alone.values[0], atol=1e-9, rtol=1e-7)


def test_tolerance_doubles_until_it_is_met_or_gives_up() -> None:
    f = game(interactions(14, most=3))
    a = ll.explain(f, ones(14), ll.KernelShap(4096, tolerance=0.05), target=0)
    note = next(note for note in a.notes if "converged" in note)
    taken = int(note.split("after ")[1].split(" ")[0])
    assert note.startswith("example 0: converged") and taken in (128, 256, 512, 1024, 2048)
    assert a.forward_rows == 3 + taken and a.stderr is not None
    assert float(a.stderr.max() / (a.values.max() - a.values.min())) <= 0.05
    torch.testing.assert_close(a.values, ll.explain(f, ones(14), ll.KernelShap(taken), target=0).values)
    for method in (ll.KernelShap(200, tolerance=1e-9), ll.PermutationShap(20, tolerance=1e-9)):
        b = ll.explain(game(random_table(14)), ones(14), method, target=0)
        assert b.cautions and "NOT converged" in b.cautions[0] and method.rows(torch.Size((14,))) is None
    c = ll.explain(f, ones(14), ll.PermutationShap(512, tolerance=0.1), target=0)
    assert any("example 0: converged" in note for note in c.notes)


@pytest.mark.parametrize("method", [ll.KernelShap(150), ll.ShapleySampling(30), ll.PermutationShap(30)], ids=repr)
def test_standard_errors_are_honest(method: ll.Method) -> None:
    """Over 60 seeds the 95% interval holds the exact value as often as it says; 200 seeds are in the benchmark."""
    f = game(interactions(12, seed=1))
    exact = ll.explain(f, ones(12), ll.ExactShapley(), target=0).values
    inside = []
    for seed in range(60):
        a = ll.explain(f, ones(12), method, target=0, seed=seed, rows_per_pass=4096)
        assert a.stderr is not None
        inside.append((a.values - exact).abs() <= 1.96 * a.stderr)
    assert 0.90 <= float(torch.stack(inside).double().mean()) <= 0.99


def test_one_order_says_that_it_knows_no_error() -> None:
    a = ll.explain(game(random_table(5)), ones(5), ll.PermutationShap(2), target=0)
    assert a.stderr is not None and a.stderr.isnan().all() and any("stderr is NaN" in note for note in a.notes)


def owen(worth: Callable[[frozenset[int]], float], groups: list[list[int]]) -> list[float]:
    """Owen values of a game of groups by definition: mean over orders in which each group stays together."""
    players = sum(map(len, groups))
    total, count = [0.0] * players, 0
    for outer in permutations(groups):
        inner = [list(permutations(group)) for group in outer]
        for a in inner[0]:
            for b in inner[1]:
                before: frozenset[int] = frozenset()
                for player in (*a, *b):
                    total[player] += worth(before | {player}) - worth(before)
                    before |= {player}
                count += 1
    return [each / count for each in total]


def test_a_complete_halving_gives_owen_values() -> None:
    table = random_table(4)
    worth = lambda members: float(table[sum(1 << i for i in members)])  # noqa: E731
    a = ll.explain(game(table), ones(4), ll.PartitionShap(), target=0)
    torch.testing.assert_close(a.values[0], torch.tensor(owen(worth, [[0, 1], [2, 3]]), dtype=D))
    assert a.forward_rows == 3 + 10 and "exact Owen values" in a.notes[0]
    assert a.stderr is not None and bool((a.stderr == 0).all())


def nested(worth: Callable[[frozenset[int]], float], players: list[int]) -> list[float]:
    """Owen values of a recursive halving by definition: the halves' order is tossed in each group, so that each player
    comes in after the groups beside its own that went first."""

    def share(group: list[int], contexts: list[frozenset[int]]) -> dict[int, float]:
        if len(group) == 1:
            gains = [worth(context | set(group)) - worth(context) for context in contexts]
            return {group[0]: sum(gains) / len(gains)}
        left, right = group[: len(group) // 2], group[len(group) // 2 :]
        return {
            **share(left, contexts + [context | set(right) for context in contexts]),
            **share(right, contexts + [context | set(left) for context in contexts]),
        }

    found = share(players, [frozenset()])
    return [found[player] for player in players]


@pytest.mark.parametrize("players", [1, 2, 3, 5, 7, 8])
def test_a_complete_halving_is_the_mean_over_all_contexts(players: int) -> None:
    table = random_table(players)
    expected = nested(lambda members: float(table[sum(1 << i for i in members)]), list(range(players)))
    a = ll.explain(game(table), ones(players), ll.PartitionShap(), target=0)
    torch.testing.assert_close(a.values[0], torch.tensor(expected, dtype=D))
    assert a.forward_rows - 3 == (ll.PartitionShap().rows(torch.Size((players,))) or 0)


@pytest.mark.parametrize("players", [6, 13, 16])
def test_the_halving_of_a_game_of_pairs_is_exact_from_one_pair_of_contexts_on(players: int) -> None:
    """A contrast is linear in the groups beside, so that opposite contexts have the mean of all: 2 rows for the whole,
    4 for each other group, and 4 more for those of depth 2, which are run in both of their pairs."""
    table = interactions(players, most=2)
    whole = ll.PartitionShap(10**6)
    exact = ll.explain(game(table), ones(players), whole, target=0).values
    rows = 2 + 4 * (players - 2) + 4 * min(4, max(0, players - 4))
    if rows < (whole.rows(torch.Size((players,))) or 0):
        a = ll.explain(game(table), ones(players), ll.PartitionShap(rows), target=0)
        torch.testing.assert_close(a.values, exact, atol=1e-12, rtol=0)
        assert (
            a.stderr is not None and float(a.stderr.max()) < 1e-12 and f"{players} of {players} players" in a.notes[0]
        )


def test_the_halving_says_how_far_it_is_from_a_complete_one() -> None:
    """Over random games the root mean square error is as claimed, and 95% intervals hold about what they should: with
    undivided groups (66 rows; a complete halving has 170), with all divided (110), and nearly complete (150)."""
    claimed, actual, inside = ({rows: 0.0 for rows in (66, 110, 150)} for _ in range(3))
    for seed in range(12):
        f = game(interactions(16, seed=seed))
        exact = ll.explain(f, ones(16), ll.PartitionShap(10**6), target=0, rows_per_pass=4096).values
        for rows in claimed:
            a = ll.explain(f, ones(16), ll.PartitionShap(rows), target=0, rows_per_pass=4096)
            assert a.stderr is not None and a.forward_rows == 3 + rows
            claimed[rows] += float(a.stderr.norm() / exact.norm()) ** 2
            actual[rows] += float((a.values - exact).norm() / exact.norm()) ** 2
            inside[rows] += float(((a.values - exact).abs() <= 1.96 * a.stderr + 1e-12).double().mean()) / 12
    for rows in claimed:
        assert 0.6 < math.sqrt(claimed[rows] / actual[rows]) < 1.6, (rows, claimed, actual)
        assert inside[rows] > 0.82, (rows, inside)


def test_a_halving_far_from_complete_is_a_caution() -> None:
    f = game(random_table(13))
    few, many = (ll.explain(f, ones(13), ll.PartitionShap(n), target=0) for n in (10, 10**6))
    (order,) = many.cautions  # of a table: its columns are halved as they stand
    assert "columns were halved in the order" in order.text
    assert [note.kind for note in few.cautions if note.text != order.text] == ["not-converged"]
    assert re.match(
        r"example 0: \d of 13 players were separated; the map is \d+% \(root mean square\) off", few.notes[0]
    )
    assert few.stderr is not None
    share = float(few.stderr.norm() / few.values.norm())
    assert f" is {share:.0%} (root" in few.notes[0] and "takes 122 evaluations" in few.notes[0]


def test_an_undivided_group_of_no_value_is_not_said_to_be_certain() -> None:
    """Two players that cancel: no group above them shows them, and the error says that it does not know."""
    f = lambda rows: (rows[:, 14] - rows[:, 15] + rows[:, 0])[:, None]  # noqa: E731
    a = ll.explain(f, ones(16), ll.PartitionShap(14), target=0)
    assert float(a.values[0, 14]) == 0 and a.stderr is not None and float(a.stderr[0, 14]) > 0.1


def test_a_halving_that_stops_early_shares_equally_and_stays_complete() -> None:
    table = random_table(4)
    a = ll.explain(game(table), ones(4), ll.PartitionShap(2), target=0)
    both = table[15] - table[0]
    left = (table[3] - table[0] + table[15] - table[12]) / 2
    torch.testing.assert_close(a.values[0], torch.stack([left, left, both - left, both - left]) / 2)
    assert a.forward_rows == 3 + 2 and "0 of 4 players" in a.notes[0]


def test_the_halving_spends_its_budget_where_the_score_changes() -> None:
    """Only the pixel at the upper left matters: it is found among 64 by splitting its own group in each of its
    contexts, 1 + 2 + 4 + ... + 32 times, of the 1,365 splits of a complete halving."""
    x = torch.ones(1, 1, 8, 8, dtype=D)
    a = ll.explain(lambda rows: rows[:, 0, 0, 0:1] * 7, x, ll.PartitionShap(200, players=ll.Pixels()))
    assert float(a.values[0, 0, 0, 0]) == pytest.approx(7) and float(a.values.abs().sum()) == pytest.approx(7)


def test_pairs_of_coalitions_are_distinct() -> None:
    from limelight.methods.kernel_shap import _distinct
    from limelight.question.random_streams import Streams

    generator = Streams.of(torch.zeros(1, 1), 0).generators("x")[0]
    found = _distinct(generator, 1000, 12)
    codes = {frozenset((code, 4095 - code)) for code in (found.long() << torch.arange(12)).sum(1).tolist()}
    assert len(codes) == len(found) == 1000
    assert set(found.sum(1).tolist()) == set(range(2, 11))
    assert len(list(combinations(range(12), 2))) == 66  # no more than these have two players
