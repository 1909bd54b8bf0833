"""Expected gradients: how references and times are drawn, that the mean is right, and what the standard error says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import limelight as ll

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64


def many(row: list[float], n: int) -> Tensor:
    """Return n examples that are one but for rounding, since equal examples get equal random numbers."""
    return torch.tensor([row], dtype=D) + 1e-9 * torch.arange(n, dtype=D)[:, None]


def drawn(f: Callable[[Tensor], Tensor], x: Tensor, samples: int, references: Tensor) -> ll.Attribution:
    data, method = ll.Samples(references, len(references)), ll.ExpectedGradients(samples)
    return ll.explain(ll.Differentiable(f), x, method, target=0, baseline=data, rows_per_pass=8192)


def steep(x: Tensor) -> Tensor:
    return x[:, :1] ** 3 * x[:, 1:2] + x[:, 1:2] ** 2


REFERENCES = torch.tensor([[0.0, 0.0], [1.0, -1.0], [-0.5, 0.5], [0.3, 2.0], [2.0, 0.1]], dtype=D)
X = [1.5, 0.7]


def definition(references: Tensor) -> Tensor:
    """The mean over the references of the integral over t, by Gauss nodes that are exact for this polynomial."""
    x, found = torch.tensor([X], dtype=D), torch.zeros(1, 2, dtype=D)
    for t, weight in zip(*np.polynomial.legendre.leggauss(6), strict=True):
        points = torch.lerp(references, x, (t + 1) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(steep(points).sum(), points)
        found += weight / 2 * ((x - references) * slope).mean(0)
    return found


@pytest.mark.parametrize(("samples", "count"), [(16, 4), (10, 4), (64, 1), (5, 8), (7, 7), (2, 3), (9, 2)])
def test_every_reference_has_its_own_parts_of_the_line(samples: int, count: int) -> None:
    seen: list[Tensor] = []

    def spied(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            seen.append(x.detach().clone())
        return x.sum(1, keepdim=True)

    # Reference r is the unit vector r, x is zero: the point at t is 1 - t there.
    x, references = torch.zeros(1, count, dtype=D), torch.eye(count, dtype=D)
    ll.explain(ll.Differentiable(spied), x, ll.ExpectedGradients(samples), baseline=ll.Samples(references, count))
    rows = torch.cat(seen)
    rows = rows[rows.sum(1) > 0]  # without x itself
    assert len(rows) == samples
    reference, time = rows.argmax(1), 1 - rows.amax(1)
    uses = reference.bincount(minlength=count)
    assert set(uses.tolist()) <= {samples // count, samples // count + 1}
    for m in uses.unique().tolist():
        alike = (uses == m).nonzero()[:, 0]
        for r in alike.tolist():
            assert (time[reference == r] * m).long().sort().values.tolist() == list(range(m))
        cells = m * len(alike)
        together = time[torch.isin(reference, alike)]
        assert (together * cells).long().sort().values.tolist() == list(range(cells))


@pytest.mark.parametrize("samples", [3, 5, 12, 40])
def test_the_mean_over_seeds_is_the_definition(samples: int) -> None:
    n = 1000
    x = many(X, n)
    a = drawn(steep, x, samples, REFERENCES)
    error = a.values.std(0) / n**0.5
    assert bool(((a.values.mean(0) - definition(REFERENCES)[0]).abs() < 4 * error).all())


def test_few_references_are_no_source_of_error() -> None:
    """Where all references are used equally often, only t is random: the error falls as samples^-1.5."""
    x, found = many(X, 300), {}
    for samples in (20, 80):
        a = drawn(steep, x, samples, REFERENCES)
        found[samples] = (a.values - definition(REFERENCES)).square().mean(0).sqrt()
    assert bool((found[20] / found[80] > 6).all())  # 8 in the limit; 2 for independent draws


def test_the_standard_error_of_a_steady_gradient_is_too_large_by_the_factor_told() -> None:
    """One reference, gradient 3 t^2, 64 parts of width h = 1/64: a draw has variance (6 t h)^2 / 12 in its part.

    The mean's variance is 36/3 h^2 / 12 / 64; pairs differ by (6 t h)^2 (1/6 + 1), which makes it 7 times as much.
    """
    a = drawn(lambda x: (x**3).sum(1, keepdim=True), many([1.0], 500), 64, torch.zeros(1, 1, dtype=D))
    assert a.stderr is not None
    exact = (36 / 3 / 64**2 / 12 / 64) ** 0.5
    assert float((a.values - 1).square().mean().sqrt()) == pytest.approx(exact, rel=0.1)
    assert float(a.stderr.square().mean().sqrt()) == pytest.approx(exact * 7**0.5, rel=0.05)


@pytest.mark.parametrize("samples", [12, 15])
def test_the_standard_error_of_a_rough_gradient_is_right(samples: int) -> None:
    references = torch.tensor([[0.1], [-0.4], [0.25]], dtype=D)
    a = drawn(lambda x: torch.sin(900 * x).sum(1, keepdim=True), many([1.0], 1000), samples, references)
    assert a.stderr is not None
    assert float(a.stderr.square().mean().sqrt()) == pytest.approx(float(a.values.std()), rel=0.1)


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("samples", [5, 16, 24])
def test_the_standard_error_covers_the_spread_over_seeds(samples: int, noise: float) -> None:
    net, x = conv_net(), pictures(1)
    data = ll.Samples(pictures(8, seed=9), n=8)
    method = ll.ExpectedGradients(samples, noise)
    found = [ll.explain(net, x, method, target=0, baseline=data, seed=seed) for seed in range(24)]
    observed = torch.stack([a.values for a in found]).std(0)
    told = torch.stack([a.stderr for a in found if a.stderr is not None]).square().mean(0).sqrt()
    assert 0.1 < float((observed / told).median()) < 1.1  # smooth: far too large, but not an empty bound


def test_integrated_gradients_refine_the_line_of_every_reference() -> None:
    x, data = torch.tensor([X], dtype=D), ll.Samples(REFERENCES, 5)
    method = ll.IntegratedGradients(ll.Midpoint(4), tolerance=1e-3)
    a = ll.explain(ll.Differentiable(steep), x, method, target=0, baseline=data)
    change = steep(x)[0, 0] - steep(REFERENCES)[:, 0].mean()
    assert abs(float(a.values.sum() - change)) <= 1e-3 * float((steep(x) - steep(REFERENCES)).abs().mean())
    torch.testing.assert_close(a.values, definition(REFERENCES), atol=0.01, rtol=0)
