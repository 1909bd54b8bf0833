"""LIME, against its definition as one least-squares problem."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import limelight as ll

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64


def model(rows: Tensor) -> Tensor:
    return (rows[:, 0] * rows[:, 1] + 2 * rows[:, 2] - rows[:, 3])[:, None]


def test_all_coalitions_give_the_ridge_regression_of_the_definition() -> None:
    """Four players: all 16 coalitions, so the answer is that of one augmented least-squares problem."""
    a = ll.explain(model, torch.ones(1, 4, dtype=D), ll.Lime(alpha=0.3, kernel_width=0.4), target=0)
    z = ((torch.arange(16)[:, None] >> torch.arange(4)) & 1).to(D)
    cosine = z.sum(1) / (z.sum(1).sqrt() * 2).clamp(min=1e-300)  # with the whole input, of norm 2; 0 for nobody
    weight = torch.exp(-((1 - cosine) ** 2) / 0.4**2).sqrt()
    rows = torch.cat([torch.ones(16, 1, dtype=D), z], 1) * weight.sqrt()[:, None]
    alpha = 0.3 * 16 / 1001  # 16 rows stand for the 1,000 samples and the input itself
    penalty = torch.cat([torch.zeros(4, 1, dtype=D), alpha**0.5 * torch.eye(4, dtype=D)], 1)
    response = torch.cat([model(z)[:, 0] * weight.sqrt(), torch.zeros(4, dtype=D)])
    expected = torch.linalg.lstsq(torch.cat([rows, penalty]), response[:, None]).solution[1:, 0]
    torch.testing.assert_close(a.values[0], expected)
    assert a.forward_rows == 3 + 14 and a.stderr is None


@pytest.mark.parametrize("players", [2, 3, 4, 6])
def test_few_players_are_not_shrunk_to_nothing(players: int) -> None:
    """The penalty is small beside 1,000 samples, and so beside the few coalitions that they would repeat."""
    worth = torch.linspace(1, 2, players, dtype=D)
    f = lambda rows: (rows * worth).sum(1, keepdim=True)  # noqa: E731
    found = ll.explain(f, torch.ones(1, players, dtype=D), ll.Lime(), target=0).values[0]
    torch.testing.assert_close(found, worth, rtol=0.05, atol=0)


def test_without_penalty_a_linear_model_is_found_with_certainty() -> None:
    weight = torch.linspace(-1, 2, 30, dtype=D)
    a = ll.explain(
        lambda rows: (rows * weight).sum(1, keepdim=True), torch.ones(1, 30, dtype=D), ll.Lime(60, alpha=0.0), target=0
    )
    torch.testing.assert_close(a.values[0], weight, atol=1e-9, rtol=0)
    assert a.stderr is not None and float(a.stderr.max()) < 1e-9
    assert "example 0: R^2 1.000 of the surrogate" in a.notes


def test_the_same_seed_gives_the_same_map_and_r2_is_reported() -> None:
    x, method = pictures(2), ll.Lime(60, players=ll.Grid(4))
    first, again, other = (ll.explain(conv_net(), x, method, target=0, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.values, again.values) and not torch.equal(first.values, other.values)
    for i in range(2):
        note = next(note for note in first.notes if note.startswith(f"example {i}: R^2"))
        assert 0 < float(note.split()[3]) <= 1


def test_standard_errors_are_those_seen_over_seeds() -> None:
    f = lambda rows: (rows.sum(1, keepdim=True) / 4).sin() * 4  # noqa: E731
    runs = [ll.explain(f, torch.ones(1, 14, dtype=D), ll.Lime(300), target=0, seed=seed) for seed in range(40)]
    spread = torch.stack([run.values[0] for run in runs]).std(0).mean()
    said = torch.stack([run.stderr[0] for run in runs if run.stderr is not None]).mean()
    assert 0.75 < float(said / spread) < 1.33


def test_one_segment() -> None:
    """Present or absent: the slope of two points, shrunk by the penalty."""
    x = pictures(1)
    one = ll.Segments(torch.zeros(8, 8, dtype=torch.long))
    f = lambda rows: rows.sum((1, 2, 3))[:, None]  # noqa: E731
    plain = ll.explain(f, x, ll.Lime(alpha=0.0, players=one), target=0)
    assert float(plain.values.sum()) == pytest.approx(float(x.sum())) and plain.forward_rows == 3
    ridged = ll.explain(f, x, ll.Lime(players=one), target=0)
    w = torch.tensor([1.0, float(torch.exp(torch.tensor(-1 / (2 * 0.25**2))))])  # with it at distance 0, without at 1
    spread = float(w[0] * w[1] / w.sum())
    assert float(ridged.values.sum()) == pytest.approx(float(x.sum()) * spread / (spread + 2 / 1001), rel=1e-6)


def test_a_constant_picture_and_a_constant_model_are_answered() -> None:
    constant = torch.full((1, 3, 8, 8), 0.5, dtype=D)
    shown = ll.explain(conv_net(), constant, ll.Lime(60, players=ll.Grid(4)), target=0)
    assert torch.isfinite(shown.values).all() and bool((shown.values != 0).any())
    pytest.importorskip("skimage", reason="scikit-image is an extra")
    whole = ll.explain(conv_net(), constant, ll.Lime(players=ll.Felzenszwalb()), target=0)
    assert whole.raw is not None and whole.raw.shape == (1, 1)


def test_a_constant_model_says_so() -> None:
    silent = ll.explain(
        lambda rows: rows.flatten(1)[:, :1] * 0 + 3, pictures(1), ll.Lime(60, players=ll.Grid(4)), target=0
    )
    assert not silent.values.any()
    assert "example 0: R^2 is undefined: the score is the same for all" in silent.notes
    assert "example 0: the map is identically zero" in silent.cautions


def test_bad_settings_are_named() -> None:
    for build, words in (
        (lambda: ll.Lime(1), "Lime.samples=1"),
        (lambda: ll.Lime(kernel_width=0), "Lime.kernel_width=0"),
        (lambda: ll.Lime(alpha=-1), "Lime.alpha=-1"),
    ):
        with pytest.raises(ValueError, match=words):
            build()


def test_a_single_player_of_a_segmentation_is_a_caution_and_the_penalty_is_said() -> None:
    """Noise of 12 x 12, in which a segmentation into ten found one segment."""
    pytest.importorskip("skimage")
    x = torch.rand(1, 3, 12, 12, dtype=D, generator=torch.Generator().manual_seed(0))
    f = lambda rows: rows.sum((1, 2, 3))[:, None]  # noqa: E731
    a = ll.explain(f, x, ll.Lime(players=ll.Slic(1)), target=0)
    cautions = [each.text for each in a.cautions]
    assert any(each.startswith("slic(1) found a single player") for each in cautions)
    share = float(a.values.sum()) / float(x.sum())
    assert share < 0.9 and any(f"leaves {share:.1%} of the single player's effect" in each for each in cautions)
    assert any(each.startswith("R^2 0.") and "misses most" in each for each in cautions)
    # Without the penalty the coefficient is the whole effect, and the fit is perfect.
    b = ll.explain(f, x, ll.Lime(players=ll.Slic(1), alpha=0.0), target=0)
    assert [each.text[:7] for each in b.cautions] == ["slic(1)"] and "example 0: R^2 1.000 of the surrogate" in b.notes


def test_how_many_players_a_segmentation_found_is_a_fact() -> None:
    pytest.importorskip("skimage")
    x = torch.ones(2, 1, 24, 24, dtype=D)
    x[0, :, 12:], x[1, :, 8:16], x[1, :, 16:] = 0, 0, 0.5
    f = lambda rows: rows.sum((1, 2, 3))[:, None]  # noqa: E731
    players = ll.Felzenszwalb(1.0, sigma=0.0, min_size=20)
    for method in (ll.Lime(40, players=players), ll.FeatureAblation(players), ll.KernelShap(players=players)):
        a = ll.explain(f, x, method, target=0, baseline=0.2)
        said = [each.text for each in a.notes if "found" in each]
        assert said == [f"felzenszwalb(1.0, sigma=0.0, min_size=20) found {n} players" for n in (2, 3)]
    assert not any("found" in each for each in ll.explain(f, x, ll.FeatureAblation(ll.Grid(3)), target=0).notes)


@pytest.mark.parametrize(
    "players", [ll.Grid(1), ll.Grid((1, 1)), ll.Segments(torch.zeros(8, 8, dtype=torch.long))], ids=repr
)
def test_a_single_player_is_a_caution_however_it_came_about(players: ll.Players) -> None:
    f = lambda rows: rows.sum((1, 2, 3))[:, None]  # noqa: E731
    kinds = (ll.Lime, ll.FeatureAblation, ll.KernelShap, ll.ShapleySampling, ll.PartitionShap, ll.ShapleyInteractions)
    for kind in kinds:
        a = ll.explain(f, pictures(2), kind(players=players), target=0)
        said = f"{players.kebab()} gives a single player: the map has one value for all positions"
        assert [note.example for note in a.cautions if note.text.startswith(said)] == [0, 1]
    one = ll.explain(lambda rows: rows * 2, torch.ones(1, 1, dtype=D), ll.Lime(alpha=0.0), target=0)
    assert not one.cautions  # a table of one column has a single player by right


def test_a_map_of_segments_for_each_example_says_how_many_it_gives() -> None:
    labels = torch.stack([torch.arange(64) // 32, torch.arange(64) // 16]).reshape(2, 8, 8)
    f = lambda rows: rows.sum((1, 2, 3))[:, None]  # noqa: E731
    a = ll.explain(f, pictures(2), ll.Lime(players=ll.Segments(labels)), target=0)
    assert [(note.example, note.text) for note in a.notes if "players" in note] == [
        (0, "segments gives 2 players"),
        (1, "segments gives 4 players"),
    ]


def test_a_poor_fit_is_a_caution() -> None:
    """A score that is the parity of four players: no linear surrogate explains any of it."""
    f = lambda rows: rows.prod(1, keepdim=True)  # noqa: E731  1 for all present, baseline -1: the product of signs
    a = ll.explain(f, torch.ones(1, 4, dtype=D), ll.Lime(kernel_width=10.0), target=0, baseline=-1.0)
    assert [each.text for each in a.cautions if "R^2" in each] == [
        "R^2 0.000 of the surrogate, which misses most of the score's variance: its coefficients are no effects"
    ]
