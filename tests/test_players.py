"""Players: who owns which position, and what "absent" is."""

from __future__ import annotations

import sys

import pytest
import torch

import limelight as ll
from limelight.question.random_streams import Streams

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64
everyone = torch.arange(8)


def labels(players: ll.Players, x: torch.Tensor) -> torch.Tensor:
    return players.divide(x, everyone[: len(x)]).labels


def test_a_grid_cuts_the_picture_into_cells() -> None:
    found = labels(ll.Grid(2), pictures(1, size=4))
    assert found[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    uneven = labels(ll.Grid((1, 3)), torch.rand(1, 3, 2, 7))  # 7 columns in three cells of 3, 2 and 2
    assert uneven[0, 0].tolist() == [[0, 0, 0, 1, 1, 2, 2]] * 2


@pytest.mark.parametrize(
    ("players", "count"),
    [(ll.Grid(3), 9), (ll.Grid((2, 4)), 8), (ll.Grid(14), 64), (ll.Pixels(), 64), (ll.Features(), 192)],
    ids=repr,
)
def test_the_forecast_of_players_is_their_number(players: ll.Players, count: int) -> None:
    x = pictures(2)
    division = players.divide(x, everyone[:2])
    assert players.count(x.shape[1:]) == count and division.counts == (count, count)
    assert division.labels.shape == (x.shape if isinstance(players, ll.Features) else (2, 1, 8, 8))
    assert int(division.sizes().sum()) == division.labels.numel()


def test_a_map_of_labels_may_have_gaps_and_differ_between_examples() -> None:
    given = torch.tensor([[[5, 5], [9, -1]], [[1, 1], [1, 1]]])
    division = ll.Segments(given).divide(torch.rand(2, 3, 2, 2), everyone[:2])
    assert division.labels[:, 0].tolist() == [[[1, 1], [2, 0]], [[0, 0], [0, 0]]] and division.counts == (3, 1)
    assert ll.Segments(given[0]).count(torch.Size((3, 2, 2))) == 3
    assert ll.Segments(given) == ll.Segments(given.clone()) != ll.Segments(given[0])


def test_a_players_value_is_shared_among_its_positions() -> None:
    x = torch.ones(1, 3, 2, 2, dtype=D)
    a = ll.explain(
        lambda rows: rows.sum((1, 2, 3))[:, None], x, ll.ExactShapley(ll.Segments(torch.tensor([[0, 0], [0, 1]])))
    )
    assert a.raw is not None and a.raw.tolist() == [[9, 3]]
    assert a.values.tolist() == [[[[3, 3], [3, 3]]]] and float(a.delta) == 0


def test_examples_with_different_numbers_of_players_share_a_batch() -> None:
    given = torch.tensor([[[0, 1], [2, 3]], [[0, 0], [0, 1]]])
    x = pictures(2, size=2)
    f = lambda rows: (rows.sum(1) ** 2).flatten(1)[:, [0, 3]].prod(1)[:, None]  # noqa: E731
    a = ll.explain(f, x, ll.ExactShapley(ll.Segments(given)), target=0)
    assert a.raw is not None and a.raw.shape == (2, 4) and a.raw[1, 2:].isnan().all()
    for i in range(2):
        alone = ll.explain(f, x[i : i + 1], ll.ExactShapley(ll.Segments(given[i])), target=0)
        torch.testing.assert_close(a.values[i], alone.values[0])


def test_superpixels_follow_the_picture() -> None:
    pytest.importorskip("skimage", reason="scikit-image is an extra")
    x = torch.zeros(1, 3, 32, 32)
    x[..., 16:] = 1.0
    for players in (ll.Slic(8), ll.Felzenszwalb(min_size=20)):
        division = players.divide(x, everyone[:1])
        left, right = division.labels[..., :16].unique(), division.labels[..., 16:].unique()
        assert division.counts[0] >= 2 and not set(left.tolist()) & set(right.tolist())
        assert players.count(x.shape[1:]) is None
    assert ll.Felzenszwalb().divide(torch.ones(1, 3, 32, 32), everyone[:1]).counts == (1,)
    assert ll.Slic(8).divide(torch.rand(1, 1, 32, 32), everyone[:1]).counts[0] > 1  # one channel, too


def test_without_scikit_image_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"limelight\[segments\]"):
        ll.explain(lambda rows: rows.sum((1, 2, 3))[:, None], pictures(1), ll.Lime(players=ll.Slic()))


def test_absent_may_mean_the_segments_own_mean() -> None:
    x = torch.arange(16, dtype=D).reshape(1, 1, 4, 4)
    reference = ll.SegmentMean(ll.Grid(2)).references(x, None)[0]  # type: ignore[arg-type]
    assert reference[0, 0].tolist() == [[2.5, 2.5, 4.5, 4.5]] * 2 + [[10.5, 10.5, 12.5, 12.5]] * 2
    assert ll.SegmentMean(ll.Features()).references(x[:, 0, 0], None)[0].tolist() == x[:, 0, 0].tolist()  # type: ignore[arg-type]
    # A model that only adds up pixels does not notice that texture is gone: nobody brings anything.
    a = ll.explain(
        lambda rows: rows.sum((1, 2, 3))[:, None], x, ll.ExactShapley(ll.Grid(2)), baseline=ll.SegmentMean(ll.Grid(2))
    )
    torch.testing.assert_close(a.values, torch.zeros(1, 1, 4, 4, dtype=D))


@pytest.mark.parametrize(
    "baseline",
    [0.5, ll.Blur(1.0), ll.Mean(pictures(4, seed=9)), ll.SegmentMean(ll.Grid(2)), ll.Samples(pictures(4, seed=9), 3)],
    ids=["constant", "blur", "mean", "segment mean", "samples"],
)
def test_shapley_values_of_a_linear_model_from_any_baseline(baseline: object) -> None:
    x = pictures(2)
    weight = pictures(1, seed=5)
    f = lambda rows: (rows * weight).sum((1, 2, 3))[:, None]  # noqa: E731
    a = ll.explain(f, x, ll.ExactShapley(ll.Grid(2)), baseline=baseline)  # type: ignore[call-overload]
    # Linear: a cell brings sum w (x - mean b) over it, whoever else is there.
    streams = Streams.of(x, 0)
    from limelight.question.registries import as_baseline

    mean = as_baseline(baseline).references(x, streams.fork("baseline")).mean(0)
    cells = ((x - mean) * weight).sum(1).reshape(2, 2, 4, 2, 4).sum((2, 4)).flatten(1)
    assert a.raw is not None
    torch.testing.assert_close(a.raw, cells)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ll.Grid(0), "Grid.cells=0"),
        (lambda: ll.Segments(torch.rand(2, 2)), "integer labels"),
        (lambda: ll.Slic(0), "Slic.number=0"),
        (lambda: ll.Grid(2).divide(torch.rand(1, 5), everyone[:1]), r"Features\(\)"),
        (lambda: ll.Grid((2, 2, 2)).divide(pictures(1), everyone[:1]), "one per axis"),
        (lambda: ll.Slic().divide(torch.rand(1, 5), everyone[:1]), "needs pictures"),
        (lambda: ll.Segments(torch.zeros(3, 3, dtype=torch.long)).divide(pictures(1), everyone[:1]), r"\(8, 8\)"),
        (lambda: ll.Segments(torch.zeros(1, 8, 8, dtype=torch.long)).divide(pictures(2), everyone[:2]), "the batch's"),
        (lambda: ll.KernelShap(players=3), "KernelShap.players=3"),  # type: ignore[arg-type]
        (lambda: ll.Lime(players="words"), r"players='words': use players such as.*Words\(\)"),  # type: ignore[arg-type]
        (lambda: ll.FeatureAblation(14), r"use players such as Grid\(14\).*Segments"),  # type: ignore[arg-type]
        (lambda: ll.SegmentMean(3), "SegmentMean.players=3: use players such as"),  # type: ignore[arg-type]
        (lambda: ll.Interpolation("windows"), r"use players such as Windows\(8\)"),  # type: ignore[arg-type]
    ],
)
def test_bad_players_are_named(build: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()  # type: ignore[operator]


def test_players_are_written_in_the_methods_text() -> None:
    assert ll.parse_method("kernel-shap(players=Grid(8))") == ll.KernelShap(players=ll.Grid(8))
    assert ll.parse_method("lime(samples=50, players=slic(20))") == ll.Lime(50, players=ll.Slic(20))
    assert ll.parse_method("exact-shapley(players=grid((2, 3)))") == ll.ExactShapley(ll.Grid((2, 3)))
    assert ll.parse_method("shapley-sampling(8, players=Pixels)") == ll.ShapleySampling(8, players=ll.Pixels())
    with pytest.raises(ValueError, match="not a method"):
        ll.parse_method("Grid(8)")


LABELS = torch.arange(64).reshape(8, 8) // 16
EACH = torch.stack([LABELS, LABELS.T.contiguous()])


@pytest.mark.parametrize(
    "method",
    [
        ll.ExactShapley(players=ll.Segments(EACH)),
        ll.FeatureAblation(players=ll.Segments(EACH)),
        ll.SmoothGrad(ll.ExactShapley(players=ll.Segments(EACH)), samples=2),
    ],
)
def test_segments_of_each_example_follow_it_to_every_target(method: ll.Method) -> None:
    """Each example stands in several rows then, and each row needs its own example's segments."""
    net, x = conv_net(), pictures(2)
    baseline = ll.SegmentMean(ll.Segments(EACH))
    several = ll.explain(net, x, method, target=[[0, 1], [1, 2]], baseline=baseline)
    assert several.method == method
    for column in range(2):
        alone = ll.explain(net, x, method, target=[[0, 1][column], [1, 2][column]], baseline=baseline)
        torch.testing.assert_close(several.values[:, column], alone.values)


@pytest.mark.parametrize("chosen", [slice(1, 2), slice(0, 1)])
def test_segments_of_a_batch_are_refused_for_a_part_of_it(chosen: slice) -> None:
    x = pictures(2)[chosen]
    given = ll.Segments(EACH)
    for method, baseline in ((ll.KernelShap(players=given), 0.0), ("gradient", ll.SegmentMean(given))):
        with pytest.raises(ValueError, match=r"Segments\.map has shape \(2, 8, 8\) for 1 examples; use \(8, 8\)"):
            ll.explain(conv_net(), x, method, target=0, baseline=baseline)


def test_a_mask_of_channels_is_no_segment_of_examples() -> None:
    channels = torch.arange(3)[:, None, None].expand(3, 8, 8)
    wanted = r"\(3, 8, 8\) for 2 examples; use \(8, 8\), or one for each example, \(2, 8, 8\)"
    with pytest.raises(ValueError, match=wanted):
        ll.explain(conv_net(), pictures(2), ll.FeatureAblation(players=ll.Segments(channels)), target=0)


def test_checks_take_each_examples_own_segments() -> None:
    net, x = conv_net(), pictures(2)
    checks = [ll.Determinism(), ll.MaxSensitivity(samples=2), ll.Sensitivity(features=2)]
    for method, baseline in (
        (ll.FeatureAblation(players=ll.Segments(EACH)), 0.0),
        ("integrated-gradients(Midpoint(4))", ll.SegmentMean(ll.Segments(EACH))),
    ):
        both = ll.check(net, x, method, checks, target=0, baseline=baseline)
        assert both[0].passed is True and float(both[0].value.max()) < 1e-9
        for i in range(2):
            own = (
                ll.FeatureAblation(players=ll.Segments(EACH[i])) if baseline == 0.0 else method,
                baseline if baseline == 0.0 else ll.SegmentMean(ll.Segments(EACH[i])),
            )
            alone = ll.check(net, x[i : i + 1], own[0], checks, target=0, baseline=own[1])
            for whole, part in zip(both, alone, strict=True):
                torch.testing.assert_close(whole.value[i : i + 1], part.value)
