"""RISE: its masks, its estimators, its error bars."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.methods.moments import MixedMoments
from limelight.question.random_streams import Streams

from .memory import peaks
from .networks import conv_net, pictures

D = torch.float64


def masks_of(method: ll.RISE, x: Tensor, count: int, seed: int = 0) -> Tensor:
    """The masks `(count, H, W)` that `explain` draws for the first example of x."""
    rng = Streams.of(x[:1], seed).fork("rise")
    return method.draw(rng, range(count), x.shape[2:], torch.device("cpu"))


def test_masks_are_upsampled_grids_cropped_at_random() -> None:
    """Each mask is a crop of the bilinear enlargement of its own grid, redrawn here from the same numbers."""
    x, method = torch.rand(1, 3, 10, 13, dtype=D), ll.RISE(cells=4, probability=0.3)
    found, rng = masks_of(method, x, 20), Streams.of(x, 0).fork("rise")
    for k in range(20):
        numbers = rng.uniform(f"mask {k}", (18,), torch.empty(0, dtype=D))[0]
        grid = (numbers[:16] < 0.3).double().reshape(1, 1, 4, 4)
        up = F.interpolate(grid, size=(5 * 3, 5 * 4), mode="bilinear", align_corners=False)[0, 0]
        top, left = int(numbers[16] * 3), int(numbers[17] * 4)
        torch.testing.assert_close(found[k], up[top : top + 10, left : left + 13])
    many = masks_of(method, x, 4000)
    assert (many.mean(0) - 0.3).abs().max() < 5 * 0.5 / math.sqrt(4000)


def test_both_forms_are_their_formulas() -> None:
    net, x, n = conv_net(), pictures(1), 300
    m = masks_of(ll.RISE(cells=3), x, n)
    with torch.no_grad():
        f = net(0.25 + m[:, None] * (x - 0.25))[:, 2]
    centred = ll.explain(net, x, ll.RISE(n, cells=3), target=2, baseline=0.25)
    a, g = m - m.mean(0), (f - f.mean())[:, None, None]
    slope = (a * g).sum(0) / (a * a).sum(0)
    torch.testing.assert_close(centred.values[0, 0], slope, atol=1e-9, rtol=1e-7)
    meat = (a**2 * (g - slope * a) ** 2).sum(0)
    robust = (meat / (a * a).sum(0) ** 2 * n / (n - 2)).sqrt()
    torch.testing.assert_close(centred.stderr[0, 0], robust, atol=1e-9, rtol=1e-6)
    plain = ll.explain(net, x, ll.RISE(n, cells=3, centred=False), target=2, baseline=0.25)
    terms = f[:, None, None] * m / 0.5
    torch.testing.assert_close(plain.values[0, 0], terms.mean(0), atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(plain.stderr[0, 0], terms.std(0) / math.sqrt(n), atol=1e-9, rtol=1e-7)


def test_moments_do_not_cancel_on_a_large_score() -> None:
    generator = torch.Generator().manual_seed(0)
    masks, noise = torch.rand(200, 5, dtype=D, generator=generator), torch.rand(200, dtype=D, generator=generator)
    near, far = MixedMoments(0.5, 5, torch.device("cpu")), MixedMoments(0.5, 5, torch.device("cpu"))
    near.add(masks, noise), far.add(masks, noise + 1e6)
    for one, other in zip(near.slope(), far.slope(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=1e-6)


def coverage(method: ll.RISE, runs: int, reference_masks: int) -> float:
    """Share of 95% intervals over `runs` seeds and all positions that hold a long run's value."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).double()
    x = torch.rand(1, 1, 6, 6, dtype=D, generator=torch.Generator().manual_seed(1))
    long = ll.RISE(reference_masks, cells=3, centred=method.centred)
    asked = {"target": 0, "rows_per_pass": 1000}
    truth = ll.explain(net, x, long, seed=10_000, **asked).values
    inside = []
    for seed in range(runs):
        a = ll.explain(net, x, method, seed=seed, **asked)
        inside.append(((a.values - truth).abs() <= 1.96 * a.stderr).double().mean())
    return float(torch.stack(inside).mean())


@pytest.mark.long
@pytest.mark.parametrize("centred", [True, False])
def test_error_bars_are_honest(centred: bool) -> None:
    assert 0.90 <= coverage(ll.RISE(300, cells=3, centred=centred), runs=60, reference_masks=20_000) <= 0.99


def test_tolerance_stops_each_example_by_itself() -> None:
    net, x = conv_net(), pictures(2)
    a = ll.explain(net, x, ll.RISE(4000, cells=2, tolerance=0.3), target=0)
    for i, note in enumerate(note for note in a.notes if "converged" in note):
        masks = int(note.split("after ")[1].split(" ")[0])
        alone = ll.explain(net, x[i : i + 1], ll.RISE(masks, cells=2), target=0)
        torch.testing.assert_close(alone.values[0], a.values[i], atol=1e-12, rtol=1e-9)
        assert masks in (128 * 2**k for k in range(6)) and alone.stderr.norm() <= 0.3 * alone.values.norm()
    short = ll.explain(net, x[:1], ll.RISE(10, cells=2, tolerance=1e-9), target=0)
    assert any("NOT converged after 10 masks" in note for note in short.notes)


def test_too_few_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"RISE\.masks=2: use a whole number of 3 or more"):
        ll.RISE(2)
    with pytest.raises(ValueError, match=r"RISE\.masks=3: use more: at \d+ positions all of them agreed"):
        ll.explain(conv_net(), pictures(1), ll.RISE(3, cells=1, probability=0.01), target=0)


def test_detector_boxes() -> None:
    """D-RISE on a detector that finds a box where its corner of the picture is bright."""

    class Detector(nn.Module):
        def forward(self, rows: Tensor) -> list[dict[str, Tensor]]:
            scores = torch.stack([rows[:, 0, :4, :4].mean((1, 2)), rows[:, 0, 8:, 8:].mean((1, 2))], 1)
            boxes = torch.tensor([[0.0, 0, 4, 4], [8, 8, 12, 12]])
            return [{"boxes": boxes, "scores": each, "labels": torch.tensor([1, 2])} for each in scores]

    x = torch.ones(1, 1, 12, 12)
    for detector in (Detector(), Detector().forward):
        a = ll.explain(detector, x, ll.RISE(1500, cells=3), target=ll.Box(torch.tensor([8, 8, 12, 12]), label=2))
        inside, outside = a.values[0, 0, 8:, 8:], a.values[0, 0, :4, :4]
        assert inside.min() > 0.3 and outside.abs().max() < 0.25 and float(a.score) == 1


@pytest.mark.long
def test_mask_memory_is_bounded_whatever_their_number() -> None:
    """2,000 masks of 224 x 224 would be 800 MB in float64; the model costs next to nothing. In a process of its own."""
    script = """
        x = torch.rand(1, 1, 224, 224)
        f = lambda rows: rows[:, 0, ::16, ::16].mean((1, 2))[:, None]
        ll.explain(f, x, ll.RISE(3, cells=2, centred=False), target=0)
        before = peak()
        ll.explain(f, x, ll.RISE(2000), target=0)
    """
    after, before = peaks(script)
    assert (after - before) / 1024 < 200
