"""Tables `(n, columns)` and series `(n, channels, length)`: every method, players, baselines, categories, drawings."""

from __future__ import annotations

import functools
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.question.random_streams import Streams
from limelight.question.series_players import default_players

D = torch.float64
COLUMNS, SHAPE = 7, (2, 20)
ORDER = torch.tensor([4, 0, 6, 2, 5, 1, 3])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed)) - 0.3


class Table(nn.Module):
    """A small network of columns; `order` puts them back in their order first."""

    def __init__(self, order: Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.hidden, self.head = nn.Linear(COLUMNS, 8).double(), nn.Linear(8, 3).double()
        if order is not None:
            with torch.no_grad():
                self.hidden.weight.copy_(self.hidden.weight[:, order].clone())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.hidden(x)))
        return found


class Series(nn.Module):
    """A small network of two channels that ends in global average pooling."""

    def __init__(self, order: Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.act = nn.Conv1d(2, 4, 3, padding=1).double(), nn.ReLU()
        self.head = nn.Linear(4, 3).double()
        if order is not None:
            with torch.no_grad():
                self.first.weight.copy_(self.first.weight[:, order].clone())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.act(self.first(x)).mean(-1))
        return found


KINDS: dict[str, tuple[type[Table | Series], Tensor, Tensor]] = {
    "table": (Table, drawn(2, COLUMNS), ORDER),
    "series": (Series, drawn(2, *SHAPE), torch.tensor([1, 0])),
}
PICTURES = "learns masks of pictures .*use Occlusion, RISE or FeatureAblation"
CAM = "columns have no positions .*use a method of the inputs, such as IntegratedGradients, DeepLift or KernelShap"
REFUSED: dict[tuple[str, str], str] = {
    ("table", "blur-integrated-gradients"): "blurs spatial axes.*use IntegratedGradients",
    **{(kind, "xrai"): "regions of pictures.*use IntegratedGradients" for kind in KINDS},
    **{(kind, f"{name}-perturbation"): PICTURES for kind in KINDS for name in ("meaningful", "extremal")},
    **{("table", kind.kebab()): CAM for kind in ll.METHODS if kind().needs.layer},
    ("table", "conductance"): CAM,
    ("table", "internal-influence"): CAM,
    ("table", "at-layer"): CAM,
}
RUN = [(kind, method) for kind in KINDS for method in ll.METHODS if (kind, method.kebab()) not in REFUSED]


def default(kind: str, method: type[ll.Method], order: Tensor | None = None) -> ll.Method:
    """The method with its defaults; for the two that need patterns, those of the network."""
    if not issubclass(method, ll.PatternNet | ll.PatternAttribution):
        return method()
    shape = KINDS[kind][1].shape[1:]
    data = drawn(64, *shape, seed=8)
    data = data if order is None else data[:, order]
    return method(patterns=ll.estimate_patterns(KINDS[kind][0](order), [data]))


@functools.cache
def explained(kind: str, method: type[ll.Method]) -> ll.Attribution:
    network, x, _ = KINDS[kind]
    return ll.explain(network(), x, default(kind, method), target=1, rows_per_pass=512)


@pytest.mark.parametrize(("kind", "name"), REFUSED, ids=str)
def test_what_does_not_run_says_what_does(kind: str, name: str) -> None:
    network, x, _ = KINDS[kind]
    with pytest.raises(ValueError, match=REFUSED[kind, name]):
        ll.explain(network(), x, name, target=1)


@pytest.mark.parametrize(("kind", "method"), RUN, ids=str)
def test_defaults_give_a_map_of_the_inputs(kind: str, method: type[ll.Method]) -> None:
    """Of the columns, or of the positions with each channel or all of them; of a batch as of each example."""
    network, x, _ = KINDS[kind]
    a = explained(kind, method)
    assert a.values.shape in (x.shape, (len(x), 1, *x.shape[2:]))
    assert bool(a.values.isfinite().all()) and bool((a.values != 0).any())
    # Before global average pooling the gradient at a layer is the same everywhere.
    if kind == "series" and method is not ll.InternalInfluence:
        assert len(a.values[0].sum(0).unique()) > 2  # it tells positions apart
    alone = ll.explain(network(), x[1:], default(kind, method), target=1, rows_per_pass=500)
    torch.testing.assert_close(alone.values, a.values[1:], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("kind", "method"), RUN, ids=str)
def test_the_order_of_columns_and_channels_does_not_matter(kind: str, method: type[ll.Method]) -> None:
    """Columns and the network's weights in another order: the map is in that order. Random numbers are drawn by the
    content of the inputs, so sampled maps differ by their standard errors."""
    network, x, order = KINDS[kind]
    a, changed = explained(kind, method), default(kind, method, order)
    b = ll.explain(network(order), x[:, order], changed, target=1, rows_per_pass=512)
    wanted = a.values if a.values.shape[1] != x.shape[1] else a.values[:, order]
    if method is ll.PartitionShap and kind == "table":
        assert any("columns were halved in the order in which they stand" in note for note in a.cautions)
    elif a.stderr is None or not bool((a.stderr > 0).any()):
        torch.testing.assert_close(b.values, wanted, atol=1e-9, rtol=1e-7)
    else:
        assert b.stderr is not None
        first = a.stderr if a.values.shape[1] != x.shape[1] else a.stderr[:, order]
        assert bool(((b.values - wanted).abs() <= 5 * (first**2 + b.stderr**2).sqrt() + 1e-9).all())


W = torch.linspace(-1.5, 2.0, 2 * 6, dtype=D).sin()
SHARES = (
    *("integrated-gradients", "expected-gradients", "guided-integrated-gradients", "deep-lift", "deep-shap"),
    *("occlusion", "feature-ablation", "exact-shapley", "kernel-shap", "shapley-sampling", "permutation-shap"),
    *("partition-shap", "lime(alpha=0)", "shapley-interactions(effect='main')", "rise(3000)"),
)
CLOSED: dict[str, Any] = {
    **dict.fromkeys(SHARES, lambda w, x, b: w * (x - b)),
    **dict.fromkeys(("gradient", "deconv-net", "guided-backprop", "smooth-grad"), lambda w, x, b: w.expand_as(x)),
    "smooth-grad-squared": lambda w, x, b: (w**2).expand_as(x),
    "input-x-gradient": lambda w, x, b: w * x,
    "lrp(epsilon)": lambda w, x, b: w * x,
    "attn-lrp": lambda w, x, b: w * x,
    "cplrp": lambda w, x, b: w * x,
    # The whole change of the score, divided as the squares of the gradient.
    "idgi": lambda w, x, b: (w * (x - b)).flatten(1).sum(1).view(-1, *[1] * w.ndim) * w**2 / (w**2).sum(),
}


class Linear(nn.Module):
    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(weights.numel(), 1, bias=False).double()
        with torch.no_grad():
            self.layer.weight.copy_(weights.flatten())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.flatten(1))
        return found


@pytest.mark.parametrize("features", [(6,), (2, 6)], ids=["table", "series"])
@pytest.mark.parametrize("method", CLOSED)
def test_linear_models_have_the_closed_form(method: str, features: tuple[int, ...]) -> None:
    """f = sum w x from the baseline b. A map with one value for all channels holds their sum."""
    x, b, w = drawn(2, *features), drawn(1, *features, seed=5)[0], W[: math.prod(features)].reshape(features)
    a = ll.explain(Linear(w), x, method, target=0, baseline=b)
    wanted = CLOSED[method](w, x, b)
    if a.values.shape != x.shape:
        wanted = wanted.sum(1, keepdim=True)
    if a.stderr is None or not bool((a.stderr > 1e-9).any()):
        torch.testing.assert_close(a.values, wanted, atol=1e-6, rtol=1e-6)
    else:
        assert bool(((a.values - wanted).abs() <= 5 * a.stderr + 1e-9).all())


class TestPlayers:
    def test_windows_of_a_series(self) -> None:
        def labels(players: ll.Players, *features: int) -> list[Any]:
            division = players.divide(torch.zeros(1, *features), torch.arange(1))
            assert division.counts == (players.count(torch.Size(features)),)
            found: list[Any] = division.labels[0].tolist()
            return found

        assert labels(ll.Windows(3), 2, 8) == [[0, 0, 0, 1, 1, 1, 2, 2]] == labels(ll.Windows(3), 1, 8)
        assert labels(ll.Windows(3), 5) == [0, 0, 0, 1, 1]
        assert (
            labels(ll.Windows(starts=(2, 3)), 1, 6)
            == [[0, 0, 1, 2, 2, 2]]
            == labels(ll.Windows(starts=(0, 2, 3)), 1, 6)
        )
        assert labels(ll.Windows(2, channels=True), 2, 4) == [[0, 0, 1, 1], [2, 2, 3, 3]]
        assert labels(ll.Channels(), 2, 3) == [[0, 0, 0], [1, 1, 1]]
        for length, windows in ((5, 5), (16, 16), (17, 9), (100, 15), (1000, 16)):
            assert ll.Windows().count(torch.Size((3, length))) == windows

    def test_long_series_have_windows_where_no_players_are_given(self) -> None:
        sizes = [ll.KernelShap().count(torch.Size((1, length))) for length in (40, 196, 197, 1000, 100_000)]
        assert sizes == [40, 196, 99, 167, 196]
        assert [ll.ExactShapley().count(torch.Size((1, length))) for length in (16, 17, 1000)] == [16, 9, 16]
        assert default_players(torch.Size((500,)), 14) == ll.Features()
        long = drawn(1, 1, 600)
        a = ll.explain(Linear(drawn(1, 600, seed=2)), long, "kernel-shap(300)", target=0)
        assert a.raw is not None and a.raw.shape == (1, 150) and float(a.delta.abs()) < 1e-9

    def test_values_of_windows_are_those_of_the_definition(self) -> None:
        """Shapley values over four windows, from all orders written out, of a score with products across windows."""
        x, b = drawn(1, 2, 8), drawn(1, 2, 8, seed=1)
        f = ll.Differentiable(lambda rows: (rows[:, 0, :4].sum(1) * rows[:, 1, 3:].sum(1))[:, None])

        def worth(windows: tuple[int, ...]) -> float:
            row = b.clone()
            for each in windows:
                row[..., 2 * each : 2 * each + 2] = x[..., 2 * each : 2 * each + 2]
            return float(f(row))

        wanted = []
        for player in range(4):
            others = [each for each in range(4) if each != player]
            value = 0.0
            for size in range(4):
                for coalition in combinations(others, size):
                    value += (worth((*coalition, player)) - worth(coalition)) / (4 * math.comb(3, size))
            wanted.append(value)
        for method in ("exact-shapley(windows(2))", "kernel-shap(players=windows(2))"):
            a = ll.explain(f, x, method, target=0, baseline=b[0])
            assert a.raw is not None
            torch.testing.assert_close(a.raw[0], torch.tensor(wanted, dtype=D))
            torch.testing.assert_close(a.values[0, 0], a.raw[0].repeat_interleave(2) / 2)

    @pytest.mark.parametrize(
        "method",
        (
            *("exact-shapley({})", "kernel-shap(players={})", "feature-ablation({})", "lime(alpha=0, players={})"),
            *("permutation-shap(4, players={})", "shapley-sampling(4, players={})", "partition-shap(players={})"),
        ),
    )
    @pytest.mark.parametrize(
        "players", ["columns([[2, 3, 4]])", "columns('c_*')", "columns([['c_red', 'c_green', 'c_blue']])"]
    )
    def test_one_hot_columns_are_one_player_in_every_game(self, method: str, players: str) -> None:
        """f = a + 3 g(category) + b: the category's value is 3 (g(x) - g(b)), in equal parts on its columns."""
        hot, names = torch.eye(3, dtype=D), ["a", "b", "c_red", "c_green", "c_blue", "d"]
        x = torch.cat([drawn(3, 2), hot, drawn(3, 1, seed=2)], 1)
        b = torch.cat([drawn(1, 2, seed=5), hot[2:], torch.zeros(1, 1, dtype=D)], 1)
        g = torch.tensor([1.0, -2.0, 5.0], dtype=D)

        def score(rows: Tensor) -> Tensor:
            # Any mixture of columns from two categories would be far off.
            torch.testing.assert_close(rows[:, 2:5].sum(1), torch.ones(len(rows), dtype=D))
            assert bool(((rows[:, 2:5] == 0) | (rows[:, 2:5] == 1)).all())
            return (rows[:, 0] + 3 * rows[:, 2:5] @ g + rows[:, 1])[:, None]

        a = ll.explain(score, x, method.format(players), target=0, baseline=b[0], names=names)
        wanted = torch.stack([x[:, 0] - b[0, 0], x[:, 1] - b[0, 1], 3 * (g - 5), torch.zeros(3, dtype=D)], 1)
        assert a.raw is not None
        torch.testing.assert_close(a.raw, wanted, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(a.values[:, 2:5], (wanted[:, 2:3] / 3).expand(3, 3), atol=1e-9, rtol=1e-9)
        whole = ll.Columns("c_*").grouped(a)
        torch.testing.assert_close(whole.values, wanted, atol=1e-9, rtol=1e-9)
        assert whole.names == ("a", "b", "c", "d") and whole.inputs[:, 2].tolist() == [0, 1, 2]

    def test_the_columns_of_any_map_add_up_to_groups(self) -> None:
        network, x, _ = KINDS["table"]
        a = explained("table", ll.IntegratedGradients)
        whole = ll.Columns([[1, 4], [6, 5]]).grouped(a)
        wanted = [a.values[:, 0], a.values[:, 1] + a.values[:, 4], a.values[:, 2], a.values[:, 3]]
        assert torch.equal(whole.values, torch.stack([*wanted, a.values[:, 5] + a.values[:, 6]], 1))
        torch.testing.assert_close(whole.delta, a.delta, atol=1e-12, rtol=0)
        assert whole.names == ("column 1", "column 2 to column 5", "column 3", "column 4", "column 6 to column 7")
        sampled = ll.explain(network(), x, ll.SmoothGrad(samples=4), target=1)
        assert sampled.stderr is not None and ll.Columns([[1, 4]]).grouped(sampled).stderr is None

    def test_checks_remove_groups_and_windows_whole(self) -> None:
        """IROF of f = sum w x from 0: the curve falls by each group's own sum, in the order of the map's means."""
        x, w = torch.ones(1, 6, dtype=D), torch.tensor([6.0, 3.0, 3.0, 2.0, 1.0, 1.0], dtype=D)
        names = ["a", "c_1", "c_2", "d", "e", "f"]
        check = "irof(columns('c_*'), fill=0, on='score')"
        found = ll.check(Linear(w), x, "input-x-gradient", check, target=0, names=names)[0]
        torch.testing.assert_close(found.detail["curve"][0], torch.tensor([16.0, 10, 4, 2, 1, 0], dtype=D))
        series = w.reshape(1, 1, 6)
        found = ll.check(
            Linear(series[0]), series / series, "gradient", "irof(windows(2), fill=0, on='score')", target=0
        )[0]
        torch.testing.assert_close(found.detail["curve"][0], torch.tensor([16.0, 7, 2, 0], dtype=D))

    @pytest.mark.parametrize(
        ("players", "said"),
        [
            ("columns('d_*')", "no column's name fits 'd_*'; "),
            ("columns([['c_rd']])", "no column is called 'c_rd'; nearest: c_red"),
            ("columns([[9]])", "Columns.groups has column 9; the inputs have columns 0 to 3"),
            ("columns([[1, 2], 'c_*'])", "column 2 ('c_red') is in two groups, (1, 2) and 'c_*'"),
            ("columns([3, 4])", "Columns.groups=(3, 4): use a list of groups such as [[3, 4, 5]]"),
            ("columns('c')", "use a list of groups such as"),
            ("windows(0)", "Windows.length=0: use 1 or more positions, or None"),
            ("windows(2, starts=[1])", "Windows.length=2: use None where starts="),
            ("windows(starts=[3, 2])", "Windows.starts=(3, 2): use rising positions"),
            ("windows(starts=[4])", "a window begins at 4, and the series has positions 0 to 3"),
            ("channels", "use Features() for each column"),
        ],
    )
    def test_bad_players_are_named(self, players: str, said: str) -> None:
        with pytest.raises(ValueError) as error:
            names = ["a", "b", "c_red", "c_blue"]
            ll.explain(Linear(W[:4]), drawn(1, 4), f"kernel-shap(players={players})", target=0, names=names)
        assert said in str(error.value)

    def test_players_of_other_inputs_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"Columns.groups has 'c_\*', and the columns have no names; give names="):
            ll.explain(Linear(W[:4]), drawn(1, 4), "kernel-shap(players=columns('c_*'))", target=0)
        with pytest.raises(
            ValueError, match=r"of tables \(batch, columns\).*use Windows\(\) or Channels\(\) for series"
        ):
            ll.explain(Linear(W), drawn(1, 2, 6), "kernel-shap(players=columns([[0, 1]]))", target=0)
        with pytest.raises(ValueError, match=r"of series \(batch, channels, length\).*use Grid\(\)"):
            ll.explain(Linear(W), drawn(1, 1, 3, 4), "kernel-shap(players=windows(2))", target=0)


class TestBaselines:
    def of(self, baseline: ll.Baseline, x: Tensor) -> Tensor:
        return baseline.references(x, Streams.of(x, 0))

    def test_a_line_over_each_segment(self) -> None:
        x = torch.tensor([[[0.0, 1, 2, 9, 9, 9, 6, 7, 8, 3]]], dtype=D)
        line = self.of(ll.Interpolation(ll.Windows(3)), x)[0, 0, 0]
        assert line.tolist() == [9, 9, 9, 3, 4, 5, 7.5, 6, 4.5, 8]  # from 2 to 6; from 9 to 3; the ends continue
        assert self.of(ll.Interpolation(ll.Windows(10)), x).unique().tolist() == [5.4]
        assert self.of(ll.Interpolation(ll.Pixels()), x)[0, 0, 0, 1:-1].tolist() == [1, 5, 5.5, 9, 7.5, 8, 7, 5]
        both = torch.cat([x, 2 * x], 1)
        apart = ll.Segments(torch.tensor([[[0] * 5 + [1] * 5, [2] * 2 + [3] * 8]]))
        assert self.of(ll.Interpolation(apart), both)[0, 0, 1].tolist() == [4, 4, *[2] * 8]

    def test_a_straight_series_brings_nothing_but_its_ends(self) -> None:
        """Where the inputs are a line, its inner segments are as absent: their players are worth 0."""
        x = torch.arange(12.0, dtype=D).expand(1, 2, 12)
        a = ll.explain(
            Series(), x.contiguous(), "exact-shapley(windows(3))", target=0, baseline="interpolation(windows(3))"
        )
        assert a.raw is not None and a.raw[0, 1:3].abs().max() < 1e-12 < a.raw[0, [0, 3]].abs().min()

    def test_a_channels_mean_and_the_median_of_data(self) -> None:
        x = drawn(2, 3, 5)
        mean = self.of(ll.ChannelMean(), x)[0]
        torch.testing.assert_close(mean, x.mean(2, keepdim=True).expand(2, 3, 5))
        rows = torch.tensor([[1.0, 0], [2, 0], [9, 1], [4, 1]], dtype=D)
        assert self.of(ll.Median(rows), rows[:1])[0, 0].tolist() == [3, 0.5]
        assert self.of(ll.Median([rows[:1], rows[1:3]]), rows[:1])[0, 0].tolist() == [2, 0]

    def test_circular_shifts_are_the_series_at_another_time(self) -> None:
        x = drawn(2, 3, 9)
        found = self.of(ll.CircularShift(20), x)
        assert found.shape == (8, 2, 3, 9)
        for i in range(2):
            shifts = {next(s for s in range(9) if torch.equal(each[i], x[i].roll(s, -1))) for each in found}
            assert shifts == set(range(1, 9))
        assert self.of(ll.CircularShift(3), x).shape[0] == 3

    @pytest.mark.parametrize(
        "baseline", ["channel-mean", "interpolation", "circular-shift(3)", "segment-mean(windows)"]
    )
    def test_they_do_not_depend_on_the_batch(self, baseline: str) -> None:
        network, x, _ = KINDS["series"]
        for method in ("exact-shapley(windows(4))", "integrated-gradients(midpoint(4))", "occlusion(4, 4)"):
            whole = ll.explain(network(), x, method, target=0, baseline=baseline, rows_per_pass=5)
            alone = ll.explain(network(), x[1:], method, target=0, baseline=baseline)
            torch.testing.assert_close(alone.values, whole.values[1:], atol=1e-12, rtol=1e-9)
            assert bool((whole.values != 0).any())

    @pytest.mark.parametrize("baseline", ["channel-mean", "interpolation", "circular-shift"])
    def test_of_tables_they_say_what_to_use(self, baseline: str) -> None:
        with pytest.raises(ValueError, match=r"baseline: .*needs .*\(2, 7\); use .*Samples\(data\)"):
            ll.explain(Table(), KINDS["table"][1], "occlusion", target=0, baseline=baseline)
        with pytest.raises(ValueError, match=r"Median\.data holds no example"):
            ll.Median([])


class Embedded(nn.Module):
    """Two numbers and two categories, each with an embedding of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.colour, self.place = nn.Embedding(3, 4).double(), nn.Embedding(5, 2).double()
        self.hidden, self.head = nn.Linear(8, 6).double(), nn.Linear(6, 2).double()

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        return self.of(numbers, self.colour(codes[:, 0]), self.place(codes[:, 1]))

    def of(self, numbers: Tensor, colour: Tensor, place: Tensor) -> Tensor:
        found: Tensor = self.head(torch.tanh(self.hidden(torch.cat([numbers, colour, place], 1))))
        return found


class OneHot(nn.Module):
    """The same network of one-hot columns: an embedding is a linear layer of them."""

    def __init__(self, model: Embedded) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        numbers, colour, place = x.split([2, 3, 5], 1)
        return self.model.of(numbers, colour @ self.model.colour.weight, place @ self.model.place.weight)


class TestCategories:
    NUMBERS, CODES = drawn(3, 2), torch.tensor([[0, 1], [2, 4], [1, 0]])

    @pytest.mark.parametrize("method", ["integrated-gradients(midpoint(4))", "kernel-shap", "occlusion"])
    def test_given_categories_go_along_with_their_example(self, method: str) -> None:
        net = Embedded()
        a = ll.explain(net, self.NUMBERS, method, target=0, given={"codes": self.CODES})
        assert a.values.shape == (3, 2)
        for i in range(3):
            own = self.CODES[i : i + 1]
            by_hand = ll.Differentiable(lambda rows, own=own: net(rows, own.expand(len(rows), -1)))
            alone = ll.explain(by_hand, self.NUMBERS[i : i + 1], method, target=0)
            torch.testing.assert_close(a.values[i : i + 1], alone.values, atol=1e-12, rtol=1e-9)

    def test_categories_are_explained_by_one_hot_columns(self) -> None:
        """Shapley values of two numbers and two categories, from the network of codes, written out."""
        net = Embedded()
        hot = torch.cat([nn.functional.one_hot(c, k) for c, k in zip(self.CODES.T, (3, 5), strict=True)], 1)
        x, absent = torch.cat([self.NUMBERS, hot.to(D)], 1), torch.tensor([1, 3])
        b = torch.zeros(10, dtype=D)
        b[2 + 1] = b[5 + 3] = 1
        names = ["age", "bmi", *(f"colour_{k}" for k in range(3)), *(f"place_{k}" for k in range(5))]
        a = ll.explain(
            OneHot(net), x, "kernel-shap(players=columns(['colour_*', 'place_*']))", target=1, baseline=b, names=names
        )

        def worth(i: int, present: tuple[int, ...]) -> float:
            numbers = torch.stack([self.NUMBERS[i, k] * (k in present) for k in range(2)])
            codes = torch.stack([self.CODES[i, k] if k + 2 in present else absent[k] for k in range(2)])
            return float(net(numbers[None], codes[None])[0, 1].detach())

        for i in range(3):
            for player in range(4):
                others = [each for each in range(4) if each != player]
                value = sum(
                    (worth(i, (*c, player)) - worth(i, c)) / (4 * math.comb(3, size))
                    for size in range(4)
                    for c in combinations(others, size)
                )
                assert a.raw is not None and float(a.raw[i, player]) == pytest.approx(value, abs=1e-9)
        ig = ll.explain(OneHot(net), x, "integrated-gradients", target=1, baseline=b, names=names)
        whole = ll.Columns(["colour_*", "place_*"]).grouped(ig)
        assert whole.names == ("age", "bmi", "colour", "place") and float(whole.delta.abs().max()) < 1e-3
        assert whole.inputs[:, 2:].tolist() == self.CODES.tolist()

    def test_codes_of_one_embedding_are_explained_at_it(self) -> None:
        class Codes(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(1)
                self.table, self.head = nn.Embedding(8, 4).double(), nn.Linear(8, 2).double()

            def forward(self, codes: Tensor) -> Tensor:
                found: Tensor = self.head(self.table(codes).flatten(1))
                return found

        net, codes = Codes(), self.CODES + torch.tensor([0, 3])
        a = ll.explain(net, codes, "kernel-shap", target=0)
        per_code = net.head.weight[0].reshape(2, 4)
        torch.testing.assert_close(a.heatmap("sum"), (net.table(codes) * per_code).sum(2).detach())

    def test_codes_with_embeddings_of_their_own_say_what_to_do(self) -> None:
        class Apart(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two = nn.Embedding(3, 2), nn.Embedding(5, 2)

            def forward(self, codes: Tensor) -> Tensor:
                return torch.cat([self.one(codes[:, 0]), self.two(codes[:, 1])], 1)

        with pytest.raises(TypeError, match="one-hot columns where each column of codes has an embedding of its own"):
            ll.explain(Apart(), self.CODES, "gradient", target=0)


OUTPUTS = ("png", "html", "pdf", "svg", "npz", "safetensors")


def attributions(kind: str) -> list[ll.Attribution]:
    """All maps of a kind, and those that players, groups and layers make."""
    network, x, _ = KINDS[kind]
    found = [explained(of, method) for of, method in RUN if of == kind]
    if kind == "series":
        for method in (
            "exact-shapley(windows(4))",
            "feature-ablation(windows(5, channels=true))",
            "kernel-shap(players=channels)",
        ):
            found.append(ll.explain(network(), x, method, target=1, names=("lead <I>", "lead II")))
        return found
    named = ll.explain(
        network(), x, "kernel-shap(players=columns('c_*'))", target=1, names=["a", "<b>", *(f"c_{k}" for k in range(5))]
    )
    units = [
        ll.explain(network(), x, m, target=1, layer="hidden") for m in ("conductance", "internal-influence", "at-layer")
    ]
    return [*found, named, ll.Columns("c_*").grouped(named), *units]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.long
def test_every_map_is_drawn(kind: str) -> None:
    for a in attributions(kind):
        shown = a.show(1)
        assert shown.mode == "RGB" and len(shown.getcolors(2**24)) > 8
        assert "<img" in a._repr_html_()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", OUTPUTS)
def test_every_output_holds_them(kind: str, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    network, x, _ = KINDS[kind]
    methods = [
        "integrated-gradients(midpoint(4))",
        f"exact-shapley({'columns([[2, 3]])' if kind == 'table' else 'windows(4)'})",
    ]
    names = [f"name <{place}>" for place in range(x.shape[1])]
    panel = ll.explain(network(), x, methods, target=1, names=names)
    path = panel.save(tmp_path / f"map.{suffix}")
    if suffix == "npz":
        stored = np.load(path)
        assert {"integrated-gradients/values", "exact-shapley/values"} <= set(stored)
        loaded = ll.Panel.load(path)
        assert all(torch.equal(loaded[k].values, panel[k].values) and loaded[k].names == tuple(names) for k in range(2))
        assert loaded[1].method == panel[1].method
    elif suffix == "safetensors":
        loaded_one = ll.Attribution.load(path / "exact-shapley.safetensors")
        assert loaded_one.method == panel[1].method and torch.equal(loaded_one.values, panel[1].values)
    elif suffix in ("html", "svg"):
        text = path.read_text()
        assert ("name \\u003c1\\u003e" in text) if suffix == "html" else "integrated-gradients" in text
        assert "<1>" not in text
    else:
        assert path.stat().st_size > 2000


def test_a_layers_units_are_drawn_by_themselves() -> None:
    """They are no columns: beside maps of the columns the error says to draw them alone."""
    panel = ll.explain(Table(), KINDS["table"][1], ["gradient", "conductance"], target=1, layer="hidden")
    with pytest.raises(ValueError, match=r"heatmap: is 8x1 .*, its picture 7x1; .*show the map alone"):
        panel.show()
    assert panel[1].show().mode == "RGB" and "unit 8" in panel[1]._repr_html_()


def test_a_panel_of_checks_runs_on_a_table_and_on_a_series() -> None:
    """No check fails: it has a figure, or says why it does not apply."""
    for network, x, _ in KINDS.values():
        found = ll.check(network(), x, "integrated-gradients(midpoint(8))", list(ll.checks.QUICK), target=1)
        assert len(found) == len(ll.checks.QUICK)
        for each in found:
            assert bool(each.value.isfinite().all()) or each.notes, each
