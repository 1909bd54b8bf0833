r"""Cover and recount: does the model lose a class where its maps lie, more than elsewhere and than it loses others?

The place of a class is where its maps have more relevance than those of the other classes, and its pictures look
otherwise: of the mean map (features of mean 0 and length 1) minus that of the others, above zero, times the difference
of the mean colours in standard errors, the smallest part that holds a share; and the largest of these with a border,
since what is left of a tag may still be enough. It is chosen from one half of the pictures, and tested on the other
half: else pictures whose objects happen to lie alike would choose the place that tests them. Covered pixels get the
picture's own mean colour. The same shape is covered elsewhere, too, moved by a quarter to three quarters of the
picture, round its edges.

With $A$ the share of right predictions that change when the place is covered, $W$ the mean share when the same shape is
covered elsewhere, and $A'$, $W'$ those of the other classes, three ratios must be above 1: $A / W$ (the place matters),
$A / A'$ (for this class), and $(A / W) / (A' / W')$ (and not only since the class is easily lost, or all objects lie
there). The smallest of the three logarithms, each divided by its standard error, and the largest of that over all
sizes of the place, is compared with those of shuffled classes: the same changes, dealt out to the pictures of either
half at random. Dividing by the standard error keeps the level in large samples also where classes are lost easily to a
different degree.

Objects of one class may be lost more easily than those of another at one place by their form alone. A shortcut is
something that the other pictures do not show there. So the mean colours at the place must differ as well: the largest
difference in standard errors is compared with that of shuffled classes. Where labels say nothing of what is at a place,
as in pictures whose objects move, its rate of false alarms is at most the level, exactly, whatever the model does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .clusters import SIDE
from .places import Place, part_of, words_of
from .summary import Share

LEVELS = (0.5, 0.75, 0.95)
"""The shares of the excess relevance that the sizes of a place hold; another size is the last with a border."""
SIZES = len(LEVELS) + 1
ELSEWHERE = 4  # places of the same shape that are covered for comparison
FEWEST = 10  # pictures of the class that the model gets right, and of all others
SHUFFLES = 1999
_MOST = 200  # pictures of the class that are covered, and of all others
_NORMAL = 1.96
_DIFFERENT = 0.05
_LEAST = 1 / 255  # colours that vary less are equal
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cover:
    """What covering the place of a class changes.

    `place`: the place by all maps, at the size that tells most, and `cells` its cells on a grid of SIDE x SIDE, row by
    row. `changed`: the right predictions of the class that change when it is covered; `elsewhere`: the mean share
    where the same shape is covered elsewhere. `others`, `others_elsewhere`: the same for pictures of the other classes.
    `times`: (changed / elsewhere) / (others / others_elsewhere), with half a change added to each, and its interval of
    95 % from `low` to `high`. `p_changed`: the share of shuffled classes whose changes surprise as much, `p_colours`:
    whose colours at the place differ as much, each times the number of places that the audit tests. `ids`: the pictures
    whose prediction changes.
    """

    place: Place
    cells: tuple[int, ...]
    changed: Share
    elsewhere: float
    others: Share
    others_elsewhere: float
    times: float
    low: float
    high: float
    p_changed: float
    p_colours: float
    ids: tuple[int, ...]

    @property
    def p(self) -> float:
        """The larger p: both must be small."""
        return max(self.p_changed, self.p_colours)

    @property
    def sentence(self) -> str:
        """Say what changed, with its interval."""
        own, others = self.changed, self.others
        low, high = own.interval
        look = (
            "the pictures differ there" if self.p_colours <= _DIFFERENT else "the pictures do not surely differ there"
        )
        return (
            f"covering the place ({self.place.words}, {self.place.area:.0%} of the picture) changes {own.count} of "
            f"{own.total} right predictions of {own.name!r} ({own.share:.0%}, {low:.0%} to {high:.0%}), covering as "
            f"much elsewhere {self.elsewhere:.0%}; in other classes {others.count} of {others.total} "
            f"({others.share:.0%}), and {self.others_elsewhere:.0%} elsewhere: the place matters "
            f"{self.times:.1f} times as much as for the others ({self.low:.1f} to {self.high:.1f}, "
            f"p = {self.p_changed:.3g}); {look} from those of other classes (p = {self.p_colours:.3g})"
        )


@dataclass(frozen=True)
class Maps:
    """The compared maps of one method, a row each: `features` `(n, d)`, classes, ids, whether the model is right."""

    features: Tensor
    labels: NDArray[np.str_]
    ids: NDArray[np.int64]
    right: NDArray[np.bool_]


class Pictures(Protocol):
    """What is asked of the pictures, by their ids."""

    def colours(self, ids: Sequence[int]) -> Tensor:
        """The mean colours on the grid, `(n, channels, SIDE, SIDE)`."""

    def changes(self, ids: Sequence[int], cells: Tensor) -> Tensor:
        """Whether each prediction changes when cells `(places, SIDE, SIDE)` are covered, `(n, places)`."""


def recounted(maps: Maps, label: str, pictures: Pictures, tests: int, seed: int, visible: float = 1.0) -> Cover | None:
    """Cover the place of a class and count; None where the model gets too few pictures right.

    None too, before anything is covered, where the colours at the place differ with a p above `visible`. Costs 20
    forward rows for each of at most 400 pictures.
    """
    random = np.random.default_rng(seed)
    chosen = _tested(maps, label, random)
    if chosen is None:
        return None
    halves, colours = _halves(maps.labels, random), pictures.colours(maps.ids.tolist()).double()
    shifts = [tuple(each) for each in random.integers(SIDE // 4, 3 * SIDE // 4 + 1, (ELSEWHERE, 2)).tolist()]
    members = maps.labels[chosen] == label
    shuffled = np.concatenate([members[None], _shuffled(members, halves[chosen], random)])
    insides = [np.flatnonzero(halves[chosen] == half) for half in (0, 1)]
    sizes = [_sizes(_weights(maps, colours, label, halves != half)) for half in (0, 1)]
    differences = np.zeros(len(shuffled))
    for inside, places in zip(insides, sizes, strict=True):
        there = colours[torch.from_numpy(chosen[inside])][:, :, places[0]].flatten(1).numpy()
        differences += _differences(shuffled[:, inside], there).max(1, initial=0)
    p_colours = _p(differences, tests)
    if p_colours > visible:
        return None
    at, away = np.zeros((2, len(chosen), SIZES))
    for inside, places in zip(insides, sizes, strict=True):
        moved = [places.roll(shift, (1, 2)) for shift in shifts]
        found = pictures.changes(maps.ids[chosen[inside]].tolist(), torch.cat([places, *moved])).double().numpy()
        found = found.reshape(len(inside), 1 + ELSEWHERE, SIZES)
        at[inside], away[inside] = found[:, 0], found[:, 1:].mean(1)
    surprise = _surprise(shuffled, at, away)
    level = int(surprise[0].argmax())
    ratios, errors = _log_ratios(members[None], at[:, level], away[:, level])
    times, error = float(ratios[2, 0]), float(errors[2, 0])
    weights = _weights(maps, colours, label, np.ones(len(maps.ids), dtype=bool))
    cells = _sizes(weights)[level]
    hit = at[:, level] > 0
    return Cover(
        Place(words_of(weights, cells), float(cells.double().mean())),
        tuple(cells.flatten().nonzero()[:, 0].tolist()),
        Share(label, int(hit[members].sum()), int(members.sum())),
        float(away[members, level].mean()),
        Share("other classes", int(hit[~members].sum()), int((~members).sum())),
        float(away[~members, level].mean()),
        float(np.exp(times)),
        float(np.exp(times - _NORMAL * error)),
        float(np.exp(times + _NORMAL * error)),
        _p(surprise.max(1), tests),
        p_colours,
        tuple(maps.ids[chosen[members & hit]].tolist()),
    )


def _p(values: Array, tests: int) -> float:
    """Return the share of values that reach the first, itself included, times the number of tests."""
    return min(1.0, tests * float((values >= values[0]).mean()))


def covered(x: Tensor, cells: Tensor) -> Tensor:
    """Cover places of pictures `(n, C, H, W)` with the picture's mean colour, by cells `(places, SIDE, SIDE)`.

    Returns `(n, places, C, H, W)`.
    """
    masks = F.interpolate(cells[:, None].to(x.dtype), x.shape[-2:], mode="nearest").bool()
    return torch.where(masks, x.mean((2, 3), keepdim=True)[:, None], x[:, None])


def _tested(maps: Maps, label: str, random: np.random.Generator) -> NDArray[np.int64] | None:
    """Choose the rows of pictures that are covered: of the class, then of others."""
    own = np.flatnonzero(maps.right & (maps.labels == label))
    others = np.flatnonzero(maps.right & (maps.labels != label))
    if min(len(own), len(others)) < FEWEST:
        return None
    return np.concatenate([np.sort(random.permutation(each)[:_MOST]) for each in (own, others)])


def _halves(labels: NDArray[np.str_], random: np.random.Generator) -> NDArray[np.int64]:
    """Divide the maps of each class into two halves at random."""
    halves = np.zeros(len(labels), dtype=np.int64)
    for name in np.unique(labels):
        inside = random.permutation(np.flatnonzero(labels == name))
        halves[inside[::2]] = 1
    return halves


def _weights(maps: Maps, colours: Tensor, label: str, used: NDArray[np.bool_]) -> Tensor:
    """Return how much more relevance the class has than the others, times how much its colours differ, on the grid."""
    members, features, several = maps.labels[used] == label, maps.features.numpy()[used], colours.numpy()[used]
    excess = np.maximum(features[members].mean(0) - features[~members].mean(0), 0)
    different = _differences(members[None], several.reshape(len(several), -1))[0].reshape(-1, SIDE * SIDE).max(0)
    return torch.from_numpy(excess * different).view(SIDE, SIDE)


def _differences(members: NDArray[np.bool_], x: Array) -> Array:
    """Return the difference of the means of members and others in standard errors, without its sign.

    `members` `(shuffles, n)`, `x` `(n, d)`; returns `(shuffles, d)`, 0 where nothing varies.
    """
    parts = []
    x = x - x.mean(0)  # else squares would cancel
    for chosen in (members.astype(np.float64), (~members).astype(np.float64)):
        count = chosen.sum(1, keepdims=True)
        mean = chosen @ x / count
        parts.append((mean, np.maximum(chosen @ x**2 / count - mean**2, 0) / (count - 1)))
    (own, variance), (others, other_variance) = parts
    error = np.sqrt(variance + other_variance + _LEAST**2 / len(x))
    found: NDArray[np.float64] = np.abs(own - others) / error
    return found


def _sizes(weights: Tensor) -> Tensor:
    """Return the sizes of a place, the smallest first, `(SIZES, SIDE, SIDE)`."""
    held = torch.stack([_cells(weights, level) for level in LEVELS])
    bordered = F.max_pool2d(held[-1:].double(), 3, stride=1, padding=1).bool()
    return torch.cat([held, bordered])


def _cells(weights: Tensor, share: float) -> Tensor:
    """Return the smallest part that holds this share of the weights, `(SIDE, SIDE)`."""
    cells = torch.zeros(SIDE * SIDE, dtype=torch.bool)
    cells[part_of(weights.flatten(), share)] = True
    return cells.view(SIDE, SIDE)


def _shuffled(members: NDArray[np.bool_], halves: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.bool_]:
    """Shuffle the membership of the pictures of either half, `(SHUFFLES, n)`."""
    shuffled = np.empty((SHUFFLES, len(members)), dtype=bool)
    for half in (0, 1):
        inside = np.flatnonzero(halves == half)
        shuffled[:, inside] = random.permuted(np.tile(members[inside], (SHUFFLES, 1)), axis=1)
    return shuffled


def _surprise(members: NDArray[np.bool_], at: Array, away: Array) -> Array:
    """Return the smallest of the three logarithms in standard errors, `(shuffles, levels)`."""
    found = []
    for level in range(at.shape[1]):
        ratios, errors = _log_ratios(members, at[:, level], away[:, level])
        found.append((ratios / errors).min(0))
    return np.stack(found, 1)


def _log_ratios(members: NDArray[np.bool_], at: Array, away: Array) -> tuple[Array, Array]:
    """Return log A / W, log A / A' and log (A / W) / (A' / W') and their standard errors, each `(3, shuffles)`."""
    (a, w), (other_a, other_w) = ([_log_mean(each, x) for x in (at, away)] for each in (members, ~members))
    ratios = [a[0] - w[0], a[0] - other_a[0], a[0] - w[0] - other_a[0] + other_w[0]]
    variances = [a[1] + w[1], a[1] + other_a[1], a[1] + w[1] + other_a[1] + other_w[1]]
    return np.stack(ratios), np.sqrt(np.stack(variances))


def _log_mean(members: NDArray[np.bool_], x: Array) -> tuple[Array, Array]:
    """Return the logarithm of the mean over members, and its variance.

    One picture of which half changes is added, so that both are finite.
    """
    chosen = members.astype(np.float64)
    count = chosen.sum(1) + 1
    mean = (chosen @ x + 0.5) / count
    spread = (chosen @ x**2 + 0.25) / count - mean**2
    return np.log(mean), np.maximum(spread, 0) / (count - 1) / mean**2
