"""What a check's figure was made from, to look at: masked, shifted and attacked pictures, their maps, and curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ..base.attribution import Attribution
from ..base.display import on_display
from ..question.per_example import for_examples
from .case import Case
from .imputers import Imputer

MOST_EXAMPLES = 8  # of a batch that are kept, so that findings stay small
MOST_MASKED = 5  # pictures of a curve


@dataclass(frozen=True, eq=False)
class Shown:
    """A part of what is shown of the first examples of a batch; `examples`: the place in the batch of each of the n."""

    label: str
    examples: tuple[int, ...]

    def at(self, places: Sequence[int]) -> Self:
        """Return the same for a batch in which example i has the place `places[i]`."""
        return replace(self, examples=tuple(places[i] for i in self.examples))


@dataclass(frozen=True, eq=False)
class Exhibit(Shown):
    """An input as a display shows it, and the map that was made of it.

    `pictures` `(n, 1 or 3, H, W)`: uint8, clipped as `on_display` does; `clipped` `(n,)`: the share of clipped pixels.
    `maps` `(n, H, W)`: at the scale that the method's maps are drawn at, None for a picture alone. `lines`: texts to
    write below, for each example. `own_scale`: values of this map and the others of the check have no common unit, as
    of networks with other weights, so each is drawn on its own colour scale.
    """

    pictures: Tensor
    clipped: Tensor
    maps: Tensor | None
    lines: tuple[tuple[str, ...], ...]
    own_scale: bool = False


@dataclass(frozen=True, eq=False)
class Curve(Shown):
    """Scores `(n, k)` against the share of the input that is hidden, `hidden` `(k,)` in [0, 1]."""

    hidden: Tensor
    scores: Tensor


Exhibits = tuple[Exhibit | Curve, ...]


def exhibited(case: Case, make: Callable[[], Sequence[Exhibit | Curve]]) -> Exhibits:
    """Return the map that is tested and what `make()` adds; nothing where the case keeps none or has no pictures."""
    if not case.keeps_exhibits or case.x.ndim != 4:
        return ()
    words = case.attribution.view.words(tuple(case.x.shape[2:]))
    return (exhibit("unchanged", case.x, case.x, case.attribution, [(words,)] * len(case)), *make())


def exhibit(
    label: str,
    inputs: Tensor,
    like: Tensor,
    found: Attribution | Tensor | None,
    lines: Sequence[Sequence[str]] = (),
    own_scale: bool = False,
) -> Exhibit:
    """Keep the first examples of inputs `(n, channels, H, W)`, with the black and white of `like`, and of their maps.

    `found`: the maps, or what they are drawn as `(n, H, W)`.
    """
    kept = slice(MOST_EXAMPLES)
    pictures, clipped = on_display(inputs[kept], like[kept])
    maps = found.viewed() if isinstance(found, Attribution) else found
    texts = tuple(tuple(each) for each in lines[kept]) or ((),) * len(pictures)
    drawn = None if maps is None else maps[kept].detach().float().cpu()
    return Exhibit(label, tuple(range(len(pictures))), pictures, clipped, drawn, texts, own_scale)


def curve_of(label: str, hidden: Sequence[float], scores: Tensor) -> Curve:
    """Keep scores `(k, n)` of the first examples."""
    kept = scores.detach().double().cpu().T[:MOST_EXAMPLES]
    return Curve(label, tuple(range(len(kept))), torch.tensor(hidden, dtype=torch.float64), kept)


def removal_of(
    case: Case,
    scores: Tensor,
    places: Tensor,
    counts: Sequence[int],
    imputer: Imputer,
    keep: bool = False,
    label: str = "",
    most: int = MOST_MASKED,
) -> list[Exhibit | Curve]:
    """Return a removal curve of scores `(len(counts), n)` and a few of its pictures, made again.

    The arguments are those of `removal_curve`. `label`: what tells it from the other curves of the check.
    """
    units, last = int(places.max()) + 1, len(counts) - 1  # of the whole batch, as in the curve itself
    if len(case) > MOST_EXAMPLES:
        index = list(range(MOST_EXAMPLES))
        imputer = for_examples(imputer, index, case.x)
        case, scores, places = case.select(index), scores[:, index], places[index]
    hidden = [(units - k if keep else k) / units for k in counts]
    hide = imputer.hiding(case.x, case.rng.fork("imputer"))
    found: list[Exhibit | Curve] = []
    for step in sorted({round(k * last / max(most - 1, 1)) for k in range(most)}):
        rows = hide.first(places, counts[step], units, keep).make()
        lines = [(f"answer {score:.3g}",) for score in scores[step].tolist()]
        found.append(exhibit(f"{label}{': ' * bool(label)}{hidden[step]:.0%} hidden", rows, case.x, None, lines))
    return [*found, curve_of(label or "answer", hidden, scores)]
