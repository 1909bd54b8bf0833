"""The null of an audit: its compactness by hand, its rate of false alarms over seeds, and what it finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from limelight.runs.surprise import FEWEST, judged_classes, surprising_groups

SHUFFLES = 99


def maps(random: np.random.Generator, count: int, places: int = 12) -> np.ndarray:
    """Maps of objects that move: a bump at a random place of a line, and noise; rows of mean 0 and length 1."""
    centres = random.uniform(0, places, count)
    found = np.exp(-((np.arange(places) - centres[:, None]) ** 2)) + 0.1 * random.standard_normal((count, places))
    return normed(found)


def normed(features: np.ndarray) -> np.ndarray:
    features = features - features.mean(1, keepdims=True)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def labels(classes: int, each: int) -> list[str]:
    return [f"class {k}" for k in range(classes) for _ in range(each)]


def test_compactness_is_that_of_the_best_group_of_all() -> None:
    """Against every medoid and every choice of its others, written out."""
    random = np.random.default_rng(0)
    features, names = maps(random, 22), labels(2, 11)
    for group in surprising_groups(features, names, shuffles=SHUFFLES):
        inside = [i for i, name in enumerate(names) if name == group.name]
        best = max(
            np.mean([features[i] @ features[j] for j in others])
            for i in inside
            for others in itertools.combinations([j for j in inside if j != i], len(group.members) - 1)
        )
        medoid, *others = group.members
        assert group.compactness == pytest.approx(best, abs=1e-6)
        assert np.mean(features[others] @ features[medoid]) == pytest.approx(best, abs=1e-6)
        assert len(set(group.members)) == len(group.members) and set(group.members) <= set(inside)


@pytest.mark.parametrize(("classes", "each"), [(2, 16), (5, 12)])
def test_false_alarms_come_at_the_stated_rate(classes: int, each: int) -> None:
    """Labels that say nothing of the maps: p is uniform, so 20% of data sets alarm at a level of 20%.

    Within three standard errors of 200 data sets.
    """
    seeds = 200
    p = []
    for seed in range(seeds):
        random = np.random.default_rng([seed, classes])
        groups = surprising_groups(
            maps(random, classes * each), labels(classes, each), alpha=1e-9, seed=seed, shuffles=49
        )
        p.append(groups[0].p)
    for level in (0.1, 0.2, 0.5):
        error = np.sqrt(level * (1 - level) / seeds)
        assert abs(np.mean(np.array(p) <= level) - level) <= 3 * error, level


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_stays_in_its_place_is_found_and_nothing_else(share: float) -> None:
    random = np.random.default_rng(1)
    features, names = maps(random, 120), labels(4, 30)
    planted = range(30, 30 + int(30 * share))
    tag = np.zeros((len(planted), features.shape[1]))
    tag[:, 3] = 1
    features[planted] = normed(tag + 0.05 * random.standard_normal(tag.shape))
    first, *others = surprising_groups(features, names, shuffles=SHUFFLES)
    assert first.name == "class 1" and first.p == 1 / (SHUFFLES + 1)
    assert set(planted) <= set(first.members) and first.compactness > first.expected + 0.3
    # The nearest to the medoid bear the tag; the group may be as large as the class.
    assert set(first.members[: len(planted)]) == set(planted)
    assert all(each.p > 0.05 for each in others)


def test_two_shortcuts_in_two_classes_are_both_found() -> None:
    random = np.random.default_rng(2)
    features, names = maps(random, 120), labels(4, 30)
    for k, place in ((0, 2), (3, 9)):
        tag = 0.05 * random.standard_normal((30, features.shape[1]))
        tag[:, place] += 1
        features[30 * k : 30 * k + 30] = normed(tag)
    found = [each.name for each in surprising_groups(features, names, shuffles=SHUFFLES) if each.p <= 0.05]
    assert sorted(found) == ["class 0", "class 3"]


def test_one_place_in_all_classes_is_no_surprise() -> None:
    """Maps that all look alike, as those of coarse layers do: labels say nothing of them."""
    features = normed(np.eye(1, 12, 4) + 0.1 * np.random.default_rng(3).standard_normal((60, 12)))
    assert min(each.p for each in surprising_groups(features, labels(3, 20), shuffles=SHUFFLES)) > 0.05
    equal = normed(np.tile(np.eye(1, 12, 4), (60, 1)))
    assert {each.p for each in surprising_groups(equal, labels(3, 20), shuffles=SHUFFLES)} == {1.0}


def test_the_order_of_the_maps_does_not_matter() -> None:
    """Nor does the seed decide who is in the group."""
    features, names = maps(np.random.default_rng(4), 60), labels(3, 20)
    order = np.random.default_rng(5).permutation(60)
    plain = surprising_groups(features, names, 1e-9, seed=1, shuffles=SHUFFLES)
    other = surprising_groups(features[order], [names[i] for i in order], 1e-9, seed=1, shuffles=SHUFFLES)
    sizes = {each.name: each for each in other}
    for each in plain:
        if len(each.members) == len(sizes[each.name].members):
            assert set(each.members) == {int(order[i]) for i in sizes[each.name].members}


def test_classes_that_are_judged() -> None:
    few, many = FEWEST - 1, FEWEST
    assert judged_classes(["a"] * many) == []
    assert judged_classes(["a"] * many + ["b"] * few) == []
    assert judged_classes(["a"] * many + ["b"] * few + ["c"]) == ["a"]
    assert judged_classes([]) == []
    assert surprising_groups(np.zeros((0, 4)), []) == []
