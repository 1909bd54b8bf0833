"""Where several maps of one question agree: their rank correlations, and the region that most of them point at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..base.attribution import Panel
from ..base.files import finite
from ..base.notes import Place
from ..base.similarity import rank_correlations, ranks
from ..base.view import View
from .card import TrustCard
from .findings import Finding

SHARE = 0.1
"""The share of a map's positions that are its top."""
AGREE, IN_PART = 0.7, 0.4
"""Mean rank correlations from which maps are said to agree, and to agree in part; below they disagree."""


@dataclass(frozen=True, eq=False)
class Agreement:
    r"""How far the maps of a panel agree at the scale they are drawn at, for each example.

    `correlations` `(batch, k, k)`: Spearman's $\rho$ of every pair, NaN for a map that cannot be ranked. `region`
    `(batch, *space)`: the consensus, positions in the top tenth of more than half of the maps that held up; a position
    is in a map's top if its rank is, ties averaged, and its value is positive. It is empty where fewer than two maps
    are left. `left_out`: for each example the maps that are no part of the consensus, and why: constant or NaN, of
    another shape, or failed a hard test. `names` are the maps' in the panel, `views` say in words how each was read.
    `positions`: for each example how many there are, without the padding behind a text.
    With several targets the first axes are `(batch, targets)`, and `left_out` goes through them in order.

        panel = limelight.explain(net, x, ["smooth-grad", "grad-cam", "occlusion"])
        print(panel.agreement().sentence())
    """

    names: tuple[str, ...]
    views: tuple[str, ...]
    correlations: Tensor
    region: Tensor
    left_out: tuple[Mapping[str, str], ...]
    positions: tuple[int, ...]

    def sentence(self, example: Place = 0) -> str:
        """Say for one example which maps agree, how far, and how large the region is."""
        at = self._at(example)
        place = self._place(at)
        left_out = self.left_out[place]
        kept = [name for name in self.names if name not in left_out]
        reasons = "; ".join(f"{name} left out: {why}" for name, why in left_out.items())
        ending = f"; {reasons}" if reasons else ""
        if len(kept) < 2:
            return f"no agreement: {len(kept)} of {len(self.names)} maps can be compared{ending}"
        mean, pair = self.mean(example), self.furthest(example)
        text = f"{len(kept)} maps agree with a rank correlation of {mean:.2f} in the mean"
        if pair is not None and len(kept) > 2:
            text += f", least {pair[0]} and {pair[1]} with {self.correlation(pair, example):.2f}"
        share = self.share(example)
        return f"{text}; most of them have their top tenth in {share:.1%} of the positions{ending}"

    def in_words(self, example: Place = 0) -> str:
        """Say the same to somebody who looks at the picture, on which the region is outlined."""
        at = self._at(example)
        left_out = self.left_out[self._place(at)]
        kept = [name for name in self.names if name not in left_out]
        parts = [f"{name} is left out: {why}." for name, why in left_out.items()]
        if len(kept) < 2:
            return " ".join([f"{len(kept)} of {len(self.names)} maps can be compared, so none is agreed on.", *parts])
        mean, share = self.mean(example), self.share(example)
        opening = f"The {len(kept)} maps {self.word(example)}: their rank correlation is {mean:.2f} in the mean."
        chance = f"about {self.chance(example):.1%} would be by chance"
        most = "both" if len(kept) == 2 else "more than half of them"
        if share:
            is_outlined = self.region[at].ndim == 2  # others have no picture to outline it on
            where = f"the outlined {share:.1%} of the picture" if is_outlined else f"{share:.1%} of the positions"
            region = f"In {where} {most} have their top tenth; {chance}."
        else:
            region = f"Nowhere do {most} have their top tenth; {chance}."
        return " ".join((opening, region, *parts))

    def word(self, example: Place = 0) -> Literal["agree", "agree in part", "disagree", "cannot be compared"]:
        """Judge the mean correlation: see AGREE and IN_PART."""
        mean = self.mean(example)
        if math.isnan(mean):
            return "cannot be compared"
        return "agree" if mean >= AGREE else "agree in part" if mean >= IN_PART else "disagree"

    def chance(self, example: Place = 0) -> float:
        r"""Return the share of positions that the region would have if the $k$ maps had nothing to do with each other.

        $\sum_{j > k/2} \binom{k}{j} s^j (1 - s)^{k-j}$ with $s$ the share of positions in a map's top, a tenth, or
        more where there are few positions: less for maps with few positive values.
        """
        place = self._place(self._at(example))
        k, n = len(self.names) - len(self.left_out[place]), self.positions[place]
        s = (n - math.floor((1 - SHARE) * n)) / n  # ranks above nine tenths of n
        return sum(math.comb(k, j) * s**j * (1 - s) ** (k - j) for j in range(k // 2 + 1, k + 1))

    def share(self, example: Place = 0) -> float:
        """Return the region's share of the positions."""
        at = self._at(example)
        return float(self.region[at].sum()) / self.positions[self._place(at)]

    def mean(self, example: Place = 0) -> float:
        """Return the mean correlation of the pairs that are part of the consensus; NaN without a pair."""
        found = [value for _, value in self._pairs(example)]
        return sum(found) / len(found) if found else math.nan

    def furthest(self, example: Place = 0) -> tuple[str, str] | None:
        """Return the two maps of the consensus that differ most; None without a pair."""
        pairs = self._pairs(example)
        return min(pairs, key=lambda each: each[1])[0] if pairs else None

    def correlation(self, pair: tuple[str, str], example: Place = 0) -> float:
        """Return the rank correlation of two maps by their names; NaN if one cannot be ranked."""
        return float(self.correlations[self._at(example)][self._pair(pair)])

    def region_of(self, example: Place = 0) -> Tensor:
        """Return the consensus `(*space)` of one example."""
        return self.region[self._at(example)]

    def to_dict(self, example: Place = 0) -> dict[str, Any]:
        """Return plain numbers, lists and text for one example; NaN as None."""
        at = self._at(example)
        return {
            "names": list(self.names),
            "views": list(self.views),
            "rank_correlations": finite(self.correlations[at].tolist()),
            "mean": finite(self.mean(example)),
            "word": self.word(example),
            "region_share": self.share(example),
            "left_out": dict(self.left_out[self._place(at)]),
            "sentence": self.sentence(example),
        }

    def _pairs(self, example: Place) -> list[tuple[tuple[str, str], float]]:
        left_out = self.left_out[self._place(self._at(example))]
        kept = [name for name in self.names if name not in left_out]
        pairs = [(a, b) for i, a in enumerate(kept) for b in kept[i + 1 :]]
        return [(pair, self.correlation(pair, example)) for pair in pairs]

    def _pair(self, pair: tuple[str, str]) -> tuple[int, int]:
        return self.names.index(pair[0]), self.names.index(pair[1])

    def _at(self, example: Place) -> tuple[int, ...]:
        """Return the index of an example; a number alone means its first target."""
        at = example if isinstance(example, tuple) else (example,)
        return (*at, *[0] * (self.correlations.ndim - 2 - len(at)))

    def _place(self, at: tuple[int, ...]) -> int:
        """Return the place of an example in `left_out`."""
        place = 0
        for size, index in zip(self.correlations.shape[:-2], at, strict=True):
            place = place * size + index % size
        return place

    def __repr__(self) -> str:
        return f"Agreement({', '.join(self.names)}: {self.sentence()})"


def agreement_of(panel: Panel, findings: Mapping[str, Any], view: View | None = None) -> Agreement:
    """Compare the maps of a panel; see `Agreement`.

    `findings`: a TrustCard, or findings, of maps by their names in the panel. Raises KeyError for other names.
    """
    unknown = [name for name in findings if name not in panel]
    if unknown:
        raise KeyError(f"findings: {', '.join(unknown)} is not in the panel, which has {', '.join(panel)}")
    leading = panel[0].score.shape
    seen = [each.viewed(view).flatten(0, len(leading) - 1).double().cpu() for each in panel.values()]
    maps, fits = of_one_shape(seen)
    space = maps[0].shape[1:]
    # Beyond the tokens of a text there is padding, where all maps are 0.
    texts = panel[0].texts if maps[0].ndim == 2 else ()
    ends: list[int | None] = [None] * len(maps[0])
    if texts:
        ends = [len(text) for text in texts for _ in range(leading[1:].numel())]

    def reason(name: str, seen_as: Tensor, fit: bool, i: int) -> str:
        own = seen_as[i, : ends[i]] if fit else seen_as[i]
        return _reason(own, fit, space) or _failure(findings.get(name, ()), i)

    known = list(zip(panel, seen, fits, strict=True))
    left_out = [{name: why for name, at, fit in known if (why := reason(name, at, fit, i))} for i in range(len(ends))]
    counted = torch.tensor([[name not in out for out in left_out] for name in panel])
    region = torch.zeros((len(ends), *space), dtype=torch.bool)
    correlations = torch.empty(len(ends), len(maps), len(maps), dtype=torch.float64)
    for end in dict.fromkeys(ends):
        rows = [i for i, own in enumerate(ends) if own == end]
        cut = [each[rows][:, :end] for each in maps]
        region[rows, :end] = _agreed(cut, counted[:, rows])
        correlations[rows] = rank_correlations(cut)
    return Agreement(
        tuple(panel),
        tuple((each.view if view is None else view).words(tuple(space)) for each in panel.values()),
        correlations.reshape(*leading, *correlations.shape[1:]),
        region.reshape(*leading, *space),
        tuple(left_out),
        tuple(space.numel() if end is None else end for end in ends),
    )


def _agreed(maps: Sequence[Tensor], counted: Tensor) -> Tensor:
    """Return where more than half of the maps `(n, *space)` that count, `(maps, n)`, have their top share."""
    space = maps[0].shape[1:]
    tops = torch.stack([_top(each) for each in maps])
    votes = (tops & counted.view(*counted.shape, *[1] * len(space))).sum(0)
    count = counted.sum(0).view(-1, *[1] * len(space))
    return (2 * votes > count) & (count > 1)


def of_one_shape(seen: Sequence[Tensor]) -> tuple[list[Tensor], list[bool]]:
    """Return maps `(n, *space)` in the shape that most of them have, NaN for those of another, and which have it."""
    shapes = [each.shape[1:] for each in seen]
    space = max(shapes, key=shapes.count)
    fits = [shape == space for shape in shapes]
    unknown = torch.full((len(seen[0]), *space), torch.nan, dtype=seen[0].dtype)
    return [each if fit else unknown for each, fit in zip(seen, fits, strict=True)], fits


def _top(maps: Tensor) -> Tensor:
    """Mark the positions in the top share of each map `(n, *space)`: by rank, ties averaged, where it is positive."""
    flat = maps.flatten(1)
    marked = (ranks(flat) > (1 - SHARE) * flat.shape[1]) & (flat > 0)
    return marked.reshape(maps.shape)


def _reason(seen: Tensor, fits: bool, space: torch.Size) -> str:
    """Return why a map cannot be compared; empty where it can."""
    if not fits:
        return f"its shape {tuple(seen.shape)} is not that of most maps, {tuple(space)}"
    if bool(seen.isnan().any()):
        return "it holds NaN"
    return "it is constant" if bool((seen == seen.flatten()[0]).all()) else ""


def _failure(found: TrustCard | Iterable[Finding], example: int) -> str:
    """Return which hard tests a map failed for an example; empty if none is known to have failed."""
    findings = found.findings if isinstance(found, TrustCard) else found
    failed = [
        each.name
        for each in findings
        if each.check.kind == "hard" and each.each is not None and not each.value[example].isnan()
        if not bool(each.each[example])
    ]
    return f"it failed {', '.join(failed)}" if failed else ""
