"""Numbers worked out by hand, from the definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.checks import Fill, MeanColour, NoisyLinear, masks_of_boxes
from limelight.checks.base import relative_difference
from limelight.checks.harmonic import harmonic
from limelight.checks.maps import grid_labels, hog, order_of, pearson, places_of, ssim, top_overlap
from limelight.evaluation.evaluate import interval
from limelight.model_edits.smooth_relu import Softened
from limelight.question.random_streams import Streams

from ..networks import ReluOfDifference


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1, keepdim=True)


def one(check: ll.Check, x: Tensor, values: Tensor, model: nn.Module | None = None, **options: object) -> ll.Finding:
    return ll.check(model or Sum(), x, values, check, **options)[0]  # type: ignore[arg-type]


X = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)


def test_deletion_and_insertion_of_a_sum() -> None:
    deletion = one(ll.Deletion(steps=2), X, X)
    assert deletion.detail["curve"][0].tolist() == pytest.approx([1, 0.3, 0])
    assert float(deletion.value) == pytest.approx(0.4)  # (1 + .3 + 0 - 1/2 - 0) / 2
    insertion = one(ll.Insertion(fill=0.0, steps=2), X, X)
    assert insertion.detail["curve"][0].tolist() == pytest.approx([0, 0.7, 1])
    assert float(insertion.value) == pytest.approx(0.6)


@pytest.mark.parametrize("steps", [4, 8, 32])
def test_more_steps_than_units_are_a_step_for_each_unit(steps: int) -> None:
    """The curve is 1, .6, .3, .1, 0 whatever the steps; with 8 of them it was in places of .25, .125 and .375."""
    found = one(ll.Deletion(steps=steps), X, X)
    assert found.detail["curve"][0].tolist() == pytest.approx([1, 0.6, 0.3, 0.1, 0])
    assert float(found.value) == pytest.approx((0.5 + 0.6 + 0.3 + 0.1) / 4)
    assert float(one(ll.Insertion(steps=steps), X, X).value) == pytest.approx((0.4 + 0.7 + 0.9 + 0.5) / 4)
    # The lowest first leaves 1, .9, .7, .4, 0.
    gain = one(ll.SRG((Fill(0.0),), steps=steps), X, X)
    assert float(gain.value) == pytest.approx((0.9 + 0.7 + 0.4 - 0.6 - 0.3 - 0.1) / 4)


def test_a_difference_from_an_undefined_map_is_undefined() -> None:
    """It was 0, with which a hard check passes."""
    some, undefined, zero = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, math.nan]]), torch.zeros(1, 2)
    assert relative_difference(some, undefined).isnan().all() and relative_difference(undefined, some).isnan().all()
    assert relative_difference(some, zero).tolist() == [1] and relative_difference(zero, zero).tolist() == [0]


def test_one_row_of_a_picture_is_one_step() -> None:
    x = torch.rand(1, 1, 4, 6, dtype=torch.float64)
    assert one(ll.Deletion(), x, x).detail["curve"].shape == (1, 5)  # nothing gone, then four rows' worth of pixels


def test_pixel_flipping_of_relu() -> None:
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    model = ReluOfDifference()
    found = one(ll.PixelFlipping(fill=0.0), x, torch.tensor([[2.0, -1.0]], dtype=torch.float64), model)
    assert found.detail["curve"][0].tolist() == [1, 0, 0]
    assert found.detail["aopc"][0].tolist() == pytest.approx([0, 0.5, 2 / 3])
    assert float(found.value) == pytest.approx(2 / 3)


def test_srg_of_a_sum() -> None:
    # Mean 0.25 in place of what goes. MoRF [1, .85, .8, .85, 1], LeRF [1, 1.15, 1.2, 1.15, 1]; areas .875 and 1.125.
    found = one(ll.SRG(imputers=(MeanColour(),), steps=4), X, X)
    assert float(found.value) == pytest.approx(0.25)


def test_irof_of_a_sum() -> None:
    # 1 - f_k / f_0 as .4, .3, .2, .1 go: .4, .7, .9, 1.
    assert float(one(ll.IROF(fill=0.0), X, X).value) == pytest.approx(0.75)
    halves = torch.tensor([0, 0, 1, 1])  # .7, 1
    assert float(one(ll.IROF(segments=halves, fill=0.0), X, X).value) == pytest.approx(0.85)


def test_irof_counts_each_examples_own_segments() -> None:
    # The first has halves (.7, 1), the second four quarters; neither mean may hear of the other.
    both, labels = X.expand(2, -1), torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]])
    found = ll.check(Sum(), both, both, ll.IROF(segments=labels, fill=0.0), target=0)[0]
    assert found.value.tolist() == pytest.approx([0.85, 0.75])


def test_irof_on_superpixels() -> None:
    pytest.importorskip("skimage", reason="SLIC is scikit-image's, an extra")
    x = torch.full((2, 3, 16, 16), 0.1, dtype=torch.float64)  # quarters of four shades, so that no two means are equal
    x[:, :, :, 8:] = 0.9
    x[:, :, 8:] *= torch.tensor([0.5, 0.3], dtype=torch.float64).view(2, 1, 1, 1)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 1, bias=False)).double()
    with torch.no_grad():
        net[1].weight.fill_(1 / 768)  # type: ignore[index]
    check = ll.IROF(segments=ll.Slic(4), fill=0.0, on="score")
    together = ll.check(net, x, x, check, target=0)[0].value
    alone = [ll.check(net, x[i : i + 1], x[i : i + 1], check, target=0)[0].value for i in range(2)]
    assert together.tolist() == pytest.approx(torch.cat(alone).tolist())
    labels = ll.Slic(4).divide(x[:1], torch.arange(1)).labels.flatten(1)[0]
    light = x[0].sum(0).flatten()
    order = sorted(labels.unique(), key=lambda k: -float(light[labels == k].mean()))
    gone = torch.stack([light[labels == k].sum() / light.sum() for k in order]).cumsum(0)
    assert len(order) > 1 and float(alone[0]) == pytest.approx(float(gone.mean()), abs=1e-6)
    refused = ll.check(net, x, x, ll.IROF(segments=ll.Features()), target=0)[0]
    assert "divides channels" in refused.reason and refused.value.isnan().all()


@pytest.mark.parametrize("perturbation", ["patches", "gaussian"])
def test_infidelity_of_a_sum_is_zero_for_its_own_shares(perturbation: str) -> None:
    found = one(ll.Infidelity(perturbation, slopes=False), X, X)  # type: ignore[arg-type]
    assert float(found.value) == pytest.approx(0, abs=1e-20)


def test_infidelity_in_slopes_scaled_and_wrong() -> None:
    ones = torch.ones_like(X)
    assert float(one(ll.Infidelity("gaussian"), X, ones).value) == pytest.approx(0, abs=1e-20)
    assert float(one(ll.Infidelity("patches", slopes=True), X, ones).value) == pytest.approx(0, abs=1e-20)
    scaled = one(ll.Infidelity("gaussian", scaled=True), X, 4 * ones)
    assert float(scaled.value) == pytest.approx(0, abs=1e-20) and float(scaled.detail["factor"]) == pytest.approx(0.25)
    # One patch of one of four features: I'A = 2 x_i where f falls by x_i, so E = mean of x_i^2 over the places drawn.
    doubled = float(one(ll.Infidelity("patches", samples=4000, patch=1), X, 2 * X).value)
    assert doubled == pytest.approx(float(X.square().mean()), rel=0.1)


def test_correlations_of_a_sum_are_one() -> None:
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    for check in (ll.FaithfulnessCorrelation(), ll.SensitivityN()):
        assert one(check, x, x).value.tolist() == pytest.approx([1, 1])
        assert one(check, x, -x).value.tolist() == pytest.approx([-1, -1])
        constant = one(check, x, torch.ones_like(x))
        assert constant.value.isnan().all() and "varies" in constant.reason


def test_gini_and_entropy() -> None:
    onehot = torch.zeros(1, 8, dtype=torch.float64)
    onehot[0, 3] = -2
    assert float(one(ll.Gini(), onehot, onehot).value) == pytest.approx(0.875)
    assert float(one(ll.Entropy(), onehot, onehot).value) == pytest.approx(0)
    flat = torch.ones(1, 8, dtype=torch.float64)
    assert float(one(ll.Gini(), flat, flat).value) == pytest.approx(0)
    assert float(one(ll.Entropy(), flat, flat).value) == pytest.approx(math.log(8))
    # |A| = 1, 3: (-1 * 1 + 1 * 3) / (2 * 4)
    pair = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    assert float(one(ll.Gini(), pair, pair).value) == pytest.approx(0.25)


def region(rows: slice, columns: slice) -> Tensor:
    found = torch.zeros(1, 1, 224, 224)
    found[..., rows, columns] = 1
    return found


def test_localisation_worked() -> None:
    x = torch.zeros(1, 1, 224, 224)
    bottom_right = region(slice(112, 224), slice(112, 224))
    corner = region(slice(0, 112), slice(0, 112))
    assert float(one(ll.MaskROC(), x, bottom_right, mask=corner).value) == pytest.approx(1 / 3)
    mask, values = region(slice(0, 50), slice(50, 100)), region(slice(0, 100), slice(75, 100))
    assert float(one(ll.RelevanceMass(), x, values, mask=mask).value) == pytest.approx(0.5)
    # 2500 pixels of the mask, of the 2500 tied ones of the map half lie in it.
    assert float(one(ll.RelevanceRank(), x, values, mask=mask).value) == pytest.approx(0.5)
    assert float(one(ll.IoU(), x, values, mask=mask).value) == pytest.approx(1250 / 3750)


def test_a_constant_map_never_wins_the_pointing_game() -> None:
    x = torch.zeros(1, 1, 224, 224)
    mask = region(slice(0, 112), slice(0, 224))
    constant = torch.ones_like(x)
    assert float(one(ll.PointingGame(tolerance=0), x, constant, mask=mask).value) == 0.5
    plateau = constant.clone()
    plateau[0, 0, 200, 200] = 0  # one lower pixel: still nearly half
    assert float(one(ll.PointingGame(tolerance=0), x, plateau, mask=mask).value) == pytest.approx(0.5, abs=1e-4)


def test_pointing_game_tolerance_is_scaled_from_224() -> None:
    mask = torch.zeros(1, 1, 224, 224)
    mask[..., :10, :10] = 1
    for distance, hit in ((15, 1), (16, 0)):
        values = torch.zeros(1, 1, 224, 224)
        values[0, 0, 9 + distance, 5] = 1
        assert float(one(ll.PointingGame(), values, values, mask=mask).value) == hit
    small, mask = torch.zeros(1, 1, 112, 112), torch.zeros(1, 1, 112, 112)
    mask[..., :10, :10] = 1
    for distance, hit in ((7, 1), (8, 0)):  # 15 of 224 are 7.5 of 112
        values = small.clone()
        values[0, 0, 9 + distance, 5] = 1
        assert float(one(ll.PointingGame(), small, values, mask=mask).value) == hit


def test_grid_pointing_shares_positive_relevance() -> None:
    values = torch.tensor([[[[3.0, 1.0], [0.0, -7.0]]]])
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    found = one(ll.GridPointing(), values, values, mask=mask)
    assert float(found.value) == pytest.approx(0.75) and float(found.detail["chance"]) == 0.25


def test_boxes_become_masks() -> None:
    boxes = torch.tensor([[1.0, 0.0, 3.0, 2.0]])
    assert masks_of_boxes(boxes, (3, 4))[0, 0].int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match="left, top, right, bottom"):
        masks_of_boxes(torch.zeros(3), (3, 4))


def test_similarities() -> None:
    a = torch.rand(2, 9, 9, dtype=torch.float64)
    assert ssim(a, a).tolist() == pytest.approx([1, 1]) and ssim(a, 1 - a).max() < 0
    assert pearson(hog(a), hog(a)).tolist() == pytest.approx([1, 1])
    assert float(top_overlap(torch.tensor([[4.0, 3, 2, 1]]), torch.tensor([[1.0, 4, 3, 2]]), 2)) == 0.5
    assert pearson(torch.ones(1, 3), torch.rand(1, 3)).isnan().all()


def test_ssim_and_hog_agree_with_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a, b = torch.rand(2, 1, 24, 24, dtype=torch.float64)
    a, b = ((m - m.min()) / (m.max() - m.min()) for m in (a, b))
    _, full = metrics.structural_similarity(a[0].numpy(), b[0].numpy(), win_size=7, data_range=1.0, full=True)
    assert float(ssim(a, b)) == pytest.approx(full[3:-3, 3:-3].mean(), abs=1e-12)


def test_harmonic_pixels_solve_their_equations() -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 2, 13, 10, dtype=torch.float64)
    hidden = torch.rand(3, 1, 13, 10) < torch.tensor([0.3, 0.9, 1.0]).view(3, 1, 1, 1)
    found = harmonic(x, hidden, tolerance=1e-12)
    assert torch.equal(found[~hidden.expand_as(x)], x[~hidden.expand_as(x)])
    for n in range(2):
        for c in range(2):
            for i, j in hidden[n, 0].nonzero().tolist():
                near = [
                    (i + a, j + b, 1 / 6 if a == 0 or b == 0 else 1 / 12)
                    for a in (-1, 0, 1)
                    for b in (-1, 0, 1)
                    if a or b
                ]
                near = [(a, b, w) for a, b, w in near if 0 <= a < 13 and 0 <= b < 10]
                mean = sum(w * float(found[n, c, a, b]) for a, b, w in near) / sum(w for _, _, w in near)
                assert float(found[n, c, i, j]) == pytest.approx(mean, abs=1e-8)
    assert found[2].sub(x[2].mean((1, 2), keepdim=True)).abs().max() < 1e-12  # nothing known: the mean colour


def test_each_picture_is_imputed_by_itself() -> None:
    x = torch.rand(3, 2, 16, 16)
    hidden = torch.rand(3, 1, 16, 16) < 0.7
    whole = harmonic(x, hidden)
    for i in range(3):
        torch.testing.assert_close(harmonic(x[i : i + 1], hidden[i : i + 1]), whole[i : i + 1], atol=1e-5, rtol=0)


def test_road_takes_noise_from_the_example_alone() -> None:
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    hidden = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hidden[..., 3:5, 3:5] = True
    rows = NoisyLinear(0.1).prepare(x, Streams.of(x, 0))(hidden, 0)
    again = NoisyLinear(0.1).prepare(x, Streams.of(x, 0))(hidden, 0)
    assert torch.equal(rows, again) and not torch.equal(rows, harmonic(x, hidden))
    assert torch.equal(rows[~hidden], x[~hidden])


def test_orders_break_ties_at_random_and_by_example() -> None:
    units = torch.tensor([[1.0, 2.0, 2.0, 2.0], [1.0, 2.0, 2.0, 2.0]])
    order = order_of(units, Streams.of(torch.rand(2, 3), 0))
    assert order[:, 3].tolist() == [0, 0] and sorted(order[0, :3].tolist()) == [1, 2, 3]
    assert torch.equal(places_of(order).gather(1, order), torch.arange(4).expand(2, -1))
    assert grid_labels(torch.Size((3, 4)), 2, torch.device("cpu")).tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3]


def test_the_bootstrap_interval_covers_the_mean() -> None:
    torch.manual_seed(0)
    hits = 0
    for trial in range(100):
        low, high = interval(torch.randn(30, dtype=torch.float64), trial)
        hits += low <= 0 <= high
    assert 88 <= hits <= 99
    assert all(math.isnan(each) for each in interval(torch.ones(1), 0))
    assert interval(torch.ones(5), 0) == (1.0, 1.0)


@pytest.mark.parametrize(
    "module",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.ReLU6(inplace=True), nn.Hardtanh(), nn.Hardtanh(-2, 3)],
    ids=repr,
)
def test_a_softened_network_is_the_network_away_from_its_kinks(module: nn.Module) -> None:
    x = torch.tensor([-9.0, -1.5, -0.5, 0.5, 2.5, 5.0, 9.0], dtype=torch.float64)
    with Softened(200.0):
        soft = module(x.clone())
    torch.testing.assert_close(soft, module(x.clone()), atol=1e-9, rtol=0)
