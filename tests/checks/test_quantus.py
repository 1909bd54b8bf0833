"""Quantus and Captum as oracles where they are right, and by name where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.checks.harmonic import harmonic

from ..networks import conv_net, pictures

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def quantus() -> Any:
    """The oracle, whose import takes seconds; the ordinary tests collect this file without."""
    return pytest.importorskip("quantus", reason="quantus, the oracle, is not installed")


class Grey(nn.Module):
    """A small classifier of grey pictures."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 144, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


def grey(n: int = 3) -> Tensor:
    return torch.rand(n, 1, 12, 12, generator=torch.Generator().manual_seed(1))


def theirs(metric: Any, model: nn.Module, x: Tensor, y: Tensor, a: Tensor, **options: Any) -> Any:
    return metric(
        model=model,
        x_batch=x.numpy(),
        y_batch=y.numpy(),
        a_batch=a.numpy(),
        channel_first=True,
        device="cpu",
        **options,
    )


QUIET = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}


def test_pixel_flipping_curves_agree(quantus: Any) -> None:
    model, x = Grey().eval(), grey()
    y = model(x).argmax(1)
    a = ll.explain(model, x, "gradient", target=y)
    metric = quantus.PixelFlipping(features_in_step=12, perturb_baseline="black", **QUIET)
    expected = np.array(theirs(metric, model, x, y, a.values, softmax=True))
    # Theirs has no step without a change, and its black is the picture's own minimum.
    low = x.flatten(1).amin(1).view(-1, 1, 1, 1).expand_as(x)
    found = ll.check(model, x, a, ll.Deletion(fill=low, steps=12))[0]
    np.testing.assert_allclose(found.detail["curve"][:, 1:].numpy(), expected, atol=1e-5)


def test_linear_imputation_agrees_with_the_sparse_solution(quantus: Any) -> None:
    from quantus.functions.perturb_func import noisy_linear_imputation

    x = grey(1).double()
    for share in (0.2, 0.5, 0.9):
        hidden = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(2)) < share
        expected = noisy_linear_imputation(x[0].numpy(), hidden.flatten().nonzero()[:, 0].numpy(), noise=0.0)
        np.testing.assert_allclose(harmonic(x, hidden)[0].numpy(), expected, atol=2e-4)


def test_road_is_theirs_for_the_first_batch_only(quantus: Any) -> None:
    """Theirs averages the first batch alone, whatever the others say, and cannot take three channels."""
    model, x = Grey().eval(), grey(4)
    y = model(x).argmax(1)
    a = ll.explain(model, x, "gradient", target=y)
    shares = (0.2, 0.5, 0.8)
    metric = quantus.ROAD(noise=0.0, percentages=[20, 50, 80], **QUIET)
    all_at_once = theirs(metric, model, x, y, a.values, softmax=False)
    first_half = theirs(
        quantus.ROAD(noise=0.0, percentages=[20, 50, 80], **QUIET), model, x, y, a.values, softmax=False, batch_size=2
    )
    kept = []
    for i in range(4):
        one = ll.check(
            model,
            x[i : i + 1],
            a.values[i : i + 1],
            ll.ROAD(shares, "morf", noise=0.0, on="score"),
            target=y[i : i + 1],
        )[0]
        best = _rivals(model, x[i : i + 1], a.values[i : i + 1], shares)
        kept.append((one.detail["morf"][0] >= best - 1e-4).double())
    share = torch.stack(kept).mean(0)
    assert list(all_at_once.values()) == pytest.approx(share.tolist())
    assert list(first_half.values()) == pytest.approx(torch.stack(kept[:2]).mean(0).tolist())
    assert not torch.isnan(ll.check(model, x, a, ll.ROAD(shares, noise=0.0))[0].value).any()

    rgb = pictures(2).float()
    colour = conv_net().float()
    maps = ll.explain(colour, rgb, "gradient", target=0)
    with pytest.raises(IndexError):
        theirs(
            quantus.ROAD(noise=0.0, percentages=[50], **QUIET),
            colour,
            rgb,
            torch.zeros(2, dtype=torch.long),
            maps.values,
        )
    assert not ll.check(colour, rgb, maps, ll.ROAD())[0].value.isnan().any()


def _rivals(model: nn.Module, x: Tensor, a: Tensor, shares: tuple[float, ...]) -> Tensor:
    """The highest logit of any class at each share of the MoRF curve."""
    order = a.flatten(1).argsort(dim=1, descending=True)[0]
    best = []
    for share in shares:
        hidden = torch.zeros(144, dtype=torch.bool)
        hidden[order[: int(share * 144)]] = True
        best.append(model(harmonic(x, hidden.view(1, 1, 12, 12))).amax())
    return torch.stack(best).detach()


def test_localisation_agrees(quantus: Any) -> None:
    model, x = Grey().eval(), grey()
    y = model(x).argmax(1)
    a = ll.explain(model, x, "gradient", target=y)
    mask = torch.zeros(3, 1, 12, 12)
    mask[:, :, 2:7, 3:9] = 1
    ours = ll.check(model, x, a, [ll.RelevanceMass(), ll.RelevanceRank(), ll.MaskROC()], mask=mask)
    rank = theirs(quantus.RelevanceRankAccuracy(**QUIET), model, x, y, a.values, s_batch=mask.bool().numpy())
    roc = theirs(quantus.AUC(**QUIET), model, x, y, a.values, s_batch=mask.bool().numpy())
    np.testing.assert_allclose(ours[1].value.numpy(), rank, atol=1e-6)
    np.testing.assert_allclose(ours[2].value.numpy(), roc, atol=1e-6)
    positive = ll.check(model, x, a.values.clamp(min=0), ll.RelevanceMass(), mask=mask)[0].value
    mass = theirs(
        quantus.RelevanceMassAccuracy(**QUIET), model, x, y, a.values.clamp(min=0), s_batch=mask.bool().numpy()
    )
    np.testing.assert_allclose(positive.numpy(), mass, atol=1e-6)


def test_their_pointing_game_is_won_by_a_plateau(quantus: Any) -> None:
    model, x = Grey().eval(), grey(1)
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., :6, :] = 1
    plateau = torch.ones_like(x)
    plateau[0, 0, 11, 11] = 0
    y = torch.zeros(1, dtype=torch.long)
    assert theirs(quantus.PointingGame(**QUIET), model, x, y, plateau, s_batch=mask.bool().numpy()) == [True]
    assert float(ll.check(model, x, plateau, ll.PointingGame(0), mask=mask)[0].value) == pytest.approx(72 / 143)


def test_sparseness_agrees_with_the_gini_index(quantus: Any) -> None:
    model, x = Grey().eval(), grey()
    y = model(x).argmax(1)
    a = ll.explain(model, x, "gradient", target=y)
    expected = theirs(quantus.Sparseness(**{**QUIET, "abs": True}), model, x, y, a.values)
    np.testing.assert_allclose(ll.check(model, x, a, ll.Gini())[0].value.numpy(), expected, atol=1e-5)


def test_their_completeness_wants_equality(quantus: Any) -> None:
    model, x = Grey().eval(), grey(1)
    y = model(x).argmax(1)
    a = ll.explain(model, x, "integrated-gradients(Midpoint(64))", target=y)
    assert theirs(quantus.Completeness(**QUIET), model, x, y, a.values) == [False]
    assert ll.check(model, x, a, ll.Completeness())[0].passed is True


def test_infidelity_agrees_with_captum() -> None:
    metrics = pytest.importorskip("captum.metrics", reason="captum, the oracle, is not installed")
    model, x = Grey().eval(), grey(1)
    y = int(model(x).argmax())
    a = ll.explain(model, x, "gradient", target=y)
    generator = torch.Generator().manual_seed(0)

    def change(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.1 * float(x.max() - x.min()) * torch.randn(inputs.shape, generator=generator)
        return noise, inputs - noise

    expected = float(
        metrics.infidelity(model, change, x, a.values, target=y, n_perturb_samples=4000, max_examples_per_batch=500)
    )
    found = float(ll.check(model, x, a, ll.Infidelity("gaussian", samples=1000, scaled=False), target=y)[0].value)
    assert found == pytest.approx(expected, rel=0.25)  # two sets of draws of a heavy-tailed square


def test_max_sensitivity_agrees_with_captum_and_quantus(quantus: Any) -> None:
    metrics = pytest.importorskip("captum.metrics", reason="captum, the oracle, is not installed")
    from captum.attr import Saliency

    # The maximum of random draws: seeded, and of many, so that three draws of it are comparable.
    torch.manual_seed(0)
    np.random.seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.Tanh(), nn.Linear(20, 3)).eval()
    x = grey(1)
    saliency = Saliency(model)
    expected = float(
        metrics.sensitivity_max(
            lambda inputs: saliency.attribute(inputs, target=0, abs=False),
            x,
            perturb_radius=0.1,
            n_perturb_samples=2000,
        )
    )
    check = ll.MaxSensitivity(samples=2000, radius=0.1, absolute_radius=True)
    found = float(ll.check(model, x, "gradient", check, target=0)[0].value)
    assert found == pytest.approx(expected, rel=0.15)
    own = ll.explain(model, x, "gradient", target=0)
    metric = quantus.MaxSensitivity(nr_samples=2000, lower_bound=0.1, **QUIET)
    other = theirs(
        metric,
        model,
        x,
        torch.zeros(1, dtype=torch.long),
        own.values,
        explain_func=lambda model, inputs, targets, **_: (
            saliency.attribute(torch.as_tensor(inputs).float(), target=0, abs=False).detach().numpy()
        ),
    )
    assert found == pytest.approx(float(other[0]), rel=0.15)
