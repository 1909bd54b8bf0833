"""Maps at the scale they are drawn at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.base.view import FINE, SINGLE_PIXELS, View

from .networks import CASES, conv_net, pictures

D = torch.float64


def maps(n: int = 2, channels: int = 3, space: tuple[int, ...] = (12, 9)) -> Tensor:
    return torch.randn(n, channels, *space, dtype=D, generator=torch.Generator().manual_seed(0))


def test_smoothing_is_a_gaussian_over_the_mirrored_map() -> None:
    """Against a direct sum over a map that NumPy mirrors."""
    a, view = maps(), View("signed", 0.1)
    sigma, (rows, columns) = 0.1 * 9, a.shape[2:]
    reach = int(np.ceil(4 * sigma))
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = np.outer(weight, weight) / weight.sum() ** 2
    for found, each in zip(view.of(a), a.sum(1).numpy(), strict=True):
        padded = np.pad(each, reach, mode="symmetric")
        wanted = [
            [(padded[i : i + len(weight), j : j + len(weight)] * kernel).sum() for j in range(columns)]
            for i in range(rows)
        ]
        torch.testing.assert_close(found, torch.tensor(np.array(wanted)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("share", [0.015, 0.2, 1.0])
@pytest.mark.parametrize("space", [(12, 9), (1, 5), (6, 5, 4)])
def test_smoothing_keeps_sums_and_constants(share: float, space: tuple[int, ...]) -> None:
    a = maps(space=space)
    for reduce, read in (("signed", a), ("magnitude", a.abs()), ("positive", a.clamp(min=0))):
        seen = View(reduce, share).of(a)  # type: ignore[arg-type]
        torch.testing.assert_close(seen.flatten(1).sum(1), read.flatten(1).sum(1), atol=1e-10, rtol=0)
    flat = View("signed", share).of(torch.ones_like(a))
    torch.testing.assert_close(flat, torch.full_like(flat, 3.0), atol=1e-12, rtol=0)


@pytest.mark.parametrize("side", [1, 2, 5, 40])
def test_blocks_of_a_complete_map_add_up_to_the_change_of_the_score(side: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 9 * 6, 2)).double()
    a = ll.explain(net, torch.rand(2, 3, 11, 8, dtype=D), ll.IntegratedGradients(64), target=1)
    seen = a.viewed(View(blocks=side))
    assert seen.shape == (2, -(-11 // side), -(-8 // side))
    torch.testing.assert_close(seen.flatten(1).sum(1), a.score - a.baseline_score, atol=1e-6, rtol=1e-6)


def test_the_parts_of_a_map_add_up_and_single_pixels_are_the_heatmap() -> None:
    a = maps()
    positive, negative = View("positive").of(a), View("negative").of(a)
    torch.testing.assert_close(positive + negative, View().of(a))
    torch.testing.assert_close(positive - negative, View("magnitude").of(a))
    found = ll.explain(lambda x: x.flatten(1), torch.rand(2, 3, 4, 4, dtype=D), "gradient", target=5)
    assert torch.equal(found.viewed(SINGLE_PIXELS), found.heatmap())


def test_columns_and_series_are_not_smoothed_and_targets_keep_their_axis() -> None:
    a = maps(space=(7,))
    assert torch.equal(View("signed", 0.5).of(a), a.sum(1))
    assert torch.equal(View("magnitude", 0.5).of(a[:, 0]), a[:, 0].abs())
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double()
    found = ll.explain(net, torch.rand(2, 3, 4, 4, dtype=D), "gradient", target=[[0, 1], [2, 0]])
    assert found.viewed().shape == (2, 2, 4, 4)
    torch.testing.assert_close(found.viewed()[1, 1], FINE.of(found.values[1, 1][None])[0])


@pytest.mark.parametrize(
    "settings", [{"reduce": "abs"}, {"smooth": -0.1}, {"smooth": "3"}, {"blocks": 0}, {"blocks": 2, "smooth": 0.1}]
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"View.*{next(iter(settings))}"):
        View(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", CASES[: len(ll.METHODS)], ids=lambda method: method.kebab())
def test_maps_with_a_value_for_each_channel_are_magnitudes_that_are_smoothed(method: ll.Method) -> None:
    """Regions, layers, players and windows, with one value for all channels, stay as they are."""
    found = ll.explain(conv_net(), pictures(1), method, target=1, layer="act" if method.needs.layer else None)
    # Excitation backpropagation, too, goes to each pixel, and sums over channels at the end.
    scatters = found.values.shape == found.inputs.shape or isinstance(method, ll.ExcitationBackprop)
    assert found.view == (FINE if scatters else SINGLE_PIXELS)
    assert ll.SmoothGrad(method).view == method.view


def test_the_words_name_the_view() -> None:
    assert FINE.words((224, 224)) == "magnitude summed over channels, smoothed by 3.4 pixels"
    assert SINGLE_PIXELS.words((224, 224)) == "signed sum of channels, at single pixels"
    assert View(blocks=8).words() == "signed sum of channels, in blocks of 8 x 8 pixels"
    assert FINE.words((9,)) == "magnitude summed over channels"
