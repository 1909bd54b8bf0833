"""Ground truth is what it says: hand-set networks, patterns, scenes, mosaics."""

from __future__ import annotations

import pytest
import torch

import limelight as ll
from limelight.studies.ground_truth.synthetic import (
    CLASSES,
    HANDSET,
    PATTERNS,
    earth_mover_score,
    mosaic,
    pattern_problem,
    precision,
    scenes,
)


@pytest.mark.parametrize("problem", HANDSET, ids=lambda each: each.name)
def test_hand_set_truth_is_the_exact_shapley_value(problem: object) -> None:
    """An oracle of its own: every coalition, straight from the definition."""
    from itertools import permutations

    p = problem
    f = lambda rows: p.model(rows)[:, 0]  # type: ignore[attr-defined]  # noqa: E731
    d = p.x.shape[1]  # type: ignore[attr-defined]
    total = torch.zeros(d, dtype=torch.float64)
    orders = list(permutations(range(d)))
    for order in orders:
        row = p.baseline.clone()  # type: ignore[attr-defined]
        for i in order:
            before = f(row).detach()
            row[0, i] = p.x[0, i]  # type: ignore[attr-defined]
            total[i] += (f(row).detach() - before)[0]
    torch.testing.assert_close(total / len(orders), p.truth[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", PATTERNS)
@pytest.mark.parametrize("size", [8, 64])
def test_patterns_have_their_truth(kind: str, size: int) -> None:
    p = pattern_problem(kind, 16, size)  # type: ignore[arg-type]
    again = pattern_problem(kind, 16, size)  # type: ignore[arg-type]
    assert torch.equal(p.x, again.x) and p.x.shape == p.truth.shape == (16, 1, size, size)
    cells = 8 if kind == "xor" else 4
    assert p.truth.flatten(1).sum(1).tolist() == [cells * (size // 8) ** 2] * 16
    if kind == "additive":  # without background nothing but the pattern is there
        bare = pattern_problem(kind, 16, size, alpha=1.0)
        assert torch.equal(bare.x != 0, bare.truth)
        assert bare.x.flatten(1).norm(dim=1).tolist() == pytest.approx([1] * 16)
    with pytest.raises(ValueError, match="size: 9"):
        pattern_problem(kind, 1, 9)  # type: ignore[arg-type]


def test_precision_and_earth_movers_distance() -> None:
    truth = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    truth[..., 0, :2] = True
    assert float(precision(truth.double(), truth)) == 1
    assert float(precision(torch.ones(1, 1, 8, 8), truth)) == pytest.approx(2 / 64)
    half = torch.zeros(1, 1, 8, 8)
    half[..., 0, 1], half[..., 5, 5] = 2, -3
    assert float(precision(half, truth)) == 0.5
    assert float(earth_mover_score(truth.double(), truth)) == pytest.approx(1, abs=2e-3)
    # One corner to the opposite one is the whole diagonal.
    corner, other = torch.zeros(1, 1, 8, 8, dtype=torch.bool), torch.zeros(1, 1, 8, 8)
    corner[..., 0, 0], other[..., 7, 7] = True, 1
    assert float(earth_mover_score(other, corner)) == pytest.approx(0, abs=1e-6)
    assert earth_mover_score(torch.zeros(1, 1, 8, 8), truth).isnan().all()


def test_earth_movers_distance_agrees_with_linear_programming() -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="scipy, the oracle, is not installed")
    import numpy as np

    truth = pattern_problem("additive", 1, 8).truth
    a = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    there = truth.flatten().nonzero()[:, 0]
    places = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"), -1).reshape(-1, 2).double()
    cost = (torch.cdist(places, places[there]) / (7 * 2**0.5)).numpy()
    n, m = cost.shape
    equal = np.zeros((n + m, n * m))
    for i in range(n):
        equal[i, i * m : (i + 1) * m] = 1
    for j in range(m):
        equal[n + j, j::m] = 1
    right = np.concatenate([(a.flatten() / a.sum()).numpy(), np.full(m, 1 / m)])
    exact = optimize.linprog(cost.flatten(), A_eq=equal, b_eq=right, method="highs").fun
    assert float(earth_mover_score(a, truth)) == pytest.approx(1 - exact, abs=0.01)


def test_scenes_are_exact_and_repeatable() -> None:
    s, again = scenes(40, seed=3), scenes(40, seed=3)
    assert torch.equal(s.x, again.x) and torch.equal(s.mask, again.mask)
    assert s.x.shape == (40, 3, 32, 32) and s.x.min() >= 0 and s.x.max() <= 1
    assert not (s.mask & s.distractors).any() and s.mask.flatten(1).any(1).all()
    red = s.x[:, 0] - s.x[:, 1:].amax(1)
    for i in range(40):  # the mask is where the picture is red, and nowhere else
        assert red[i][s.mask[i, 0]].mean() > 0.5 and red[i][~s.mask[i, 0]].mean() < 0.1
    assert set(s.y.tolist()) == set(range(len(CLASSES)))
    with pytest.raises(ValueError, match="size: 16"):
        scenes(1, size=16)


def test_mosaics_put_the_class_where_the_mask_is() -> None:
    pictures = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 4, 4)
    classes = torch.tensor([0, 1, 2, 3, 0, 1])
    made = mosaic(pictures, classes)
    assert made.x.shape == (6, 3, 8, 8) and made.y.tolist() == classes.tolist()
    for i in range(6):
        cells = made.x[i, 0, ::4, ::4].flatten().long()
        assert (made.x[i][made.mask[i].expand(3, -1, -1)] == i).all()
        assert len({int(classes[c]) for c in cells}) == 4
        assert float(made.mask[i].double().mean()) == 0.25
    with pytest.raises(ValueError, match="2 different"):
        mosaic(pictures, torch.tensor([0, 1, 0, 1, 0, 1]))


def test_a_constant_map_is_worth_chance_on_a_mosaic() -> None:
    made = mosaic(torch.rand(4, 3, 4, 4), torch.arange(4))

    class Four(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :4]

    found = ll.check(Four(), made.x, torch.ones(4, 1, 8, 8), ll.GridPointing(), target=made.y, mask=made.mask)[0]
    assert found.value.tolist() == [0.25] * 4
