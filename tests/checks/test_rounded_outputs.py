"""Services round what they answer: no figure moves by more than that explains, and the finding says it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import limelight as ll
from limelight.base.arithmetic import decimals_of
from limelight.checks import agreement

from .test_properties import EVERY, masks

HALF = 0.0005  # of a step of three decimals: how far a score may be off
WEIGHTS = np.random.default_rng(0).normal(size=(192, 5)) * 0.08
TARGET = [0, 1, 2]


def exact(rows: np.ndarray) -> np.ndarray:
    z = rows.reshape(len(rows), -1) @ WEIGHTS
    powers: np.ndarray = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def rounded(rows: np.ndarray) -> np.ndarray:
    return np.round(exact(rows), 3)


def inputs() -> Tensor:
    return torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def maps() -> Tensor:
    """x times the slope of the class's logit: what a good map looks like."""
    slopes = torch.from_numpy(WEIGHTS.T).reshape(5, 3, 8, 8)[TARGET]
    return (slopes - slopes.mean(0)) * inputs()


def run(answer: Callable[[np.ndarray], np.ndarray], check: ll.Check, method: Any) -> ll.Finding:
    return ll.check(ll.BlackBox(answer), inputs(), method, check, target=TARGET, mask=masks())[0]


def explained(check: ll.Check, found: ll.Finding, norms: list[Tensor]) -> Tensor:
    """How far `(n,)` a figure on exact scores may be from `found`, each score being off by HALF at most.

    By the definition of each figure, to first order in the rounding of a ratio and exact for the others; `norms` are
    the lengths of the changes of the score, about their mean, that were correlated with the map's sums.
    """
    n = len(found.value)
    match check:
        case ll.Deletion() | ll.Insertion():  # a weighted mean of scores
            return torch.full((n,), HALF)
        case ll.SRG() | ll.ROAD() | ll.PixelFlipping():  # a difference of two
            return torch.full((n,), 2 * HALF)
        case ll.IROF():  # differences over f_0 at least, itself off
            return 4 * HALF / (found.detail["curve"][:, 0].abs() - 2 * HALF)
        case ll.Infidelity():  # mean (p - d)^2, each d off by 2 HALF
            return 4 * HALF * found.value.sqrt() + 8 * HALF**2
        case ll.FaithfulnessCorrelation() | ll.SensitivityN():  # of vectors of length 1 that turn by |e| / |d|
            samples = check.samples
            return torch.stack([2 * HALF * math.sqrt(samples) / each for each in norms]).mean(0)
        case ll.FineDetail():
            moved = found.detail["bright"].abs() + found.detail["gaps"].abs()
            return 8 * HALF / moved
        case ll.AverageDrop():
            before = found.detail["kept"] / (1 - found.value)
            return (4 * HALF / (before - 2 * HALF)).nan_to_num(1.0)
        case ll.IncreaseInConfidence():  # may turn where both scores are as near as rounding
            before = torch.from_numpy(exact(inputs().numpy()))[range(n), TARGET]
            return ((found.detail["kept"] - before).abs() <= 4 * HALF).double()
    return torch.zeros(n)


@pytest.mark.parametrize("check", EVERY, ids=lambda each: each.kebab())
def test_a_figure_moves_by_no_more_than_rounding_explains(check: ll.Check, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[Tensor] = []
    pearson = agreement.pearson

    def watched(sums: Tensor, fallen: Tensor, dim: int) -> Tensor:
        norms.append((fallen - fallen.mean(dim)).norm(dim=dim) - 2 * HALF * math.sqrt(len(fallen)))
        return pearson(sums, fallen, dim=dim)

    monkeypatch.setattr(agreement, "pearson", watched)
    plain = run(exact, check, maps())
    norms.clear()
    found = run(rounded, check, maps())
    both = ~(plain.value.isnan() | found.value.isnan())
    if check.kind == "faithfulness" and not check.needs_method:
        assert bool(both.all()) or isinstance(check, ll.FineDetail)
        assert any("rounded to 3 decimals" in note and "known to 0.0005" in note for note in found.notes)
    bound = explained(check, found, norms)
    assert bool(((found.value - plain.value).abs() <= bound + 1e-12)[both].all()), (plain.value, found.value, bound)
    assert not any("rounded" in note for note in plain.notes)


@pytest.mark.parametrize("method", ["rise(masks=64, cells=4)", "permutation-shap(permutations=4, players=grid(2))"])
@pytest.mark.parametrize("check", [each for each in EVERY if each.kind == "hard"], ids=lambda each: each.kebab())
def test_no_hard_test_fails_because_of_it(check: ll.Check, method: str) -> None:
    plain, found = run(exact, check, method), run(rounded, check, method)
    if plain.passed is not False:
        assert found.passed is not False, (plain, found)


def test_what_a_rounding_model_ignores_is_not_known() -> None:
    """One pixel moves a probability by less than a step: it would count as ignored, and its value as wrong."""
    found = run(rounded, ll.Dummy(features=8), "rise(masks=64, cells=4)")
    assert found.passed is None and "rounded to 3 decimals: a score that stays may have changed" in found.reason


def test_decimals() -> None:
    numbers = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for decimals in range(1, 6):
        near = (numbers * 10**decimals).round() / 10**decimals
        for kind in (torch.float64, torch.float32):
            assert decimals_of(near.to(kind)) == decimals and decimals_of(near.to(kind).double()) == decimals
    for others in (numbers, numbers.float(), 1000 * numbers, (numbers * 5).round(), numbers[:2].round(decimals=1)):
        assert decimals_of(others) is None
    assert decimals_of(torch.tensor([123.25, 1.5, 7.75])) == 2
