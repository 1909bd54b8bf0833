"""The gradient along a path, by functions whose derivatives are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

D = torch.float64


class Cubed(nn.Module):
    """Class 0: the sum of x^3 over red, half of x^3 over green, minus x^3 over blue; class 1: 0."""

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.tensor([1.0, 0.5, -1.0], dtype=x.dtype).view(1, 3, 1, 1)
        score = (weight * x**3).flatten(1).sum(1)
        return torch.stack([score, torch.zeros_like(score)], 1)


def test_the_derivative_of_a_pixel_by_hand() -> None:
    x = torch.full((1, 3, 4, 4), 2.0, dtype=D)
    x[0, :, 1, 2] = torch.tensor([1.0, 2.0, 3.0])
    found = ll.along_path(Cubed(), x, (1, 2), points=5, target=0)
    t = torch.linspace(0, 1, 5, dtype=D)
    # d/dx of w x^3 at t x is 3 w (t x)^2.
    wanted = 3 * torch.stack([t**2, 0.5 * 4 * t**2, -9 * t**2], 1)
    torch.testing.assert_close(found.derivatives[0], wanted)
    torch.testing.assert_close(found.share[0], wanted / 27)
    assert found.times.tolist() == t.tolist()


def test_the_autocorrelation_is_the_definitions() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    x, b = torch.randn(2, 6, dtype=D), torch.full((2, 6), 0.3, dtype=D)
    found = ll.along_path(net, x, (3,), points=9, target=1, baseline=b)
    for i in range(2):
        gradients = []
        for t in found.times.tolist():
            point = (b[i] + t * (x[i] - b[i])).requires_grad_()
            gradients.append(torch.autograd.grad(net(point)[1], point)[0])
        g = torch.stack(gradients)
        assert torch.allclose(found.derivatives[i, :, 0], g[:, 3])
        c = g - g.mean(0)
        for lag in range(8):
            wanted = sum(float(c[k] @ c[k + lag]) for k in range(9 - lag)) / float((c * c).sum())
            assert float(found.autocorrelation[i, lag]) == pytest.approx(wanted)


def test_a_shattered_gradient_has_no_memory_and_a_smooth_one_has() -> None:
    class Waves(nn.Module):
        def __init__(self, pace: float) -> None:
            super().__init__()
            self.pace = pace

        def forward(self, x: Tensor) -> Tensor:
            phases = torch.arange(x.shape[1], dtype=x.dtype) * self.pace * 1.7
            return torch.sin(self.pace * x + phases).sum(1, keepdim=True)

    x = torch.linspace(0.5, 1, 40, dtype=D)[None]
    smooth, shattered = (ll.along_path(Waves(pace), x, (0,), points=33).autocorrelation[0] for pace in (2.0, 900.0))
    assert smooth[1] > 0.9 and abs(float(shattered[1])) < 0.2
    linear = ll.along_path(nn.Linear(40, 1).double(), x, (0,), points=4)
    assert linear.autocorrelation.isnan().all() and linear.share[0].unique().abs().tolist() == [1.0]


def test_the_class_is_that_of_the_input_at_every_point() -> None:
    net = nn.Linear(4, 3, bias=False).double()
    x = torch.rand(3, 4, dtype=D, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        own = net(x).argmax(1)
    found = ll.along_path(net, x, (1,), points=20)
    assert torch.allclose(found.derivatives, net.weight[own, 1].detach()[:, None, None].expand(3, 20, 1))


def test_it_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = ll.along_path(Cubed(), torch.rand(1, 3, 4, 4, dtype=D), (0, 0), points=9, target=0)
    left, right = found.figure().axes
    assert [line.get_label() for line in left.get_lines()[:3]] == ["red", "green", "blue"]
    assert [float(y) for y in left.get_lines()[2].get_ydata()] == found.share[0, :, 2].tolist()
    assert len(right.get_lines()[0].get_ydata()) == 8
    assert found.save(tmp_path / "a.pdf").read_bytes()[:5] == b"%PDF-"


def test_what_is_no_path_is_refused() -> None:
    x = torch.rand(1, 3, 4, 4, dtype=D)
    with pytest.raises(ValueError, match=r"pixel: \(4, 0\) is no place in an input of \(4, 4\)"):
        ll.along_path(Cubed(), x, (4, 0))
    with pytest.raises(ValueError, match=r"pixel: \(1,\) is no place"):
        ll.along_path(Cubed(), x, (1,))
    with pytest.raises(ValueError, match="points: 2; use a whole number of 3 or more"):
        ll.along_path(Cubed(), x, (1, 1), points=2)
