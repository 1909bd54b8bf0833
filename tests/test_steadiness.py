"""The correlation of two runs, estimated from one, against actual second runs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.base.steadiness import steadiness_of
from limelight.base.view import SINGLE_PIXELS, View
from limelight.methods.moments import Moments

D = torch.float64


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    head = (nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 4))
    layers = (nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 5, stride=2, padding=2), nn.ReLU())
    return nn.Sequential(*layers, *head).double().eval()


def smooth_pictures(n: int = 1, side: int = 24) -> Tensor:
    noise = torch.randn(n, 3, 4, 4, dtype=D, generator=torch.Generator().manual_seed(5))
    return F.interpolate(noise, size=side, mode="bicubic")


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_independent_halves_give_the_correlation_of_whole_runs() -> None:
    """A known signal of variance 1 and noise of variance s^2 a run: the correlation of two runs is 1 / (1 + s^2)."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(1, 1, 64, 64, dtype=D, generator=generator)
    for size in (0.1, 0.5, 2.0):
        held = 0
        for _ in range(40):
            halves = [
                signal + size * 2**0.5 * torch.randn(1, 1, 64, 64, dtype=D, generator=generator) for _ in range(2)
            ]
            found = steadiness_of(halves[0], halves[1], SINGLE_PIXELS)
            held += bool(found.low <= 1 / (1 + size**2) <= found.high)
            assert float(found.value) == pytest.approx(1 / (1 + size**2), abs=0.06)
        assert held >= 36


def test_edges() -> None:
    a = torch.randn(1, 1, 6, 6, dtype=D)
    same = steadiness_of(a, a, SINGLE_PIXELS)
    assert float(same.value) == pytest.approx(1) and float(same.low) == pytest.approx(1)
    assert float(steadiness_of(a, -a, SINGLE_PIXELS).value) == pytest.approx(-1)
    for flat in (torch.zeros_like(a), torch.full_like(a, torch.nan)):
        assert steadiness_of(a, flat, SINGLE_PIXELS).columns().isnan().all()
    short = steadiness_of(a[:, 0, 0, :3], a[:, 0, 1, :3], SINGLE_PIXELS)
    assert not short.value.isnan() and short.low.isnan()


def test_halves_are_every_second_value_of_each_example() -> None:
    values = torch.randn(6, 2, 3, dtype=D)
    moments = Moments(values[0])
    for k, value in enumerate(values):
        kept = torch.tensor([0, 1] if k < 5 else [1])
        moments.add(kept, value[kept])
    halves = moments.halves()
    assert halves is not None
    for i, count in ((0, 5), (1, 6)):
        torch.testing.assert_close(halves[0][i], values[:count:2, i].mean(0))
        torch.testing.assert_close(halves[1][i], values[1:count:2, i].mean(0))


SAMPLERS = (
    ll.SmoothGrad(samples=16, noise=0.3),
    ll.SmoothGrad(samples=24, noise=0.3, antithetic=False),
    ll.SmoothGrad(ll.GradCAM(), samples=16, noise=0.5),
    ll.SmoothGradSquared(samples=24, noise=0.3),
    ll.VarGrad(samples=24, noise=0.3),
    ll.RISE(300, cells=4),
    ll.RISE(300, cells=4, centred=False),
    ll.ShapleySampling(8, players=ll.Grid(5)),
    ll.PermutationShap(8, players=ll.Grid(5)),
    ll.KernelShap(200, players=ll.Grid(5)),
    ll.Lime(200, players=ll.Grid(5)),
)


@pytest.mark.parametrize("method", SAMPLERS, ids=repr)
def test_the_estimate_holds_the_correlation_of_second_runs(method: ll.Method) -> None:
    """In the mean over runs within a quarter of what is missing to 1, or .05; the interval holds most second runs."""
    x, model = smooth_pictures(), net()
    runs = [ll.explain(model, x, method, target=0, seed=seed) for seed in range(5)]
    pairs = list(itertools.permutations(range(5), 2))
    actual = [correlation(runs[i].viewed(), runs[j].viewed()) for i, j in pairs]
    found = [run.steadiness[0].tolist() for run in runs if run.steadiness is not None]
    held = sum(found[i][1] <= each <= found[i][2] for (i, _), each in zip(pairs, actual, strict=True))
    mean, estimate = sum(actual) / len(actual), sum(each[0] for each in found) / len(found)
    assert held >= 0.7 * len(pairs)
    assert abs(estimate - mean) <= max(0.05, 0.25 * (1 - mean))


def test_stratified_draws_give_a_lower_bound() -> None:
    references = ll.Samples(torch.randn(8, 3, 24, 24, dtype=D, generator=torch.Generator().manual_seed(1)))
    x, model = smooth_pictures(), net()
    runs = [
        ll.explain(model, x, ll.ExpectedGradients(32), target=0, baseline=references, seed=seed) for seed in range(5)
    ]
    actual = [correlation(a.viewed(), b.viewed()) for a, b in itertools.combinations(runs, 2)]
    found = [float(run.steadiness[0, 0]) for run in runs if run.steadiness is not None]
    assert 0.5 < sum(found) / 5 <= sum(actual) / len(actual)


STOPPING = (
    ll.SmoothGrad(samples=256, noise=0.3, steadiness=0.8),
    ll.VarGrad(samples=256, noise=0.3, steadiness=0.8),
    ll.RISE(2048, cells=4, steadiness=0.6),
    ll.ShapleySampling(64, players=ll.Grid(4), steadiness=0.9),
    ll.PermutationShap(64, players=ll.Grid(4), steadiness=0.9),
    ll.KernelShap(1024, players=ll.Grid(5), steadiness=0.9),
    ll.Lime(1000, players=ll.Grid(4), steadiness=0.7),
)


@pytest.mark.parametrize("method", STOPPING, ids=lambda method: method.kebab())
def test_sampling_stops_at_the_steadiness_asked_for_whatever_the_neighbours(method: ll.Method) -> None:
    x, model = smooth_pictures(2) * torch.tensor([1.0, 0.3], dtype=D).view(2, 1, 1, 1), net()
    both = ll.explain(model, x, method, target=0)
    asked = method.steadiness  # type: ignore[attr-defined]
    assert both.steadiness is not None and bool((both.steadiness[:, 1] >= asked).all())
    notes = [note for note in both.notes if note.text.startswith("converged")]
    assert len(notes) == 2 and all("two runs would correlate 0." in note.text for note in notes)
    assert not any(note.kind == "not-converged" for note in both.notes)
    for i in range(2):
        alone = ll.explain(model, x[[i]], method, target=0)
        torch.testing.assert_close(alone.values[0], both.values[i], atol=1e-12, rtol=1e-9)
        assert alone.steadiness is not None
        torch.testing.assert_close(alone.steadiness[0], both.steadiness[i], atol=1e-9, rtol=1e-9)
        (note,) = (note for note in alone.notes if note.text.startswith("converged"))
        assert note.text == notes[[each.example for each in notes].index(i)].text
    unlimited = ll.explain(model, x, replace(method, steadiness=None), target=0)  # type: ignore[call-arg]
    assert both.forward_rows + both.backward_rows < unlimited.forward_rows + unlimited.backward_rows


def test_a_steadiness_that_is_not_reached_is_said() -> None:
    found = ll.explain(net(), smooth_pictures(), ll.SmoothGrad(samples=8, noise=1.0, steadiness=0.999), target=0)
    (note,) = (note for note in found.notes if note.kind == "not-converged")
    assert note.text.startswith("NOT converged after 8 samples, two runs would correlate 0.")
    both = ll.SmoothGrad(samples=64, noise=0.3, tolerance=1e-9, steadiness=0.5)
    assert any(note.kind == "not-converged" for note in ll.explain(net(), smooth_pictures(), both, target=0).notes)


@pytest.mark.parametrize("value", [0, 1, 1.2, -0.5, "high", float("nan")])
@pytest.mark.parametrize("kind", [ll.SmoothGrad, ll.RISE, ll.KernelShap, ll.ShapleySampling, ll.Lime])
def test_a_steadiness_that_means_nothing_is_refused(kind: type[ll.Method], value: object) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.steadiness=.*a correlation below 1"):
        kind(steadiness=value)  # type: ignore[call-arg]


def test_the_figure_is_kept_shown_and_of_each_target(tmp_path: object) -> None:
    x, model = smooth_pictures(2), net()
    found = ll.explain(model, x, ll.SmoothGrad(samples=8), target=[[0, 1], [2, 3]])
    assert found.steadiness is not None and found.steadiness.shape == (2, 2, 3)
    assert any(line.startswith("two runs would correlate 0.") for line in found.caption((1, 0)))
    path = found.save(f"{tmp_path}/map.safetensors")
    again = ll.Attribution.load(path)
    assert again.steadiness is not None and torch.equal(again.steadiness, found.steadiness)
    assert ll.explain(model, x, "gradient", target=0).steadiness is None
    exact = ll.explain(model, x, ll.KernelShap(players=ll.Grid(2)), target=0)
    assert exact.steadiness is None
    single = ll.explain(model, x, ll.SmoothGrad(samples=2), target=0)
    assert single.steadiness is None  # one antithetic pair


def test_the_reading_changes_the_figure() -> None:
    """Smoothing brings out what two runs share."""
    generator = torch.Generator().manual_seed(0)
    signal = F.interpolate(torch.randn(1, 1, 4, 4, dtype=D, generator=generator), size=48, mode="bicubic")
    halves = [signal + 2 * torch.randn(1, 1, 48, 48, dtype=D, generator=generator) for _ in range(2)]
    raw, smooth = (steadiness_of(halves[0], halves[1], View("signed", share)) for share in (0.0, 0.05))
    assert float(raw.value) < 0.6 < 0.9 < float(smooth.value)
