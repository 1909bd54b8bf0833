"""Cover and recount: figures by hand, its rate of false alarms, and what it finds and refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from limelight.runs.clusters import SIDE
from limelight.runs.covering import Maps, _differences, _log_ratios, covered, recounted
from limelight.runs.summary import Share
from limelight.runs.verdicts import judged

CORNER = (slice(12, 14), slice(12, 14))
"""Cells."""


class Known:
    """Pictures whose predictions change by a rule: where the cell that the model reads is covered."""

    def __init__(self, read: Sequence[tuple[int, int]], colours: Tensor) -> None:
        self.read, self.known, self.rows = read, colours, 0

    def colours(self, ids: Sequence[int]) -> Tensor:
        return self.known[list(ids)]

    def changes(self, ids: Sequence[int], cells: Tensor) -> Tensor:
        self.rows += len(ids) * len(cells)
        return torch.stack([cells[:, self.read[i][0], self.read[i][1]] for i in ids])


def pictures(
    random: np.random.Generator, each: int, classes: int = 3, tagged: float = 0.0, shown: bool = True
) -> tuple[Maps, Known]:
    """Objects that move, which the model reads; in a share of the first class it reads the corner instead, where it
    shows something (`shown`)."""
    labels = np.repeat([f"class {k}" for k in range(classes)], each)
    read = [(int(r), int(c)) for r, c in random.integers(0, SIDE, (len(labels), 2))]
    colours = torch.from_numpy(random.uniform(0.3, 0.5, (len(labels), 3, SIDE, SIDE)))
    for i in range(int(tagged * each)):
        read[i] = (12 + i % 2, 12)
        if shown:
            colours[(i, slice(None), *CORNER)] = 1.0
    features = torch.zeros(len(labels), SIDE, SIDE, dtype=torch.float64)
    for i, (row, column) in enumerate(read):
        features[i, row, column] = 1
    features = features.flatten(1) - features.flatten(1).mean(1, keepdim=True)
    features /= features.norm(dim=1, keepdim=True)
    return Maps(features, labels.astype(np.str_), np.arange(len(labels)), np.ones(len(labels), bool)), Known(
        read, colours
    )


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_place_that_the_model_needs_is_counted(share: float) -> None:
    maps, known = pictures(np.random.default_rng(0), 30, tagged=share)
    cover = recounted(maps, "class 0", known, 1, 0)
    assert cover is not None and cover.p <= 0.01 and cover.place.words == "bottom right"
    # The smallest size of the place tells most, and may leave out a cell of two.
    assert cover.changed.count >= 15 * share and (cover.changed.total, cover.others.total) == (30, 60)
    assert len(cover.ids) == cover.changed.count and set(cover.ids) <= set(range(30))
    assert 1 < cover.low < cover.times < cover.high
    assert f"changes {cover.changed.count} of 30 right predictions of 'class 0'" in cover.sentence
    assert known.rows == 90 * 20  # what the docstring says
    several = recounted(maps, "class 0", known, 4, 0)
    assert several is not None and several.p_changed == pytest.approx(4 * cover.p_changed)


def test_a_place_without_anything_to_see_is_not_enough() -> None:
    """The model loses the class where the pictures differ from no others: p of the colours stays large."""
    cover = recounted(*_with(pictures(np.random.default_rng(1), 30, tagged=1.0, shown=False), "class 0"))
    assert cover is not None and cover.p_changed <= 0.01 and cover.p_colours > 0.05 and cover.p == cover.p_colours
    assert "do not surely differ there" in cover.sentence


def test_something_to_see_that_the_model_does_not_need_is_not_enough() -> None:
    maps, known = pictures(np.random.default_rng(2), 30, tagged=1.0)
    deaf = Known([(0, 0)] * 90, known.known)
    cover = recounted(maps, "class 0", deaf, 1, 0)
    assert cover is not None and cover.p_colours <= 0.01 and cover.p_changed > 0.05


def test_false_alarms_of_either_part_come_at_the_stated_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects that move: each p is at most 20 % in at most 20 % of data sets, within three standard errors of 120."""
    monkeypatch.setattr("limelight.runs.covering.SHUFFLES", 99)
    seeds, level = 120, 0.2
    found = [recounted(*_with(pictures(np.random.default_rng([seed, 5]), 16), "class 1")) for seed in range(seeds)]
    bound = level + 3 * np.sqrt(level * (1 - level) / seeds)
    assert np.mean([each.p_changed <= level for each in found if each]) <= bound
    assert np.mean([each.p_colours <= level for each in found if each]) <= bound


def test_a_place_is_covered_where_the_maps_are_not_suspicious_and_something_is_to_be_seen() -> None:
    """A third of a class reads the corner, a small part of maps that differ: its predictions change there."""
    random = np.random.default_rng(6)
    maps, known = pictures(random, 40, tagged=0.35)
    features = 0.4 * maps.features + pictures(random, 40)[0].features
    maps = replace(maps, features=features / features.norm(dim=1, keepdim=True))
    verdicts, _ = judged({"method": maps}, known, shuffles=199)
    found = [each for each in verdicts if each.found]
    assert [each.label for each in found] == ["class 0"] and not found[0].suspicious
    assert found[0].cover and {12 * SIDE + 12, 13 * SIDE + 12} <= set(found[0].cover.cells)
    assert "but covering the place" in found[0].sentence
    assert known.rows == 20 * 120, "the other classes look like the rest where their maps are: none is covered"


def test_few_right_pictures_are_not_counted() -> None:
    maps, known = pictures(np.random.default_rng(3), 12)
    right = maps.right.copy()
    right[:3] = False
    few = Maps(maps.features, maps.labels, maps.ids, right)
    assert recounted(few, "class 0", known, 1, 0) is None and recounted(few, "class 1", known, 1, 0) is not None
    assert known.rows == 20 * 33


def test_ratios_by_hand() -> None:
    """Half a change is added to each count: 3 of 4 and 1 of 4, in others 1 of 5 and 2 of 5."""
    members = np.array([[True] * 4 + [False] * 5])
    at = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0.0])
    away = np.array([1, 0, 0, 0, 1, 1, 0, 0, 0.0])
    ratios, errors = _log_ratios(members, at, away)
    a, w, b, v = 3.5 / 5, 1.5 / 5, 1.5 / 6, 2.5 / 6
    np.testing.assert_allclose(np.exp(ratios[:, 0]), [a / w, a / b, a / w / (b / v)], rtol=1e-12)
    parts = [np.var([1, 1, 1, 0, 0.5]) / 4 / a**2, np.var([1, 0, 0, 0, 0.5]) / 4 / w**2]
    assert errors[0, 0] == pytest.approx(np.sqrt(sum(parts)), rel=1e-12)


def test_differences_are_means_in_standard_errors() -> None:
    random = np.random.default_rng(4)
    x, members = random.standard_normal((20, 3)), np.arange(20) < 8
    own, others = x[:8], x[8:]
    error = np.sqrt(own.var(0) / 7 + others.var(0) / 11 + (1 / 255) ** 2 / 20)
    wanted = np.abs(own.mean(0) - others.mean(0)) / error
    np.testing.assert_allclose(_differences(members[None], x)[0], wanted, rtol=1e-9)


def test_covered_pixels_get_the_mean_colour() -> None:
    x = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    cells = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    cells[0, 0, 15] = True
    found = covered(x, cells)[:, 0]
    wanted = x.clone()
    wanted[:, :, :2, 45:] = x.mean((2, 3))[:, :, None, None]
    torch.testing.assert_close(found, wanted)


def test_intervals_of_shares() -> None:
    """[wilson1927]: 15 of 20 is .53 to .89, 0 of 10 is 0 to .28 (Newcombe 1998, table of methods)."""
    assert Share("", 15, 20).interval == pytest.approx((0.5313, 0.8881), abs=1e-3)
    assert Share("", 0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-3)


def _with(made: tuple[Maps, Known], label: str) -> tuple[Maps, str, Known, int, int]:
    return made[0], label, made[1], 1, 0
