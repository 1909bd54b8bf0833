"""Learned masks: where the score comes from one place, that is the place they find."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import limelight as ll
from limelight.methods.perturbation import _Bumps

from .networks import conv_net, pictures

pytestmark = pytest.mark.quick

D = torch.float64


def bright_patch(rows: Tensor) -> Tensor:
    """A score that reads 8 x 8 pixels of a checked picture, at (12, 4)."""
    signs = 1 - 2 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)
    return (rows[:, 0, 12:20, 4:12] * signs.to(rows)).mean((1, 2))[:, None] * 2


def checks(size: int = 32) -> Tensor:
    return ((torch.arange(size)[:, None] + torch.arange(size)) % 2 == 0).to(D).expand(1, 1, size, size).clone()


def test_meaningful_perturbation_deletes_what_counts() -> None:
    method = ll.MeaningfulPerturbation(steps=100, size=16, jitter=0)
    a = ll.explain(ll.Differentiable(bright_patch), checks(), method, target=0, baseline=0.5)
    assert a.values[0, 0, 12:20, 4:12].mean() > 0.95 and a.values[0, 0, :, 24:].max() < 0.05
    assert a.raw is not None and a.raw.shape == (1, 1, 16, 16)


@pytest.mark.parametrize(("scale", "said"), [(0.5, False), (9.0, True), (-1.0, True)])
def test_meaningful_perturbation_says_that_a_score_is_out_of_its_scale(scale: float, said: bool) -> None:
    x = torch.cat([checks(), 0 * checks()])
    model = ll.Differentiable(lambda rows: scale * bright_patch(rows))
    a = ll.explain(model, x, ll.MeaningfulPerturbation(2), target=0)
    wanted = [f"the weights are for scores between 0 and 1, and this one is {scale:.3g}"] if said else []
    assert [note.text.split(":")[0] for note in a.cautions if note.example == 0] == wanted
    assert not any("weights" in note.text for note in a.cautions if note.example == 1)  # its score is 0
    assert a.backward_rows == 4


def test_meaningful_perturbation_descends_its_loss() -> None:
    """Recomputed by autograd from the formula, at the masks of more and more steps."""
    net, x = conv_net(), pictures(2)
    with torch.no_grad():
        target = int((net(x) - net(0 * x)).mean(0).argmax())  # a score that deleting can lower

    def loss(steps: int) -> Tensor:
        a = ll.explain(net, x, ll.MeaningfulPerturbation(steps, size=4, jitter=0), target=target)
        kept = 1 - a.raw
        rows = F.interpolate(kept, size=(8, 8), mode="bilinear") * x
        rough = sum((kept.diff(dim=d).abs() ** 3).flatten(1).mean(1) for d in (2, 3))
        return net(rows)[:, target] + 0.01 * (1 - kept).flatten(1).mean(1) + 0.2 * rough

    with torch.no_grad():
        losses = [loss(steps) for steps in (1, 10, 60)]
    assert (losses[1] < losses[0]).all() and (losses[2] <= losses[1] + 1e-9).all()


def test_one_step_of_meaningful_perturbation_by_hand() -> None:
    """Adam's first step is the learning rate against the gradient's sign: a mask falls where keeping costs score."""
    x = torch.full((1, 1, 4, 4), 2.0, dtype=D)
    weights = torch.ones(4, 4, dtype=D).tril() * 2 - 1
    f = ll.Differentiable(lambda rows: (rows[:, 0] * weights).sum((1, 2))[:, None])
    a = ll.explain(f, x, ll.MeaningfulPerturbation(1, size=4, l1=0.0, learning_rate=0.25, jitter=0), target=0)
    # df/dm = 2 * weight: +2 on and below the diagonal, where m falls to 0.75; above it m would rise past 1.
    torch.testing.assert_close(a.values[0, 0], 0.25 * torch.ones(4, 4, dtype=D).tril())


def brightness(rows: Tensor) -> Tensor:
    return rows[:, 0, 12:20, 4:12].mean((1, 2))[:, None]


def test_extremal_perturbation_finds_the_place_at_the_area_wanted() -> None:
    x = torch.zeros(1, 1, 32, 32, dtype=D)
    x[0, 0, 12:20, 4:12] = 1
    method = ll.ExtremalPerturbation((0.1, 0.2), steps=300, step=2, sigma=4.0, blur=6.0, growth=1.01)
    for variant in ("preserve", "delete", "dual"):
        a = ll.explain(ll.Differentiable(brightness), x, dataclasses.replace(method, variant=variant), target=0)
        assert a.raw is not None and a.raw.shape == (1, 2, 32, 32)
        torch.testing.assert_close(a.values[:, 0], a.raw.mean(1))
        for mask, area in zip(a.raw[0], method.areas, strict=True):
            assert abs(float(mask.mean()) - area) < 0.01
            assert mask[14:18, 6:10].min() > 0.5
        smaller = a.raw[0, 0]  # the larger area holds more than the square needs; where the rest goes is all one
        assert smaller[8:24, :16].sum() > 0.8 * smaller.sum()
        assert "(0.1 wanted)" in " ".join(a.notes)


def test_bumps_are_the_smooth_maximum_around_each_grid_point() -> None:
    method = ll.ExtremalPerturbation(step=3, sigma=5.0)
    bumps = _Bumps(method, torch.empty(1, 1, 10, 13, dtype=D))
    grid = torch.rand(1, 1, *bumps.shape, dtype=D, generator=torch.Generator().manual_seed(0))
    found = bumps.inside(bumps.canvas(grid))
    radius = 3  # ceil(5 / 3) + 1
    assert bumps.shape == (4, 5) and found.shape == (1, 1, 10, 13)
    around = torch.nn.functional.pad(grid, (radius,) * 4)
    for row in range(4):
        for column in range(5):
            values = torch.stack(
                [
                    around[0, 0, row + radius + i, column + radius + j]
                    * torch.exp(torch.tensor(-2 * max(0.0, (9 * i * i + 9 * j * j) ** 0.5 / 5 - 0.5) ** 2, dtype=D))
                    for i in range(-radius, radius + 1)
                    for j in range(-radius, radius + 1)
                ]
            )
            expected = (values * (20 * values).softmax(0)).sum()
            torch.testing.assert_close(found[0, 0, 3 * row, 3 * column], expected)


def test_a_bump_costs_the_same_everywhere() -> None:
    """The canvas holds all that a bump covers, also beyond the border; slopes beyond it are zero."""
    bumps = _Bumps(ll.ExtremalPerturbation(step=3, sigma=5.0), torch.empty(1, 1, 10, 13, dtype=D))
    each = torch.eye(20, dtype=D).reshape(20, 1, 4, 5)
    canvas = bumps.canvas(each)
    covered = canvas.sum((1, 2, 3))
    # The last point's outer half step is beyond the canvas, where a bump is nearly zero.
    torch.testing.assert_close(covered, covered[6:7].expand(20), rtol=1e-3, atol=0)
    assert canvas[0].numel() == bumps.area and float(bumps.inside(canvas)[0].sum()) < 0.5 * float(covered[0])
    picture = torch.rand(2, 1, 10, 13, dtype=D)
    beyond = bumps.beyond(picture)
    assert torch.equal(bumps.inside(beyond), picture) and beyond.shape[2:] == canvas.shape[2:]
    torch.testing.assert_close(beyond.sum(), picture.sum())


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_extremal_perturbation_finds_what_a_small_score_needs_and_not_the_border(variant: Any) -> None:
    """The detail of a disc in the middle, worth 10 where the area's weight is 300: a blurred picture shows none."""
    size, random = 64, torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, size, size, dtype=D, generator=random)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((rows - 34) ** 2 + (columns - 30) ** 2 < 14**2).double()
    pattern = (x - x.mean()) * disc
    scale = 10 / float((pattern * x[0]).sum())
    model = ll.Differentiable(lambda given: scale * (given * pattern).sum((1, 2, 3))[:, None])
    area = float(disc.mean())
    method = ll.ExtremalPerturbation((area,), variant, steps=250, step=4, sigma=8.0, growth=1.01)
    mask = ll.explain(model, x, method, target=0).values[0, 0]
    edge = torch.ones(size, size, dtype=torch.bool)
    edge[4:-4, 4:-4] = False
    assert abs(float(mask.mean()) - area) < 0.02
    assert float((mask * disc).sum() / mask.sum()) > 0.8 and float(mask[edge].mean()) < 0.05


def test_rows_and_refusals() -> None:
    x = pictures(2)
    a = ll.explain(conv_net(), x, ll.ExtremalPerturbation((0.2, 0.4), "dual", steps=3, step=2, sigma=3.0, blur=2.0))
    assert a.backward_rows == 2 * 3 * 2 * 2
    with pytest.raises(ValueError, match=r"areas=\(1\.5,\): use shares of the picture between 0 and 1"):
        ll.ExtremalPerturbation((1.5,))
    for method in (ll.ExtremalPerturbation(steps=1), ll.MeaningfulPerturbation(1)):
        with pytest.raises(ValueError, match=r"learns masks of pictures \(n, channels, H, W\), not of \(1, 6\)"):
            ll.explain(torch.nn.Linear(6, 2).double(), torch.rand(1, 6, dtype=D), method, target=0)
